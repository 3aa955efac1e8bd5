"""The row of steps by itself: deadlines, what is raised in a step, and what is skipped because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from comfytunnel import wire
from comfytunnel.doctor import chain as chains
from comfytunnel.doctor.chain import Broken, Chain, Skipped, Words
from comfytunnel.errors import StateError
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code


async def good() -> Words:
    return "fine"


async def hanging() -> Words:
    await asyncio.Event().wait()
    return "never"


def raising(error: Exception) -> Callable[[], Awaitable[Words]]:
    async def check() -> Words:
        raise error

    return check


def last(chain: Chain) -> wire.Check:
    return chain.checks[-1]


async def test_a_step_that_hangs_fails_after_its_deadline_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chains, "STEP_DEADLINE", 0.05)
    chain = Chain()
    await chain.step("one", hanging)
    assert (last(chain).result, last(chain).seconds >= 0.05) == ("fail", True)
    await chain.step("two", good)
    assert last(chain) == wire.Check("two", "pass", last(chain).seconds, "fine")
    assert chain.broken == "one"


async def test_when_the_time_for_all_is_up_the_rest_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "WHOLE_DEADLINE", 0.05)
    chain = Chain()
    await chain.step("one", hanging)
    await chain.step("two", good)
    assert (last(chain).result, "no time" in last(chain).detail) == ("skip", True)


async def test_what_needs_a_broken_step_is_skipped_and_so_is_what_needs_that_one() -> None:
    chain = Chain()
    await chain.step("a", raising(Broken("No.", "Do it.")))
    await chain.step("b", good, "a")
    await chain.step("c", good, "b")
    await chain.step("d", good)
    assert [check.result for check in chain.checks] == ["fail", "skip", "skip", "pass"]
    assert [check.detail for check in chain.checks] == ["No.", "needs a", "needs b", "fine"]
    assert chain.broken == "a"


async def test_what_was_skipped_for_a_reason_of_its_own_breaks_nothing() -> None:
    chain = Chain()
    await chain.step("a", raising(Skipped("Not now.", "Later.")))
    await chain.step("b", good, "a")
    assert [check.result for check in chain.checks] == ["skip", "pass"]
    assert chain.checks[0].hint == "Later."
    assert chain.broken is None


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (LinkError(Cause(Code.AUTH_DENIED, "so.")), "did not accept our key: so.", "identity_file"),
        (StateError("The disk is full.", hint="Free some."), "The disk is full.", "Free some."),
        (OSError(2, "No such file", "/x/key"), "/x/key: No such file.", "identity_file"),
        (ValueError("line 3: what?"), "line 3: what?", "config check"),
        (ArithmeticError("out of the blue"), "ArithmeticError: out of the blue", "host and port"),
    ],
)
async def test_whatever_a_step_raises_is_a_finding_with_a_next_step(
    error: Exception, words: str, hint: str
) -> None:
    chain = Chain()
    await chain.step("a", raising(error))
    assert last(chain).result == "fail"
    assert words in last(chain).detail
    assert hint in last(chain).hint
