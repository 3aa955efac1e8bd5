"""A whole road with the page at its end: far side, daemon with [web], a workflow by name that paints. For the tests and for the pictures of the README."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from comfytunnel.wire import Job
from tests.app.world import World
from tests.fakes.sshd import free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator

PATIENCE = 12_000  # ms for anything that a test waits for
GENERATE = """
async ([asked, token]) => {
  const headers = {"Content-Type": "application/json", ...(token ? {Authorization: `Bearer ${token}`} : {})};
  const answer = await fetch("/api/generate", {method: "POST", headers, body: JSON.stringify(asked)});
  if (answer.status !== 202 && answer.status !== 200) throw new Error(await answer.text());
}
"""
FAINT = """
() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const over = (colour, ground) => { canvas.fillStyle = `rgb(${ground.slice(0, 3).join(" ")})`; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => { for (let e = element; e; e = e.parentElement) { const found = rgb(getComputedStyle(e).backgroundColor); if (found[3] > 250) return found; } return [255, 255, 255]; };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const hint = element.placeholder && !element.value;
    const words = hint || [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!words || !element.checkVisibility({opacityProperty: true, visibilityProperty: true}) || element.closest(".unseen, .skip, :disabled")) continue;
    const style = getComputedStyle(element, hint ? "::placeholder" : null);
    const behind = ground(element);
    const [one, other] = [light(over(style.color, behind)), light(behind)].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 18.66;
    const ratio = (one + .05) / (other + .05);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${element.className || element.tagName} ${(element.placeholder || element.textContent).slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""

LANDSCAPE: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 0},
    },
    "2": {
        "class_type": "DemoSampler",
        "inputs": {
            "image": ["1", 0],
            "positive": "hills at dusk, the first stars, soft light",
            "negative": "text, people",
            "seed": 7,
            "steps": 12,
            "seconds": 0.0,
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "landscape"}},
}
ADJUSTED = """title = "Landscape"
description = "Hills, air and light."

[parameters.steps]
max = 60

[parameters.seconds]
target = "2.seconds"
hidden = true
"""
REPAINT: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Photo"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "negative"}},
}


class PageWorld(World):
    """`async with PageWorld(folder) as world: await world.start()`; the page is at `url`."""

    def __init__(self, base: Path, token: str = "") -> None:
        super().__init__(base)
        self.web = free_port()
        self.token = token

    @property
    def url(self) -> str:
        return f"http://localhost:{self.web}/"

    def config_text(self, **over: object) -> str:
        token = f'token = "{self.token}"\n' if self.token else ""
        return f'{super().config_text(**over)}\n[web]\nlisten = "localhost:{self.web}"\n{token}'

    def name_workflow(self, name: str, graph: dict[str, Any], adjusted: str = "") -> None:
        """As `comfytunnel workflow add` leaves it."""
        folder = self.base / "workflows"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(graph))
        if adjusted:
            (folder / f"{name}.toml").write_text(adjusted)


@dataclass(frozen=True)
class Seen:
    """A job, as a test wants to see it."""

    title: str
    status: str
    workflow: str | None
    params: dict[str, Any]
    files: list[Path]

    @property
    def file(self) -> Path:
        return self.files[0]


class Looker:
    """Somebody with the page open. Leaving fails if the console holds an error that is not `expected`, or the policy had to stop anything."""

    def __init__(
        self,
        world: PageWorld,
        browser: Browser,
        *,
        width: int = 1280,
        height: int = 860,
        scheme: str = "light",
    ) -> None:
        self.world = world
        self.expected: tuple[str, ...] = ()
        self._browser = browser
        self._look: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
        self._wrong: list[str] = []

    async def __aenter__(self) -> Self:
        self._context = await self._browser.new_context(**self._look, reduced_motion="reduce")
        self._context.set_default_timeout(PATIENCE)
        self.page = await self._context.new_page()
        self.page.on("pageerror", lambda error: self._wrong.append(str(error)))
        self.page.on(
            "console",
            lambda said: self._wrong.append(said.text) if said.type in ("error", "warning") else None,
        )
        await self.page.goto(self.world.url)
        await self.page.get_by_role("heading", name="The tunnel is up").wait_for()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is not None:
            print(self._wrong, await self.page.locator("body").inner_text())
        await self._context.close()
        wrong = [text for text in self._wrong if not any(each in text for each in self.expected)]
        assert error is not None or not wrong, wrong

    # --- doing ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def slow(seconds: float) -> dict[str, Any]:
        """The landscape in so many seconds; it is cancelled between two steps."""
        inputs = {**LANDSCAPE["2"]["inputs"], "seconds": seconds, "steps": 30 if seconds < 50 else 5000}
        return {**LANDSCAPE, "2": {**LANDSCAPE["2"], "inputs": inputs}}

    async def ask_for(self, prompt: str, workflow: str = "landscape", **params: Any) -> None:
        """By the page's own origin, as a program would."""
        asked = {"workflow": workflow, "params": {"prompt": prompt, **params}}
        await self.page.evaluate(GENERATE, [asked, self.world.token])

    async def endless(self, prompt: str) -> None:
        """A job that runs until it is cancelled."""
        self.world.name_workflow("endless", self.slow(500), 'title = "Endless"')
        await self.ask_for(prompt, workflow="endless")
        await self.page.locator("#running .job", has_text=prompt).wait_for()

    async def line_of_four(self, running: str) -> None:
        """Jobs one, two, three and four wait in a paused queue behind one that runs."""
        await self.endless(running)
        await self.page.get_by_role("button", name="Pause").click()
        await self.page.get_by_text("Paused: nothing more is given").wait_for()
        for prompt in ("one", "two", "three", "four"):
            await self.ask_for(prompt)
        await self.order("one", "two", "three", "four")

    async def made(self, prompt: str, **params: Any) -> None:
        """A picture that is in the gallery."""
        await self.ask_for(prompt, **params)
        await self.tile(prompt[:60]).wait_for()

    # --- seeing ---------------------------------------------------------------------------------------------------------

    def tile(self, title: str) -> Locator:
        return self.page.locator(".tile button", has_text=title).first

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true. Not wait_for_function: that wants eval, which the policy forbids."""
        async with asyncio.timeout(PATIENCE / 1000):
            while not await self.page.evaluate(expression):  # noqa: ASYNC110 (the browser is another process)
                await asyncio.sleep(0.03)

    async def jobs(self) -> list[Seen]:
        """Newest first."""
        found = await self.world.ask(lambda: list(self.world.client.jobs()))
        return [_seen(job) for job in found]

    async def until_jobs(self, wanted: Callable[[list[Seen]], bool]) -> None:
        async with asyncio.timeout(PATIENCE / 1000):
            while not wanted(await self.jobs()):  # noqa: ASYNC110 (the daemon is another process)
                await asyncio.sleep(0.03)

    async def order(self, *titles: str) -> None:
        """Wait until the page shows the line so, and the daemon has it so."""
        await self.until(
            f"JSON.stringify([...document.querySelectorAll('.line h3')].map(e => e.textContent)) === {json.dumps(json.dumps(titles, separators=(',', ':')))}"
        )
        waiting = await self.world.ask(lambda: list(self.world.client.jobs(status="queued")))
        waiting.sort(key=lambda job: job.queue_position or 0)
        assert [_seen(job).title for job in waiting] == list(titles)

    async def focused(self) -> str:
        """The name of what has the focus."""
        return str(
            await self.page.evaluate(
                "(e => (e.ariaLabel || e.labels?.[0]?.textContent || e.textContent).trim())(document.activeElement)"
            )
        )

    async def outlined(self) -> bool:
        """Whether one sees where the focus is: on the element, or on the label that stands for it."""
        return bool(
            await self.page.evaluate(
                "[document.activeElement, ...(document.activeElement.labels ?? [])].some(e => getComputedStyle(e).outlineStyle === 'solid' && parseFloat(getComputedStyle(e).outlineWidth) >= 2)"
            )
        )

    async def faint(self) -> list[str]:
        """Words with less contrast to what is behind them than WCAG AA wants (4.5:1; 3:1 for large ones)."""
        found: list[str] = await self.page.evaluate(FAINT)
        return found


def _seen(job: Job) -> Seen:
    extra = job.comfytunnel
    generated = extra.generated if extra else None
    params = generated.params if generated else {}
    files = [Path(output.comfytunnel.path) for output in job.outputs if output.comfytunnel]
    return Seen(params.get("prompt", ""), job.status, generated.workflow if generated else "", params, files)
