"""What is left open is named where it was left; and the tests may run in the background of a shell."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A socket or transport that nobody closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()


def pytest_configure() -> None:
    """A shell without job control lets what it starts in the background ignore Ctrl-C, and so do all programs started from there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
