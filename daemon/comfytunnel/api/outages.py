"""GET /v1/outages: when no link was there that should have been, and why. Reads only."""

from __future__ import annotations

from itertools import islice

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer, read_query
from comfytunnel.api.context import context


async def listing(request: web.Request) -> web.Response:
    """Newest first: those that go on, then those that have ended. `tunnel_not_found` for one that is not configured and never was down."""
    its, asked = context(request), read_query(request.query.items(), wire.OutagesQuery)
    wanted = asked.tunnel
    going_on = [its.tunnels.outage(name) for name in its.tunnels.names()]
    found = [
        outage
        for outage in (*going_on, *reversed(its.outages.all()))
        if outage is not None and wanted in (None, outage.tunnel)
    ]
    if wanted is not None and not found:
        its.tunnels.status(wanted)  # raises, with the names that are known
    return answer(wire.OutageList(list(islice(found, asked.limit))))
