"""Tasks that are ended."""

from __future__ import annotations

import asyncio

import pytest

from comfytunnel import ending


async def test_a_task_that_loses_its_first_cancellation_is_ended_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an `asyncio.timeout` whose own deadline strikes in the same moment may do."""
    monkeypatch.setattr(ending, "CANCEL_AGAIN", 0.05)

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    task = asyncio.create_task(deaf(), name="deaf")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await ending.end([task])
    assert task.done()
    assert "deaf" in capsys.readouterr().out


async def test_a_task_that_failed_keeps_its_error_and_nothing_to_end_is_fine() -> None:
    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await ending.end([task])
    assert isinstance(task.exception(), ValueError)
    await ending.end([])
