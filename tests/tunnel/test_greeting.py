"""The first words of a host, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
import pytest

from comfytunnel.tunnel.dial import Resolver, dial
from comfytunnel.tunnel.greeting import greeting
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Code
from tests.fakes.sshd import Sshd
from tests.tunnel.conftest import service


@asynccontextmanager
async def host_that_says(*parts: bytes, hangs_up: bool = False) -> AsyncIterator[socket.socket]:
    """A connection to a host that says the parts one after the other."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.03)  # or the kernel makes one of them
        if not hangs_up:
            await reader.read()

    async with service(say) as port:
        sock = await dial("127.0.0.1", port, Resolver())
        with sock:
            yield sock


async def test_the_line_is_read_and_left_for_whoever_speaks_ssh_over_the_socket(sshd: Sshd) -> None:
    with await dial("127.0.0.1", sshd.port, Resolver()) as sock:
        assert (await greeting(sock, 5)).startswith("SSH-2.0-OpenSSH")
        key = await asyncssh.get_server_host_key(sock=sock, config=None)
        assert key is not None
        assert key.get_fingerprint() == sshd.host_key_fingerprint


async def test_lines_before_it_and_a_line_in_two_parts_are_waited_for() -> None:
    """RFC 4253, 4.2: the server may send other lines of data before the identification."""
    async with host_that_says(b"Welcome.\r\nSSH", b"-2.0-x y", b"z\r\n\x00\x00") as sock:
        assert await greeting(sock, 5) == "SSH-2.0-x yz"


@pytest.mark.parametrize(
    ("parts", "hangs_up", "code", "words"),
    [
        ([], False, Code.CONNECT_TIMEOUT, "said nothing"),
        ([], True, Code.CONNECT_RESET, "closed the connection"),
        ([b"Not allowed at this time\r\n"], True, Code.CONNECT_RESET, "it says: Not allowed at this time."),
        ([b"HTTP/1.1 400 Bad Request\r\n"], False, Code.PROTOCOL_ERROR, "HTTP/1.1 400"),
        ([b"220 mail ready\r\n"], False, Code.PROTOCOL_ERROR, "220 mail ready"),
        ([b"x" * 5000], False, Code.PROTOCOL_ERROR, "xxx"),
    ],
)
async def test_what_is_no_ssh_server_is_told_apart(
    parts: list[bytes], hangs_up: bool, code: Code, words: str
) -> None:
    async with host_that_says(*parts, hangs_up=hangs_up) as sock:
        with pytest.raises(LinkError) as raised:
            await greeting(sock, 0.3)
        assert raised.value.cause.code is code
        assert words in raised.value.cause.message
        assert len(raised.value.cause.message) < 500
