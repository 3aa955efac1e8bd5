"""The handler of /v1/doctor. What the doctor does is the daemon's business (doctor/); here it is only asked for."""

from __future__ import annotations

import asyncio

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer, read_query
from comfytunnel.api.context import context
from comfytunnel.errors import Error


async def doctor(request: web.Request) -> web.Response:
    """The whole road of one tunnel (`?tunnel=NAME`) or of each, step by step."""
    its, asked = context(request), read_query(request.query.items(), wire.DoctorQuery)
    looking = asyncio.ensure_future(its.doctor(asked.tunnel))
    stopping = asyncio.ensure_future(its.closing.until(bool))
    try:
        await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            raise Error("The daemon is stopping.", hint="Ask again when it runs.", code="not_ready")
        return answer(looking.result())
    finally:
        for task in (looking, stopping):
            task.cancel()
        await asyncio.wait({looking, stopping})
