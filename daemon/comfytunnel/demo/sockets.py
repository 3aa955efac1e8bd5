"""The stand-in's websockets: who is connected under which clientId, and one publisher that sends to them in order.

Good and bad as measured: nothing is replayed, a reader that stops stalls everybody, and an old socket that closes late
takes away the registration of the new one with the same clientId.
"""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from comfytunnel.demo.faults import Faults

FEATURES = {
    "supports_preview_metadata": True,
    "max_upload_size": 100 * 1024 * 1024,
    "extension": {"manager": {"supports_v4": True}},
    "node_replacements": True,
    "assets": False,
}
"""What GET /features answers and the websocket sends back when a client names its own features (measured, 0.33)."""


class Sockets:
    """The audience of one life of the server."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._messages: asyncio.Queue[tuple[str | int, Any, str | None]] = asyncio.Queue()

    def send(self, event: str | int, data: Any, client: str | None = None) -> None:
        """Queue one event for one client, or for all when it is None."""
        self._messages.put_nowait((event, data, client))

    def wants_metadata(self, client: str | None) -> bool:
        return bool(client and self._features.get(client, {}).get("supports_preview_metadata"))

    async def publish(self) -> None:
        """Send what is queued, one after the other, for ever. A client id that cannot be hashed ends it, and the server."""
        while True:
            event, data, client = await self._messages.get()
            if client is None:
                sockets = list(self._sockets.values())
            else:
                sockets = [self._sockets[client]] if client in self._sockets else []
            for socket in sockets:
                if not self._faults.silent_websocket:
                    await _deliver(socket, event, data)

    async def handle(
        self, request: web.Request, status: Callable[[], Any], resume: Callable[[str], str | None]
    ) -> Any:
        """One websocket. `resume` tells which node runs for this client now, if any."""
        if self._faults.take("refuse_websockets"):
            return web.Response(status=500)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self._faults.take("cut_websockets") and request.transport:
            request.transport.close()
            return socket
        client = request.query.get("clientId", "") or uuid.uuid4().hex
        self._sockets[client] = socket
        self._features[client] = {}
        try:
            await _deliver(socket, "status", {"status": status(), "sid": client})
            if (node := resume(client)) is not None and not self._faults.silent_websocket:
                await _deliver(socket, "executing", {"node": node})
            await self._listen(socket, client)
        finally:
            # By name, not by identity: this is the stale-clientId flaw of the real server.
            self._sockets.pop(client, None)
            self._features.pop(client, None)
        return socket

    async def _listen(self, socket: web.WebSocketResponse, client: str) -> None:
        first = True
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                said = json.loads(message.data)
            except ValueError:
                continue  # the real one logs it and goes on
            asked = first and isinstance(said, dict) and said.get("type") == "feature_flags"
            if (
                asked and client in self._sockets
            ):  # by name again: a socket that is deaf gets no answer either
                self._features[client] = said.get("data", {})
                await _deliver(self._sockets[client], "feature_flags", FEATURES)
            first = False


async def _deliver(socket: web.WebSocketResponse, event: str | int, data: Any) -> None:
    """One text frame, or a binary one for a numbered event: u32 type, [u32 length, JSON,] bytes."""
    try:
        if isinstance(event, str):
            await socket.send_json({"type": event, "data": data})
            return
        if isinstance(data, tuple):
            metadata = json.dumps(data[0]).encode()
            data = struct.pack(">I", len(metadata)) + metadata + data[1]
        await socket.send_bytes(struct.pack(">I", event) + data)
    except (aiohttp.ClientError, ConnectionError):
        return  # gone; its handler cleans up
