"""The page where somebody is clumsy, quick, hostile, or does not see it: what stands in the way is said, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pageworld import GENERATE, LANDSCAPE, Looker
from tests.browser.test_page import PNG
from tests.browser.test_page import looker as looker  # the fixture

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWO_PHOTOS = {
    **{
        number: {
            "class_type": "LoadImage",
            "inputs": {"image": f"{number}.png"},
            "_meta": {"title": title},
        }
        for number, title in (("1", "<b>Photo</b>"), ("2", "Mask"))
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "one"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "two"}},
}
ODD = """title = "Odd <img src=x onerror=alert(1)>"
description = "<script>alert(1)</script>"
[parameters.cfg]
target = "2.seconds"
label = "Guidance"
max = 3
[parameters.constructor]
target = "3.filename_prefix"
label = "Prefix <i>"
"""
DROP_TWO = """
bytes => {
  const transfer = new DataTransfer();
  for (const name of ["one.png", "two.png"]) transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
}
"""
MANY_TILES = """
async () => {
  const { model, putJobs } = await import("/page/model.js");
  const { setToken } = await import("/page/api.js");
  setToken("any");  // pictures are fetched by script then
  const one = [...model.jobs.values()].find(job => job.status === "succeeded" && job.outputs.length);
  const other = at => ({ ...one, id: `job ${at}`, outputs: one.outputs.map(output => ({ ...output, id: `${output.id}?${at}` })) });
  putJobs(Array.from({ length: 300 }, (_, at) => other(at)));
}
"""


async def choose(looker: Looker, title: str) -> None:
    await looker.page.reload()
    await looker.page.get_by_label("Workflow", exact=True).select_option(title)


async def test_what_is_typed_wrongly_is_led_to_even_where_it_is_folded_away(looker: Looker) -> None:
    """And a parameter may be called like what every object of JavaScript has, a title be markup."""
    page = looker.page
    looker.expected = ("is not focusable",)  # the browser's own words, before the fold opens
    looker.world.name_workflow("odd", LANDSCAPE, ODD)
    await choose(looker, "odd")
    assert await page.get_by_label("Prefix <i>").input_value() == "landscape"
    seed = page.get_by_role("textbox", name="Seed")
    await seed.fill("12 or so")
    await page.get_by_label("Positive prompt").fill("kept all the same")
    await page.reload()
    assert await page.get_by_label("Positive prompt").input_value() == "kept all the same"
    await seed.fill("12")
    more = page.locator(".create summary")
    await more.click()
    await page.get_by_label("Guidance").fill("77")
    await more.click()
    await page.get_by_role("button", name="Generate").click()
    await page.get_by_label("Guidance").wait_for()
    await page.get_by_label("Guidance").fill("0")
    await page.get_by_role("button", name="Generate").click()
    await looker.tile("kept all the same").wait_for()
    assert await page.locator("img[src=x]").count() == 0


async def test_two_pictures_that_are_dropped_fill_two_fields_and_the_job_waits_for_them(
    looker: Looker,
) -> None:
    page = looker.page
    looker.world.name_workflow("photos", TWO_PHOTOS)
    await choose(looker, "photos")
    held = asyncio.Event()

    async def slowly(route: Any) -> None:
        await held.wait()
        await route.continue_()

    await page.route("**/api/v2/assets", slowly)
    await page.evaluate(DROP_TWO, list(PNG))
    await page.get_by_text("Sending one.png").wait_for()
    await page.get_by_role("button", name="Generate").click()
    held.set()
    await looker.until_jobs(
        lambda jobs: bool(jobs) and jobs[0].workflow == "photos" and jobs[0].status == "succeeded"
    )
    assert len((await looker.jobs())[0].params) == 2
    assert await page.locator(".drop .told").all_inner_texts() == ["one.png", "two.png"]


async def test_impatience_makes_one_job(looker: Looker) -> None:
    """Keys that are held down, a second click while the first is on its way."""
    page = looker.page
    prompt = page.get_by_label("Positive prompt")
    await prompt.fill("once")
    await prompt.focus()
    await page.keyboard.down("Control")
    for _ in range(6):
        await page.keyboard.down("Enter")  # again without an up: a repeat
    await page.keyboard.up("Enter")
    await page.keyboard.up("Control")
    await looker.tile("once").wait_for()
    assert [job.title for job in await looker.jobs()].count("once") == 1


async def test_what_is_said_is_seen_above_a_picture_and_read_out_seldom(looker: Looker) -> None:
    """The live region tells of the tunnel and not of each job; what stands outside of an open dialog nobody could read."""
    page = looker.page
    await looker.made("again from the viewer")
    await looker.endless("while it paints")
    await page.get_by_role("button", name="Cancel while it paints").click()
    assert "queue" not in await page.locator("#told").inner_text()
    await looker.tile("again from the viewer").click()
    await page.get_by_role("button", name="Again with another seed").click()
    said = page.get_by_role("dialog").get_by_text("Another one is on its way.")
    await said.wait_for()
    top = "e => { const box = e.getBoundingClientRect(); return e.contains(document.elementFromPoint(box.x + 4, box.y + 4)) }"
    assert await said.evaluate(top)
    await page.get_by_role("button", name="Use these settings").click()
    await page.get_by_text("The form holds its settings now.").wait_for()


async def test_the_focus_stays_on_the_button_that_moves_a_job(looker: Looker) -> None:
    page = looker.page
    await looker.line_of_four("first of all")
    await page.get_by_role("button", name="Earlier: four").focus()
    for order in (
        ("one", "two", "four", "three"),
        ("one", "four", "two", "three"),
        ("four", "one", "two", "three"),
    ):
        await page.keyboard.press("Enter")
        await looker.order(*order)
        assert await looker.focused() == "Earlier: four"
    await page.get_by_role("button", name="Resume").click()


async def test_pictures_are_fetched_when_they_are_about_to_be_seen(looker: Looker) -> None:
    """With a token too, with which <img> cannot fetch them by itself."""
    page = looker.page
    await looker.made("one of many")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/content" in request.url else None)
    looker.expected = ("404",)
    await page.evaluate(MANY_TILES)
    await looker.until("document.querySelectorAll('.tile').length > 300")
    await looker.until("document.querySelectorAll('.tile .view .icon').length > 0")
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert 0 < len(asked) < 60


async def test_three_windows_leave_room_for_calls_and_all_show_the_preview(looker: Looker) -> None:
    """A browser has six connections to one host: one window watches a job for all, and another goes on when it is closed."""
    pages = [looker.page, *[await looker.page.context.new_page() for _ in range(2)]]
    for page in pages[1:]:
        await page.goto(looker.world.url)
    await looker.endless("watched by three")
    for page in pages:
        await page.locator("#running .preview img").wait_for()
    await pages[2].evaluate(
        GENERATE, [{"workflow": "landscape", "params": {"prompt": "asked from the third"}}, ""]
    )
    await pages[2].locator("#waiting .line", has_text="asked from the third").wait_for()
    await pages[0].goto("about:blank")
    bar = pages[1].get_by_role("progressbar", name="Progress of watched by three")
    await bar.wait_for()
    before = await pages[1].locator("#running .step").inner_text()
    await pages[1].locator("#running .step", has_not_text=before).wait_for()
