"""One caller as aiohttp serves it, on the socket and on the port: what is no HTTP never reaches the application, and is answered here.

Who may call and what there is to ask is none of this file's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from aiohttp import web

from comfytunnel import __version__, wire
from comfytunnel.api.answers import refusal
from comfytunnel.api.arriving import SILENCE, Arriving
from comfytunnel.errors import UsageError

IDLE = 75.0  # seconds after which a connection that asks nothing is closed


class Connection(Arriving):
    """`server`: that of the runner which is to end it. `silence`: as in arriving.py."""

    __slots__ = ()
    beside: ClassVar[Mapping[str, str]] = {}
    """Headers of the answers that are given here."""

    def __init__(self, server: web.Server, silence: float = SILENCE) -> None:
        self.silence, self.deadline = silence, None
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # off, as web.AppRunner passes it
            keepalive_timeout=IDLE,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The same envelope as everything else, and no traceback in the log: the fault is the caller's."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        answer = refusal(UsageError("The request cannot be read as HTTP.", code="bad_request"))
        answer.headers.update({"Server": f"{wire.SERVER}{__version__}", **self.beside})
        answer.force_close()
        return answer
