"""What a host says first: the identification line of an SSH server, read without taking it from whoever speaks SSH over the socket then.

For `doctor`, which tells a silent host and one that speaks something else from one that fails later.
"""

from __future__ import annotations

import asyncio
import socket

from comfytunnel.tunnel.dial import hung_up
from comfytunnel.tunnel.link import TEXT_LIMIT, LinkError
from comfytunnel.tunnel.state import Cause, Code

_LIMIT = 4096  # bytes before the end of the identification line; RFC 4253, 4.2, allows lines before it
_PAUSE = (
    0.02  # seconds between two looks at a line that has begun: it stays unread, so no event tells of more
)


async def greeting(sock: socket.socket, deadline: float) -> str:
    """The identification line of an SSH server ("SSH-2.0-..."), left unread in the socket; `deadline` in seconds.

    Raises LinkError when the host says nothing or something else, or closes before.
    """
    seen = b""
    try:
        async with asyncio.timeout(deadline):
            while True:
                seen = await _peek(sock)
                lines = seen.split(b"\n")[:-1]
                if found := next((line for line in lines if line.startswith(b"SSH-")), None):
                    return _shown(found)
                if not seen or hung_up(sock):
                    raise LinkError(Cause(Code.CONNECT_RESET, f"it says: {_shown(seen)}." if seen else ""))
                if len(seen) >= _LIMIT or _strange(seen):
                    raise LinkError(Cause(Code.PROTOCOL_ERROR, f"it says: {_shown(seen)}."))
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        silent = f"it accepted the connection and then said nothing for {deadline:.0f} s."
        raise LinkError(
            Cause(Code.PROTOCOL_ERROR, f"it says: {_shown(seen)}.")
            if seen
            else Cause(Code.CONNECT_TIMEOUT, silent)
        ) from None


async def _peek(sock: socket.socket) -> bytes:
    """What has come so far, unread; nothing at the end. Waits for the first byte."""
    while True:
        try:
            return sock.recv(_LIMIT, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(sock)
        except OSError as error:
            raise LinkError(Cause(Code.CONNECT_RESET, f"{error.strerror}.")) from error


def _shown(said: bytes) -> str:
    """The first line of it; whoever shows it to a person makes it printable."""
    return said.split(b"\n")[0].decode("utf-8", "replace").strip()[:TEXT_LIMIT]


def _strange(seen: bytes) -> bool:
    """Whether no server that speaks SSH begins so: HTTP and TLS answer thus to what is not theirs."""
    return seen.startswith((b"HTTP/", b"\x15\x03"))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
