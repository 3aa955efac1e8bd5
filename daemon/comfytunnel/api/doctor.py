"""The handler of /v1/doctor. What the doctor does is the daemon's business (doctor/); here it is only asked for."""

from __future__ import annotations

from aiohttp import web

from comfytunnel.api.answers import answer
from comfytunnel.api.context import context


async def doctor(request: web.Request) -> web.Response:
    """The whole road of one tunnel (`?tunnel=NAME`) or of each, step by step."""
    return answer(await context(request).doctor(request.query.get("tunnel")))
