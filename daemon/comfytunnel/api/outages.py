"""GET /v1/outages: when no link was there that should have been, and why. Reads only."""

from __future__ import annotations

from itertools import islice

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer
from comfytunnel.api.context import context
from comfytunnel.errors import UsageError

MOST = 1000
USUAL = 100
"""Outages in an answer: at most, and unless `limit` says otherwise."""


async def listing(request: web.Request) -> web.Response:
    """Newest first: those that go on, then those that have ended. `tunnel_not_found` for one that is not configured and never was down."""
    its, query = context(request), request.query
    unknown = sorted(set(query) - {"tunnel", "limit"})
    if unknown:
        raise UsageError(
            f"The list of outages knows no parameter {unknown[0]!r}.", hint="It takes tunnel, limit."
        )
    wanted, limit = query.get("tunnel"), _limit(query.get("limit"))
    going_on = [its.tunnels.outage(name) for name in its.tunnels.names()]
    found = [
        outage
        for outage in (*going_on, *reversed(its.outages.all()))
        if outage is not None and wanted in (None, outage.tunnel)
    ]
    if wanted is not None and not found:
        its.tunnels.status(wanted)  # raises, with the names that are known
    return answer(wire.OutageList(list(islice(found, limit))))


def _limit(given: str | None) -> int:
    if given is None:
        return USUAL
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(MOST)) and 1 <= int(given) <= MOST):
        raise UsageError(f"limit is {given!r}, and must be a number from 1 to {MOST}.")
    return int(given)
