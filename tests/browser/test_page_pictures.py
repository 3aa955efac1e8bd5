"""How much of its pictures the page holds: it may be open for a day before a gallery of thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pageworld import LANDSCAPE, Looker
from tests.browser.test_page import looker as looker  # the fixture

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIDE = 640
TILES = 220
COUNTED = """
window.blobs = new Map();
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = blob => { const url = createObjectURL.call(URL, blob); blobs.set(url, blob.size); return url; };
URL.revokeObjectURL = url => { blobs.delete(url); revokeObjectURL.call(URL, url); };
const { fetch } = window;
window.fetch = (path, how) => fetch.call(window, String(path).replace(/%3F\\d+/, ""), how);  // all tiles are of one file
"""
TILED = """
async ([many, token]) => {
  const { model, putJobs } = await import("/page/model.js");
  const { setToken } = await import("/page/api.js");
  setToken(token);
  const one = [...model.jobs.values()].find(job => job.status === "succeeded" && job.outputs.length);
  const other = at => ({ ...one, id: `job ${at}`, outputs: one.outputs.map(output => ({ ...output, id: `${output.id}?${at}` })) });
  putJobs(Array.from({ length: many }, (_, at) => other(at)));
}
"""
HELD = "() => ({ many: blobs.size, bytes: [...blobs.values()].reduce((sum, each) => sum + each, 0), shown: document.querySelectorAll('.tile img[src]').length })"
ALL_HERE = """
[...document.querySelectorAll(".tile .view")].filter(view => { const box = view.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; })
  .every(view => view.classList.contains("here"))
"""


async def held(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = await page.evaluate(HELD)
    return found


@pytest.mark.parametrize("token", ["", "any"], ids=["open", "with a token"])
async def test_a_long_gallery_holds_small_pictures_and_few_of_them(looker: Looker, token: str) -> None:
    """Whoever scrolls through all of it sees every one, and what has gone by is given back; up again they are there again."""
    page = looker.page
    large = {**LANDSCAPE, "1": {"class_type": "EmptyImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1, "color": 0}}}  # fmt: skip
    looker.world.name_workflow("large", large)
    await page.add_init_script(COUNTED)
    await page.reload()
    prompt = f"one of very many, {token or 'open'}"
    await looker.ask_for(prompt, workflow="large")
    await looker.until_jobs(lambda jobs: jobs[0].title == prompt and jobs[0].status == "succeeded")
    await looker.tile(prompt).wait_for()
    whole = (await looker.jobs())[0].file.stat().st_size
    await page.evaluate(TILED, [TILES, token])
    await looker.until(f"document.querySelectorAll('.tile').length > {TILES}")
    height = await page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, height, 800):
        await page.evaluate("top => scrollTo(0, top)", top)
        await looker.until(ALL_HERE)
    now = await held(page)
    assert now["many"] <= 202
    assert now["bytes"] < 202 * whole / 2
    assert now["shown"] < 100
    await page.evaluate("scrollTo(0, 0)")
    await looker.until(ALL_HERE)
    assert await page.evaluate("document.querySelector('.tile img').naturalWidth") == 440
    if not token:
        return  # the viewer shows the files themselves then
    await page.locator(".tile button").first.click()
    for _ in range(12):
        await looker.until(f"document.querySelector('.stage img')?.naturalWidth === {SIDE}")
        await page.keyboard.press("ArrowRight")
    later = await held(page)
    assert later["bytes"] < now["bytes"] + 4 * whole
