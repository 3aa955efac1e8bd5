"""A small ComfyUI stand-in for `comfytunnel demo` and for the tests; also a program of its own.

It behaves like a real 0.33 as far as we rely on it (tests/contract holds the two side by side), good and bad. Each start is a
new process: queue, history and number are empty and temp/ is wiped, while input/ and output/ below `base` stay. What goes
wrong on purpose is switched on in `faults`. `python -m comfytunnel.demo.comfyui --port N --base DIR` runs it by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from comfytunnel.demo.engine import Engine
from comfytunnel.demo.faults import Faults
from comfytunnel.demo.folders import Folders
from comfytunnel.demo.life import Life
from comfytunnel.feed import Feed


class ComfyUI:
    """The stand-in. `executions`, `prompts_received`, `uploads` (paths below `base`) and `views` (the Range of each GET /view, or "") count over restarts; everything else dies with
    the process."""

    def __init__(self, base: Path, *, version: str = "0.33.0") -> None:
        self.base = base.absolute()
        self.version = version
        self.faults = Faults()
        self.executions: list[str] = []
        self.views: list[str] = []
        self.prompts_received = 0
        self.uploads: list[str] = []
        self.port = 0
        self._host = ""
        self._folders = Folders(self.base)
        self._life: Life | None = None
        self._changes = Feed(0)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def engine(self) -> Engine:
        """Queue and history of the process that runs now; raises RuntimeError when none does."""
        if self._life is None:
            raise RuntimeError("the stand-in is not running: call start() first")
        return self._life.engine

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Begin a new process: empty queue and history, number 0, temp/ wiped. Returns the bound port (0: any free one)."""
        if self._life is not None:
            raise RuntimeError("the stand-in runs already: call stop() or restart()")
        shutil.rmtree(self.base / "temp", ignore_errors=True)
        for name in ("input", "output", "temp"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._host = host
        life = Life(
            self._folders,
            self.faults,
            version=self.version,
            started=self.executions.append,
            posted=self._count,
            uploaded=self.uploads.append,
            viewed=self.views.append,
            changed=self._poke,
        )
        try:
            self.port = await life.begin(host, port)
        except BaseException:  # the port is taken, or we are cancelled: nothing may be left half alive
            await life.end()
            raise
        self._life = life
        return self.port

    async def stop(self) -> None:
        """End the process as a kill does: connections are closed, a running job is gone. The port is free afterwards."""
        life, self._life = self._life, None
        if life is not None:
            await life.end()

    async def restart(self) -> None:
        """A new process on the same port."""
        await self.stop()
        await self.start(self._host or "127.0.0.1", self.port)

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait until `wanted` holds; looked at whenever queue, history, executions or prompts_received change.

        The caller sets the deadline, for example: `await comfyui.until(lambda: prompt_id in comfyui.engine.history)`.
        """
        await self._changes.until(lambda _: wanted())

    def _count(self) -> None:
        self.prompts_received += 1
        self._poke()

    def _poke(self) -> None:
        self._changes.set(self._changes.value + 1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()


async def _serve(host: str, port: int, base: Path, version: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    comfyui = ComfyUI(base, version=version)
    await comfyui.start(host, port)
    print(f"listening on {comfyui.url}", flush=True)
    await stop.wait()
    await comfyui.stop()


def main() -> None:
    """Run the stand-in in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m comfytunnel.demo.comfyui", description="A ComfyUI stand-in."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--base", type=Path, required=True, help="folder for input/, output/ and temp/")
    parser.add_argument("--version", default="0.33.0", help="the ComfyUI version to play")
    given = parser.parse_args()
    asyncio.run(_serve(given.host, given.port, given.base, given.version))


if __name__ == "__main__":
    main()
