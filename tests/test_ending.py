"""Tasks that are ended."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import cast

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


@pytest.mark.parametrize("turns", range(5))
async def test_whoever_was_accepted_when_a_listener_ends_has_been_met(turns: int) -> None:
    """Else nobody closes its socket, and who has called waits for ever, or until the memory is taken back."""
    met: list[asyncio.Transport] = []

    class Meets(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            met.append(cast(asyncio.Transport, transport))

    server = await asyncio.get_running_loop().create_server(Meets, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    with socket.socket() as caller, socket.socket() as late:
        caller.connect(where)
        for _ in range(turns):
            await asyncio.sleep(0)
        await ending.end_accepting(server)
        assert len(met) == (turns > 1)  # before, it was not accepted yet, and goes with the listener
        with pytest.raises(ConnectionRefusedError):
            late.connect(where)
        for transport in met:
            transport.abort()
        await asyncio.sleep(0)
    gc.collect()  # a socket that is forgotten is a warning then, and warnings are errors
