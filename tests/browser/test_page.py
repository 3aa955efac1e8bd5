"""The page as a person uses it, in a real Chromium, before a real daemon, an SSH server and a ComfyUI stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from comfytunnel import wire
from tests.browser.pageworld import LANDSCAPE, Looker, PageWorld

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
DROP = """
([name, type, text]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name, {type}));
  for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
}
"""


@pytest_asyncio.fixture(loop_scope="module")
async def looker(page_world: PageWorld, chromium: Browser) -> AsyncIterator[Looker]:
    """A fresh profile with the page open. No test may leave an error in the console, or anything that the policy had to stop."""
    async with Looker(page_world, chromium) as looker:
        yield looker
    for job in await page_world.ask(lambda: list(page_world.client.jobs())):
        if job.status in ("queued", "running"):
            await page_world.ask(partial(page_world.client.cancel, job.id))
            await page_world.end_of(job)


async def test_a_form_becomes_a_job_with_progress_and_a_picture(looker: Looker) -> None:
    """With the prompt and the seed behind it, and the file to download, bit for bit."""
    page, world = looker.page, looker.world
    world.name_workflow("slow", looker.slow(1.5), 'title = "Slow landscape"')
    await page.reload()
    await page.get_by_label("Workflow", exact=True).select_option("Slow landscape")
    await page.get_by_label("Positive prompt").fill("the desert at noon")
    await page.get_by_label("Width", exact=True).fill("320")
    await page.get_by_role("button", name="Generate").click()
    running = page.locator("#running .job", has_text="the desert at noon")
    await running.locator(".preview img").wait_for()
    await looker.until("document.querySelector('#running [role=progressbar]')?.ariaValueNow > 30")
    assert "DemoSampler" in await running.inner_text()
    tile = looker.tile("the desert at noon")
    await tile.wait_for()
    await looker.until("document.querySelector('.tile img').naturalWidth === 320")
    await tile.click()
    viewer = page.get_by_role("dialog")
    [job] = [job for job in await looker.jobs() if job.title == "the desert at noon"]
    assert f"Seed\n{job.params['seed']}" in await viewer.inner_text()
    async with page.expect_download() as downloading:
        await viewer.get_by_role("link", name="Download").click()
    got = await (await downloading.value).path()
    assert got.read_bytes() == job.file.read_bytes()


async def test_again_takes_another_seed_and_use_takes_this_one(looker: Looker) -> None:
    page = looker.page
    await looker.made("snow, again and again", seed=41)
    await looker.tile("snow, again and again").click()
    await page.get_by_role("button", name="Again with another seed").click()
    await looker.until("document.querySelectorAll('.tile[data-key]').length >= 2")
    await looker.until_jobs(lambda jobs: [job.title for job in jobs].count("snow, again and again") == 2)
    again, first = [job for job in await looker.jobs() if job.title == "snow, again and again"]
    assert first.params["seed"] == 41
    assert again.params["seed"] != 41
    assert again.params["prompt"] == first.params["prompt"]
    await page.get_by_role("button", name="Use these settings").click()
    assert await page.get_by_role("textbox", name="Seed").input_value() == "41"
    assert await page.get_by_label("Positive prompt").input_value() == "snow, again and again"
    await page.get_by_label("Positive prompt").press("Control+Enter")
    await looker.until_jobs(lambda jobs: jobs[0].params.get("seed") == 41 and jobs[0].status == "succeeded")


async def test_again_of_a_job_whose_graph_was_changed_runs_that_graph(looker: Looker) -> None:
    """And not the workflow that it began as."""
    page, world = looker.page, looker.world
    graph = {
        **LANDSCAPE,
        "2": {**LANDSCAPE["2"], "inputs": {**LANDSCAPE["2"]["inputs"], "changed": "by hand"}},
    }
    made = wire.GeneratedRequest(workflow="landscape", params={"prompt": "by hand"}, changed=True)
    await world.ask(lambda: world.client.submit(graph, generated=made, validate=False))
    await looker.tile("by hand").click()
    await page.get_by_role("button", name="Again with another seed").click()
    await looker.until_jobs(lambda jobs: not jobs[0].workflow and jobs[0].status == "succeeded")
    [again, *_] = await world.ask(lambda: list(world.client.jobs(limit=1)))
    ran = await world.ask(again.workflow)
    assert ran["2"]["inputs"]["changed"] == "by hand"


async def test_while_the_tunnel_is_away_jobs_wait_and_say_why_over_a_reload(looker: Looker) -> None:
    """What was typed and what waits is there again; when the tunnel is back the job runs by itself."""
    page, world = looker.page, looker.world
    await world.remote.unbind()
    world.remote.cut()
    try:
        await page.get_by_role("heading", name="Waiting for the next try").wait_for()
        assert "refused the connection" in await page.locator("#tunnels").inner_text()
        await page.locator("#tunnels .next", has_text="Tries again").wait_for()
        await page.get_by_text("runs by itself").wait_for()
        await page.get_by_label("Positive prompt").fill("a night in which nothing moves")
        await page.get_by_role("button", name="Generate").click()
        row = page.locator("#waiting .line", has_text="a night in which nothing moves")
        await row.get_by_text("refused the connection").wait_for()
        await page.get_by_label("Negative prompt").fill("half a thought")
        await page.reload()
        await row.get_by_text("refused the connection").wait_for()
        assert await page.get_by_label("Negative prompt").input_value() == "half a thought"
    finally:
        await world.remote.rebind()
    await looker.tile("a night in which nothing moves").wait_for()
    await page.get_by_role("heading", name="The tunnel is up").wait_for()
    await page.locator("#outages", has_text="1 outage, ").wait_for()
    assert await page.locator("#outages .gone").count() == 1


async def test_the_queue_can_be_paused_put_in_order_and_thinned(looker: Looker) -> None:
    """By buttons and by dragging; the daemon's own order follows."""
    page = looker.page
    await looker.line_of_four("first things first")
    await page.get_by_role("button", name="Earlier: three").click()
    await looker.order("one", "three", "two", "four")
    await page.get_by_role("button", name="Later: one").click()
    await looker.order("three", "one", "two", "four")
    await page.get_by_role("button", name="Next of all: four").click()
    await looker.order("four", "three", "one", "two")
    await page.locator(".line", has_text="two").drag_to(
        page.locator(".line", has_text="three"), target_position={"x": 90, "y": 4}
    )
    await looker.order("four", "two", "three", "one")
    await page.get_by_role("button", name="Cancel: two").click()
    await looker.order("four", "three", "one")
    await page.get_by_role("button", name="Resume").click()
    await page.locator(".line.given", has_text="ComfyUI has it already").get_by_text("four").wait_for()
    await page.get_by_role("button", name="Cancel first things first").click()
    for prompt in ("one", "three", "four"):
        await looker.tile(prompt).wait_for()
    assert await looker.tile("two").count() == 0


async def test_a_running_job_can_be_cancelled(looker: Looker) -> None:
    page = looker.page
    await looker.endless("for ever")
    await page.get_by_role("button", name="Cancel for ever").click()
    await page.locator("#running .job").wait_for(state="detached")
    await looker.until_jobs(lambda jobs: jobs[0].status == "canceled")
    assert await page.title() == "comfytunnel"


async def test_pictures_and_files_are_taken(looker: Looker) -> None:
    """A picture goes with the job; a workflow from a file runs without a name; what is neither is explained."""
    page = looker.page
    await page.get_by_label("Workflow", exact=True).select_option("repaint")
    await page.locator(".drop input").set_input_files(
        {"name": "../photo.png", "mimeType": "image/png", "buffer": PNG}
    )
    await page.locator(".drop img").wait_for()
    await page.get_by_role("button", name="Generate").click()
    await looker.until_jobs(lambda jobs: jobs[0].workflow == "repaint" and jobs[0].status == "succeeded")
    await page.evaluate(DROP, ["shared.json", "application/json", json.dumps(LANDSCAPE)])
    await page.get_by_text("This tab alone holds it").wait_for()
    await page.get_by_role("button", name="Generate").click()
    await looker.until_jobs(lambda jobs: jobs[0].workflow is None and jobs[0].status == "succeeded")
    looker.expected = ("422",)
    await page.evaluate(DROP, ["ui.json", "application/json", '{"nodes": [], "links": []}'])
    await page.get_by_text("ui.json: ").wait_for()
    await page.evaluate(DROP, ["notes.txt", "text/plain", "hello"])
    await page.get_by_text("notes.txt is no workflow").wait_for()


async def test_all_of_it_can_be_done_from_the_keyboard(looker: Looker) -> None:
    """Every stop shows where the focus is; the way to the form is short; a dialog gives the focus back."""
    page = looker.page
    await looker.made("fog over the sea")
    await page.keyboard.press("Tab")
    assert await looker.focused() == "Skip to the form"
    await page.keyboard.press("Enter")
    stops = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        stops.append(await looker.focused())
        assert await looker.outlined(), stops[-1]
        if stops[-1].startswith("Open: fog over the sea"):
            break
    for name in (
        "Workflow",
        "Positive prompt",
        "Negative prompt",
        "Seed",
        "Width",
        "Height",
        "Steps",
        "More settings",
        "Generate",
    ):
        assert name in stops
    await page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="fog over the sea")
    await viewer.wait_for()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Escape")
    await viewer.wait_for(state="hidden")
    assert (await looker.focused()).startswith("Open: fog over the sea")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_without_scrolling_sideways(
    page_world: PageWorld, chromium: Browser, scheme: str
) -> None:
    """At 360 pixels, in both dresses, with words that can be read on their ground (WCAG AA) and buttons for a thumb."""
    async with Looker(page_world, chromium, width=360, height=740, scheme=scheme) as looker:
        await looker.made("a very long prompt without any end " * 12 + "x" * 400)
        for view in ("page", "viewer"):
            if view == "viewer":
                await looker.page.locator(".tile button").first.click()
                await looker.page.get_by_role("dialog").wait_for()
            assert await looker.page.evaluate("document.documentElement.scrollWidth") <= 360
            wide = "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 361 && !e.closest('.unseen, pre')).map(e => e.outerHTML.slice(0, 90))"
            assert await looker.page.evaluate(wide) == []
        assert await looker.faint() == []


async def test_the_daemon_may_restart_and_ask_for_a_token(looker: Looker) -> None:
    """The page says so, goes on by itself, asks for the token once, and shows pictures that <img> could not have fetched."""
    page, world = looker.page, looker.world
    looker.expected = (
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "ERR_CONNECTION_RESET",
        "status of 401",
        "ERR_EMPTY_RESPONSE",
    )
    await looker.made("dawn, before the token")
    await world.kill()
    await page.get_by_role("heading", name="The daemon is away").wait_for()
    assert await page.get_by_role("button", name="Generate").is_disabled()
    world.token = "sesame"
    world.write_config()
    await world.start()
    try:
        dialog = page.get_by_role("dialog", name="The token, please")
        await dialog.get_by_label("Token").fill("open says me")
        await dialog.get_by_label("Token").press("Enter")
        await dialog.get_by_text("That is not the token").wait_for()
        await dialog.get_by_label("Token").fill("sesame")
        await dialog.get_by_role("button", name="Open").click()
        await page.get_by_role("heading", name="The tunnel is up").wait_for()
        await page.reload()  # it is kept for this tab
        await looker.tile("dawn, before the token").wait_for()
        await looker.until(
            "document.querySelector('.tile img')?.src.startsWith('blob:') && document.querySelector('.tile img').naturalWidth > 0"
        )
        await looker.ask_for("dusk, with the token")
        await looker.tile("dusk, with the token").wait_for()
        assert await page.evaluate("localStorage.getItem('comfytunnel.token')") is None
    finally:
        world.token = ""
        world.write_config()
        await world.ask(world.client.reload)


async def test_a_job_of_the_command_line_shows_what_stands_in_its_workflow(looker: Looker) -> None:
    """And can be run again, by its graph."""
    job = await looker.world.submit(LANDSCAPE)
    await looker.tile(f"Job {job.id[:8]}").click()
    viewer = looker.page.get_by_role("dialog")
    await viewer.locator("dd.seed", has_text="7").wait_for()
    await viewer.get_by_text("hills at dusk, the first stars").wait_for()
    await viewer.get_by_text("Workflow as it was submitted").click()
    await viewer.locator("pre", has_text='"class_type": "DemoSampler"').wait_for()
    await viewer.get_by_role("button", name="Again with another seed").click()
    await looker.until_jobs(lambda jobs: jobs[0].status == "succeeded" and jobs[0].params.get("seed", 7) != 7)


async def test_the_viewer_tells_how_long_each_node_took(looker: Looker) -> None:
    """In the order in which they ran, with steps; what came from the cache is counted only."""
    page = looker.page
    looker.world.name_workflow("slow", looker.slow(0.6), 'title = "Slow landscape"')
    await looker.ask_for("how long, and for what", workflow="slow", seed=5)
    await looker.tile("how long, and for what").click()
    viewer = page.get_by_role("dialog")
    await viewer.get_by_text("How long each node took").click()
    await viewer.locator(".times li", has_text="DemoSampler").get_by_text("30 steps").wait_for()
    names = await viewer.locator(".times .what").all_inner_texts()
    assert names[-2:] == ["DemoSampler", "SaveImage"]
    widths = await page.evaluate("[...document.querySelectorAll('.times .bar span')].map(e => e.offsetWidth)")
    assert max(widths) == widths[-2] > 100


async def test_two_pages_see_the_same(looker: Looker, page_world: PageWorld, chromium: Browser) -> None:
    async with Looker(page_world, chromium) as other:
        await other.ask_for("seen from both sides")
        await asyncio.gather(*(each.tile("seen from both sides").wait_for() for each in (looker, other)))
