"""What is left open is named where it was left: the garbage of each file is collected at its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A socket or transport that nobody closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()
