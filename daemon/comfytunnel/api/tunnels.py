"""Handlers of /v1 but for its stream: the daemon's status, its tunnels, health, readiness, reload."""

from __future__ import annotations

import os

from aiohttp import web

from comfytunnel import __version__, wire
from comfytunnel.api import queue
from comfytunnel.api.answers import answer, read_json
from comfytunnel.api.arriving import arriving
from comfytunnel.api.context import Context, context
from comfytunnel.errors import Error


async def status(request: web.Request) -> web.Response:
    return answer(await snapshot(context(request)))


async def snapshot(its: Context) -> wire.Status:
    """Return the whole state of the daemon at this moment."""
    return wire.Status(
        version=__version__,
        pid=os.getpid(),
        started_at=its.started_at,
        config=its.config,
        cause=its.tunnels.cause(),
        tunnels=all_tunnels(its),
        jobs=wire.JobCounts(
            **{status.value: number for status, number in (await its.store.counts()).items()}
        ),
        queue=await queue.state(its),
        web=its.web(),
    )


def all_tunnels(its: Context) -> dict[str, wire.Tunnel]:
    return {name: its.tunnels.status(name) for name in its.tunnels.names()}


async def listing(request: web.Request) -> web.Response:
    return answer(all_tunnels(context(request)))


async def show(request: web.Request) -> web.Response:
    return answer(context(request).tunnels.status(request.match_info["name"]))


async def up(request: web.Request) -> web.Response:
    await context(request).tunnels.up(request.match_info["name"])
    return await show(request)


async def down(request: web.Request) -> web.Response:
    await context(request).tunnels.down(request.match_info["name"])
    return await show(request)


async def reconnect(request: web.Request) -> web.Response:
    await context(request).tunnels.reconnect(request.match_info["name"])
    return await show(request)


async def trust(request: web.Request) -> web.Response:
    """Without a body nothing is changed. Takes as long as a look at the host does: up to 10 s."""
    asked = (
        await read_json(request, wire.TrustRequest)
        if await arriving(request, request.read())
        else wire.TrustRequest()
    )
    its = context(request)
    return answer(await its.tunnels.trust(request.match_info["name"], asked.fingerprint))


async def health(_request: web.Request) -> web.Response:
    """200 while the loop turns: says nothing about tunnels."""
    return answer(wire.Health("ok", __version__, os.getpid()))


async def ready(request: web.Request) -> web.Response:
    """200 when work could be done now on at least one tunnel; else 503 `not_ready`, with the reason for each in details.why."""
    its = context(request)
    tunnels = all_tunnels(its)
    why = {name: reason for name, tunnel in tunnels.items() if (reason := not_ready(tunnel))}
    if len(why) < len(tunnels):
        return answer(wire.Ready(True, why))
    cause = its.tunnels.cause()
    if cause is not None:
        raise Error(cause.message, hint=cause.hint, code="not_ready", details={"why": why})
    if not tunnels:
        raise Error("No tunnel is configured.", hint="Run: comfytunnel setup 'ssh -p ...'", code="not_ready")
    name, reason = next(iter(why.items()))
    raise Error(
        f"{name}: {reason}", hint="`comfytunnel status` says more.", code="not_ready", details={"why": why}
    )


def not_ready(tunnel: wire.Tunnel) -> str:
    """Return what this tunnel lacks to do work, or "" when it is ready."""
    if tunnel.cause is not None and tunnel.cause.code == "port_in_use":
        return tunnel.cause.message
    if tunnel.phase != "up":
        return f"the link is {tunnel.phase}" + (f": {tunnel.cause.message}" if tunnel.cause else "")
    if tunnel.comfyui.state != "serving":
        return f"ComfyUI is {tunnel.comfyui.state}" + (
            f": {tunnel.comfyui.detail}" if tunnel.comfyui.detail else ""
        )
    return ""


async def reload(request: web.Request) -> web.Response:
    return answer(await context(request).reload())
