"""What is left open is named where it was left; and the tests may run in the background of a shell."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest

from tests import judge


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A socket or transport that nobody closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def judge_at_work() -> Iterator[None]:
    with judge.at_work():
        yield


@pytest.fixture(autouse=True)
def every_answer_fits() -> Iterator[None]:
    """A test fails when an answer of the API that it brought about breaks the contract, whatever it looked at itself."""
    judge.wrongs.clear()
    yield
    assert not judge.wrongs, "\n".join(judge.wrongs)


def pytest_configure() -> None:
    """A shell without job control lets what it starts in the background ignore Ctrl-C, and so do all programs started from there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
