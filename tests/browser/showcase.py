"""The pictures of the page in docs/: `python -m tests.browser.showcase`. A whole road with a morning's work on it, seen in both dresses.

What is on them is the demo's: hills that the stand-in paints, outages that were written into the file where the daemon keeps them.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.conftest import launched
from tests.browser.pageworld import ADJUSTED, LANDSCAPE, Looker, PageWorld

DOCS = Path(__file__).parents[2] / "docs"
SIZE = {"width": 1320, "height": 940}
QUALITY = 86
DONE = (
    "desert, noon, no wind",
    "snow, thin air, silence",
    "the sea of fog, early",
    "forest after rain",
    "a cold night, moon over the ridge",
    "dawn, the valley still asleep",
)
SHOWN = "hills at dusk, the first stars, soft light"
WAITING = ("the same at night, clear air", "desert at the last light")
OUTAGES = (
    (21.2, 95, "The connection was lost."),
    (13.4, 2400, "This machine has no route to the host."),
    (12.2, 40, "The connection was lost."),
    (4.1, 310, "The host did not answer in time."),
)
"""Hours ago, seconds, why."""


def outage(hours: float, seconds: float, why: str) -> dict[str, Any]:
    began = datetime.now(UTC) - timedelta(hours=hours)
    return {
        "tunnel": "default",
        "began": began.isoformat(),
        "ended": (began + timedelta(seconds=seconds)).isoformat(),
        "cause": {"code": "connection_lost", "message": why, "hint": ""},
        "detected_by": "question",
        "detect_seconds": 1.0,
        "recover_seconds": seconds - 1,
        "seconds": seconds,
        "attempts": 3,
        "held": 1,
        "lost": 0,
    }


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with PageWorld(Path(folder)) as world, launched() as browser:
            (world.base / "state").mkdir(mode=0o700)
            lines = (json.dumps(outage(*each)) + "\n" for each in OUTAGES)
            (world.base / "state" / "outages.jsonl").write_text("".join(lines))
            world.name_workflow("landscape", LANDSCAPE, ADJUSTED)
            await world.start()
            for scheme in ("light", "dark"):
                async with Looker(world, browser, scheme=scheme, **SIZE) as looker:
                    await show(looker, first=scheme == "light")
                    Image.open(io.BytesIO(await looker.page.screenshot())).save(
                        DOCS / f"page-{scheme}.webp", quality=QUALITY, method=6
                    )


async def show(looker: Looker, *, first: bool) -> None:
    if first:
        for number, prompt in enumerate(DONE):
            await looker.made(prompt, seed=20 + 7 * number)
        await looker.ask_for(SHOWN, seed=3, seconds=13, steps=42)
        for prompt in WAITING:
            await looker.ask_for(prompt)
    await looker.until("document.querySelectorAll('.tile .view.here').length >= 6")
    await looker.page.locator("#running .preview img").wait_for()
    await looker.until(
        f"document.querySelector('#running [role=progressbar]').ariaValueNow > {50 if first else 54}"
    )


if __name__ == "__main__":
    asyncio.run(main())
