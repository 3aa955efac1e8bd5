"""The ComfyUI stand-in as a part of the rig: a process of its own that obeys the lines it reads and ends with its stdin.

It prints its port as a JSON line. `output BYTES` pads each picture to that size (0: not at all), `ended ID` tells on the monotonic clock,
which all processes share, when that prompt was first known to the history (null: it is not); both answer with a JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from comfytunnel.demo.comfyui import ComfyUI


async def serve(base: Path) -> None:
    ended: dict[str, float] = {}
    async with ComfyUI(base) as comfyui:
        print(json.dumps({"port": comfyui.port}), flush=True)

        async def note() -> None:
            while True:
                await comfyui.until(lambda: len(comfyui.engine.history) > len(ended))
                for prompt in comfyui.engine.history:
                    ended.setdefault(prompt, time.monotonic())

        noting = asyncio.create_task(note())
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            print(json.dumps(obey(comfyui, ended, line.decode().split())), flush=True)
        noting.cancel()


def obey(comfyui: ComfyUI, ended: dict[str, float], words: list[str]) -> dict[str, Any]:
    match words:
        case ["output", size]:
            comfyui.faults.huge_output = int(size)
            return {}
        case ["ended", prompt]:
            return {"ended": ended.get(prompt)}
        case _:
            raise SystemExit(f"no such command: {' '.join(words)}")


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
