"""One call at a time, for the clock: a small GET on a fresh connection, and a download that is checked afterwards.

Plain blocking sockets: they add the same small cost to whatever tunnel is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time

import asyncssh

from bench.rig import CALL_DEADLINE, HEAD_ROOM, SMALL, NotMeasured, Rig

HANDSHAKE_DEADLINE = 15.0  # seconds


def call(port: int, small: tuple[str, bytes] = SMALL, *, deadline: float = 30.0) -> float:
    """Seconds of one small GET on a new TCP connection, up to the last byte of its answer; `small` as in Rig."""
    path, beginning = small
    start = time.perf_counter()
    body, _ = _get(port, path, bytearray(HEAD_ROOM), deadline)
    spent = time.perf_counter() - start
    if not bytes(body).startswith(beginning):
        raise NotMeasured(f"a small call brought {bytes(body)[:80]!r}")
    return spent


def download(port: int, made: Rig, *, deadline: float = CALL_DEADLINE) -> float:
    """Seconds of one GET of /big; length and hash are checked after the clock has stopped."""
    start = time.perf_counter()
    body, length = _get(port, "/big", made.room, deadline)
    spent = time.perf_counter() - start
    if length != made.size or hashlib.sha256(body).hexdigest() != made.digest:
        raise NotMeasured(f"a download brought {length} bytes, wrong or too few of {made.size}")
    return spent


def _get(port: int, path: str, room: bytearray, deadline: float) -> tuple[memoryview, int]:
    """One HTTP GET into `room`; returns the body and its length. OSError or NotMeasured when it fails.

    Ends with the answer's last byte by its Content-Length, as a browser does. The close that follows is no part
    of it: sshd's goes out 40 ms later (Nagle against delayed acknowledgement), which nobody waits for.
    """
    end = time.monotonic() + deadline
    view = memoryview(room)
    have, body, total = 0, 0, len(room)
    with socket.create_connection(("127.0.0.1", port), timeout=deadline) as caller:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        caller.sendall(request.encode())
        while have < total:
            caller.settimeout(max(0.001, end - time.monotonic()))
            size = caller.recv_into(view[have:])
            if not size:
                break
            have += size
            if not body:
                body, total = _head(bytes(view[: min(have, HEAD_ROOM)]), total)
    if not body:
        raise NotMeasured(f"GET {path} brought {bytes(view[: min(have, 80)])!r} and then the end")
    return view[body:have], have - body


def _head(seen: bytes, room: int) -> tuple[int, int]:
    """Where the body begins and ends, or (0, room) while the head is not whole. NotMeasured unless 200."""
    head, whole, _ = seen.partition(b"\r\n\r\n")
    if not whole:
        return 0, room
    status, *fields = head.decode("latin-1").split("\r\n")
    if status.split()[1:2] != ["200"]:
        raise NotMeasured(f"answered with {status!r}")
    lengths = [int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:")]
    body = len(head) + 4
    return body, min(room, body + lengths[0]) if lengths else room


async def handshake(made: Rig) -> float:
    """Seconds from TCP to authenticated with asyncssh alone: what no comfytunnel can do without."""
    start = time.perf_counter()
    async with asyncio.timeout(HANDSHAKE_DEADLINE):
        connection = await asyncssh.connect(
            made.sshd.host,
            made.ssh_port,
            username=made.sshd.user,
            client_keys=[str(made.sshd.client_key)],
            known_hosts=None,
            config=None,
            agent_path=None,
        )
    spent = time.perf_counter() - start
    connection.abort()
    await connection.wait_closed()
    return spent
