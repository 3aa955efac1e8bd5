"""One attempt to deliver a webhook: a POST on a connection of its own, to a web server or to a Unix socket of ours.

The receiver is nobody's friend: redirects are not followed, no cookie is kept, of the answer the head is read and nothing more, and all
of it has one deadline. What the answer means is webhooks.py's.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from comfytunnel import __version__
from comfytunnel.jobs.webhooks import Answer, socket_path
from comfytunnel.peer import peer_uid
from comfytunnel.threads import in_thread

DEADLINE = 20.0
"""Seconds of one attempt, from the name to the head of the answer; the specification says 15 to 30."""
WORDS_MOST = 300  # characters that are kept of what went wrong
FIXED = {"Content-Type": "application/json", "User-Agent": f"comfytunnel/{__version__}"}


async def post(url: str, body: bytes, headers: dict[str, str], *, deadline: float = DEADLINE) -> Answer:
    """Never raises for what the receiver or the road does."""
    path = socket_path(url)
    try:
        if path is not None:
            check_socket(path)
        where = URL(url, encoded=True) if path is None else URL("http://localhost/")
        connector = _OwnSocket(str(path)) if path is not None else aiohttp.TCPConnector(resolver=_Resolver())
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=deadline),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        ) as session:
            response = await session.post(
                where, data=body, headers={**FIXED, **headers}, allow_redirects=False
            )
            response.close()  # whatever its body is
            return _read(response)
    except TimeoutError:
        return Answer(f"no answer within {deadline:g} s")
    except (aiohttp.ClientResponseError, aiohttp.InvalidURL):
        return Answer("what it answers is not HTTP")  # their words hold the whole URL, and the far side's
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer((str(error) or type(error).__name__)[:WORDS_MOST])


def check_socket(path: Path) -> None:
    """OSError unless it is a socket of our own user. A file is looked at here, and the process behind it once we are connected."""
    found = path.stat()
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(f"{path} is not a socket")
    if found.st_uid != os.geteuid():
        raise OSError(f"the socket {path} belongs to another user (uid {found.st_uid})")


def _read(response: aiohttp.ClientResponse) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer("", status)
    why = "; redirects are not followed" if 300 <= status < 400 else ""
    later = response.headers.get("Retry-After", "")
    seconds = float(later) if later.isascii() and later.isdigit() and len(later) < 8 else None
    return Answer(f"HTTP status {status}{why}", status, seconds)


class _OwnSocket(aiohttp.UnixConnector):
    async def _create_connection(self, *given: Any) -> ResponseHandler:
        """The one place of aiohttp between connect() and the first byte; that it is called is tested."""
        protocol = await super()._create_connection(*given)
        assert protocol.transport is not None
        uid = peer_uid(protocol.transport.get_extra_info("socket"))
        if uid != os.geteuid():
            protocol.close()
            raise OSError(f"another user (uid {uid}) listens on {self.path}")
        return protocol


class _Resolver(AbstractResolver):
    """A look-up that hangs must not use up the threads that others need."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await in_thread(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM), "webhook name"
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        return None
