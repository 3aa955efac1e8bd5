"""A far end that ends lets everybody go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from pathlib import Path

import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.relay import Relay
from comfytunnel.demo.remote import Remote
from tests.fakes.sshd import free_port


@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize("far", ["comfyui", "relay", "unbound"])
async def test_a_far_end_that_ends_while_callers_come_leaves_none_of_their_sockets(
    far: str, turns: int, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if far == "comfyui":
            port = (await stack.enter_async_context(ComfyUI(tmp_path))).port
        else:
            relay = Relay()
            port = await relay.start(free_port())
            stack.push_async_callback(relay.stop)
            if far == "unbound":
                stack.push_async_callback(relay.unbind)
        callers = [stack.enter_context(socket.socket()) for _ in range(3)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        for _ in range(turns):  # of the loop: they are accepted, and nobody has been told
            await asyncio.sleep(0)
    gc.collect()  # a socket that is forgotten is a warning then, and warnings are errors


async def test_a_server_that_stops_ends_its_connections_though_the_kernel_has_not_told_it_of_their_end() -> (
    None
):
    """On a busy machine the end of the relay's side is heard of after stop(), and then there is nobody to close them."""
    async with Remote(targets={}, authorized=[]) as remote:
        reader, writer = await asyncio.open_connection("127.0.0.1", remote.port)
        assert (await reader.readline()).startswith(b"SSH-2.0")
        (far,) = (pair.far for pair in remote._relay._pairs.values() if pair)
        held: socket.socket = far.get_extra_info("socket").dup()  # no FIN while there is another descriptor
        writer.close()
        await writer.wait_closed()
    with held, contextlib.suppress(ConnectionResetError):
        while held.recv(65536):  # BlockingIOError if the other end is still open
            pass
