"""A workflow that somebody opens out of a file: the form that a named one has, what is typed into it kept for this tab."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pageworld import LANDSCAPE, Looker
from tests.browser.test_page import DROP, PNG
from tests.browser.test_page import looker as looker  # the fixture

if TYPE_CHECKING:
    from playwright.async_api import Locator

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE = 2**63 + 1  # no number of JavaScript
FILED: dict[str, Any] = {
    **LANDSCAPE,
    "2": {
        **LANDSCAPE["2"],
        "inputs": {**LANDSCAPE["2"]["inputs"], "positive": "as in the file", "seed": LARGE},
    },
    "4": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Photo"}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "photo"}},
}
SAVED = {
    "nodes": [
        {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "outputs": [{"type": "IMAGE", "links": [1]}], "widgets_values": [96, 64, 1, 255]},
        {"id": 2, "type": "SaveImage", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "widgets_values": ["saved"]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}  # fmt: skip


def prompt(looker: Looker) -> Locator:
    return looker.page.get_by_label("Positive prompt")


async def opened(looker: Looker, name: str, graph: Any) -> None:
    await looker.page.get_by_label("Open a file").set_input_files(
        {"name": name, "mimeType": "application/json", "buffer": json.dumps(graph).encode()}
    )
    await looker.until(
        f"document.querySelector('#workflow').selectedOptions[0]?.textContent === 'File: {name}'"
    )


async def test_a_workflow_from_a_file_has_the_form_of_a_named_one(looker: Looker) -> None:
    """Prompt, size, seed, picture; what is typed goes with the job and stays over a reload, and another file begins anew."""
    page = looker.page
    await opened(looker, "shared.json", FILED)
    assert await prompt(looker).input_value() == "as in the file"
    await prompt(looker).fill("typed over it")
    await page.get_by_label("Width", exact=True).fill("320")
    await page.get_by_role("textbox", name="Seed").fill("77")
    await page.locator(".drop input").set_input_files(
        {"name": "photo.png", "mimeType": "image/png", "buffer": PNG}
    )
    await page.get_by_text("photo.png", exact=True).wait_for()
    await page.reload()
    await looker.until("document.querySelector('.field textarea')?.value === 'typed over it'")
    assert await page.get_by_label("Width", exact=True).input_value() == "320"
    await page.get_by_role("button", name="Generate").click()
    await looker.until_jobs(
        lambda jobs: (
            bool(jobs) and jobs[0].title == "typed over it" and jobs[0].status in ("succeeded", "failed")
        )
    )
    job = (await looker.jobs())[0]
    assert (job.status, job.workflow, job.params["seed"], job.params["width"]) == ("succeeded", None, 77, 320)
    assert len(job.params["image"]) >= 32
    await looker.tile("typed over it").first.click()
    await page.get_by_role("dialog").get_by_text("Negative prompt").wait_for()
    await page.keyboard.press("Escape")
    await opened(looker, "other.json", FILED)
    assert await prompt(looker).input_value() == "as in the file"
    await page.get_by_label("Workflow", exact=True).select_option("Landscape")
    await page.get_by_text("Hills, air and light.").wait_for()


async def test_one_of_comfyuis_page_is_converted_and_runs_with_a_size_of_ones_own(looker: Looker) -> None:
    page = looker.page
    await opened(looker, "saved.json", SAVED)
    await page.get_by_label("Width", exact=True).fill("48")
    await page.get_by_role("button", name="Generate").click()
    await looker.until_jobs(
        lambda jobs: bool(jobs) and jobs[0].status == "succeeded" and jobs[0].params.get("width") == 48
    )


async def test_what_cannot_run_is_said_and_leaves_the_form_as_it_was(looker: Looker) -> None:
    page = looker.page
    looker.expected = ("status of 422",)
    await prompt(looker).fill("half a thought")
    strange = {"nodes": [{"id": 1, "type": "Nowhere", "mode": 0}], "links": []}
    await page.evaluate(DROP, ["strange.json", "application/json", json.dumps(strange)])
    await page.get_by_text("strange.json: ").wait_for()
    assert "Export" in await page.locator("#says").inner_text()
    assert await prompt(looker).input_value() == "half a thought"
    assert "strange" not in await page.locator("#workflow").inner_text()
