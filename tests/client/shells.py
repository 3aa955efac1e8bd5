"""Both shells behind one face, so that one test asks both, and a daemon as a process with the far end in a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from comfytunnel import AsyncClient, Client
from tests.app.world import World, workflow
from tests.fakes.sshd import free_port

T = TypeVar("T")
TOKEN = "a-token-of-the-test"


class Shell:
    """`ask` makes one call and returns its result, `some` reads a stream up to what is wanted. `client` and its jobs are Any: two shells, one test."""

    def __init__(self, kind: type[Client] | type[AsyncClient], **where: Any) -> None:
        self.client: Any = kind(**where)
        self.is_async = kind is AsyncClient

    def ask(self, call: Callable[[Any], Any]) -> Any:
        async def awaited() -> Any:
            return await call(self.client)

        return asyncio.run(awaited()) if self.is_async else call(self.client)

    def some(
        self, stream: Callable[[Any], Any], wanted: Callable[[Any], bool] = lambda _: False
    ) -> list[Any]:
        """What comes, up to the first that is wanted, else to the end."""

        async def listed() -> list[Any]:
            found = []
            async with contextlib.aclosing(stream(self.client)) as events:
                async for event in events:
                    found.append(event)
                    if wanted(event):
                        break
            return found

        if self.is_async:
            return asyncio.run(listed())
        found = []
        with contextlib.closing(stream(self.client)) as events:
            for event in events:
                found.append(event)
                if wanted(event):
                    break
        return found


class Site:
    """A World whose far end runs in a thread, for tests that block; `web`: where its API listens on TCP."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop, web: int) -> None:
        self.world = world
        self.web = web
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(25)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A daemon with a named workflow, serving over the socket and over TCP."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder, _loop() as loop:
        world = asyncio.run_coroutine_threadsafe(_made(Path(folder)), loop).result(25)
        web = free_port()
        with world.config.open("a") as config:
            config.write(f'\n[web]\nlisten = "localhost:{web}"\ntoken = "{TOKEN}"\n')
        named = world.base / "workflows"
        named.mkdir()
        (named / "colour.json").write_text(json.dumps(workflow(7)))
        (named / "colour.toml").write_text('[parameters.colour]\ntarget = "1.color"\n')
        at = Site(world, loop, web)
        try:
            at.do(world.start())
            yield at
        finally:
            at.do(world.__aexit__(None, None, None))


async def _made(folder: Path) -> World:
    return await World(folder).__aenter__()


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
