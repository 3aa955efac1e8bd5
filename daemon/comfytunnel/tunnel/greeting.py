"""What a host says first: the identification line of an SSH server, read without taking it from whoever speaks SSH over the socket then.

For `doctor`, which tells a silent host and one that speaks something else from one that fails later.
"""

from __future__ import annotations

import asyncio
import socket

from comfytunnel.tunnel.link import TEXT_LIMIT, LinkError
from comfytunnel.tunnel.state import Cause, Code

_LIMIT = 4096  # bytes before the end of the identification line; RFC 4253, 4.2, allows lines before it
_PAUSE = (
    0.02  # seconds between two looks at a line that has begun: it stays unread, so no event tells of more
)


async def greeting(sock: socket.socket) -> str:
    """The identification line of an SSH server ("SSH-2.0-..."), left unread in the socket. The caller sets the deadline.

    Raises LinkError when the host closes before, or says something else.
    """
    while True:
        try:
            seen = sock.recv(_LIMIT, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(sock)
            continue
        except OSError as error:
            raise LinkError(Cause(Code.CONNECT_RESET, f"{error.strerror}.")) from error
        whole = seen.split(b"\n")[:-1]
        found = next((line for line in whole if line.startswith(b"SSH-")), None)
        if found is not None:
            return found.decode("utf-8", "replace").strip()[:TEXT_LIMIT]
        if not seen:
            raise LinkError(Cause(Code.CONNECT_RESET))
        if len(seen) >= _LIMIT or _strange(seen):
            said = seen[:TEXT_LIMIT].decode("utf-8", "replace").split("\n")[0].strip()
            raise LinkError(Cause(Code.PROTOCOL_ERROR, f"it says {said!r}."))
        await asyncio.sleep(_PAUSE)


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
