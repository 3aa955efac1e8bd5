"""The API's own port against what a real browser really sends: pages of elsewhere reach nothing of it, ComfyUI's page least of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from comfytunnel.config import Tcp, WebConfig
from comfytunnel.fdstore import Handed
from comfytunnel.jobs.model import Output
from comfytunnel.notify import Notifier
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.weblistener import WebListener
from tests.api.conftest import Api, serving
from tests.browser.test_guard import elsewhere, road
from tests.fakes.sshd import free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

ATTACK = """
async url => {
  const tried = async what => { try { return await what() } catch (error) { return String(error) } };
  const loaded = element => new Promise(done => {
    element.onload = () => done("loaded"); element.onerror = () => done("error"); document.body.append(element);
  });
  const make = (name, more) => Object.assign(document.createElement(name), more);
  const job = JSON.stringify({workflow: {"1": {class_type: "A", inputs: {}}}});
  const json = {method: "POST", headers: {"Content-Type": "application/json"}, body: job};
  const form = make("form", {method: "POST", action: url + "/v1/queue/pause", target: "framed"});
  const frame = make("iframe", {name: "framed"});
  document.body.append(form, frame);
  const whole = make("iframe", {src: url + "/", name: "whole"});
  const sent = new Promise(done => frame.onload = () => done("loaded"));
  form.submit();
  return {
    get: await tried(async () => (await fetch(url + "/v1/status")).status),
    blind_get: await tried(async () => (await fetch(url + "/v1/status", {mode: "no-cors"})).type),
    post: await tried(async () => (await fetch(url + "/api/v2/jobs", json)).status),
    blind_post: await tried(async () => (await fetch(url + "/api/v2/jobs", {method: "POST", mode: "no-cors", body: job})).type),
    generate: await tried(async () => (await fetch(url + "/api/generate", {...json, mode: "same-origin"})).status),
    blind_generate: await tried(async () => (await fetch(url + "/api/generate", {method: "POST", mode: "no-cors", body: job})).type),
    workflows: await tried(async () => (await fetch(url + "/v1/workflows")).status),
    page: await tried(async () => (await fetch(url + "/", {mode: "no-cors"})).type),
    module: await loaded(make("script", {type: "module", src: url + "/page/main.js"})),
    plain_script: await loaded(make("script", {src: url + "/page/api.js"})),
    sheet: await loaded(make("link", {rel: "stylesheet", href: url + "/page/base.css"})),
    verb: await tried(async () => (await fetch(url + "/v1/queue/pause", {method: "POST", mode: "no-cors"})).type),
    script: await loaded(make("script", {src: url + "/v1/status"})),
    picture: await loaded(make("img", {src: url + "/api/v2/assets/PICTURE/content"})),
    stream: await new Promise(done => {
      const source = new EventSource(url + "/v1/events");
      source.addEventListener("status", () => done("message")); source.onerror = () => { source.close(); done("error") };
    }),
    form: await sent,
    whole: await loaded(whole),
  };
}
"""


class Served:
    """The API on a port, with a picture that a page might want to have."""

    def __init__(self, api: Api, port: int, picture: str) -> None:
        self.api = api
        self.port = port
        self.attack = ATTACK.replace("PICTURE", picture)

    async def untouched(self) -> None:
        assert not any((await self.api.store.counts()).values())
        assert self.api.scheduler.queue.value.mode.value == "open"
        assert not self.api.context.streams


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    short = tmp_path / "s"
    async with serving(short) as api, asyncio.TaskGroup() as group:
        with Listeners(Notifier(), Handed()) as listeners:
            port = free_port()
            listener = WebListener(api.context, listeners, group, api.tunnels.poke)
            listener.serve(WebConfig(listen=(Tcp("127.0.0.1", port), Tcp("::1", port))))
            await api.tunnels.changed.until(
                lambda _: (view := listener.view()) is not None and len(view.listen) == 2
            )
            picture = await api.upload(PNG)
            yield Served(api, port, picture["id"])
            await listener.leave()


EVIL = "<img src=x onerror=alert(1)>"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


async def refused(page: Page, got: dict[str, Any]) -> None:
    """Nothing came back; a blind request does not even get an opaque answer."""
    assert (
        got.pop("form") == got.pop("whole") == "loaded"
    )  # with the browser's own words: even our refusal cannot be framed
    for name in ("framed", "whole"):
        frame = page.frame(name)
        assert frame is not None
        text = await frame.content()
        assert "ERR_BLOCKED_BY_RESPONSE" in text
        assert "Skip to the form" not in text
    assert all("error" in str(value).lower() for value in got.values()), got


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1"])
async def test_a_page_of_another_origin_reaches_nothing(host: str, browser: Browser, served: Served) -> None:
    """Another port of localhost is `same-site` to the browser, and not to us."""
    target = f"http://localhost:{served.port}"
    async with elsewhere(f"{target}/v1/status") as port:
        page = await browser.new_page()
        await page.goto(f"http://{host}:{port}/")
        await refused(page, await page.evaluate(served.attack, target))
        await page.click("a")  # not even a link leads here
        await page.wait_for_url(f"{target}/v1/status", timeout=10_000)
        assert "site_refused" in await page.content()
    await served.untouched()


async def test_comfyuis_own_page_reaches_nothing(browser: Browser, served: Served, tmp_path: Path) -> None:
    """What runs on http://localhost:18188 came from the instance, which nobody trusts."""
    async with road(tmp_path) as (tunnel, _):
        page = await browser.new_page()
        answer = await page.goto(f"http://localhost:{tunnel.port}/")
        assert answer is not None
        assert answer.status == 200
        await refused(page, await page.evaluate(served.attack, f"http://localhost:{served.port}"))
    await served.untouched()


async def test_a_rebound_name_reaches_nothing(browser: Browser, served: Served) -> None:
    """To the browser it is the page's own origin; only the Host tells."""
    page = await browser.new_page(bypass_csp=True)  # the attacker's page would not carry our policy
    answer = await page.goto(f"http://rebound.example:{served.port}/v1/status")
    assert answer is not None
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "host_refused")
    got: dict[str, Any] = await page.evaluate(served.attack, f"http://rebound.example:{served.port}")
    assert got["get"] == got["post"] == got["generate"] == got["workflows"] == 403
    assert got["module"] == got["plain_script"] == got["sheet"] == "error"
    assert got["picture"] == got["stream"] == "error"
    await served.untouched()


async def test_the_address_bar_and_the_port_itself_pass(browser: Browser, served: Served) -> None:
    """The judge can say yes: what is typed is answered, and a script of this very origin is too."""
    page = await browser.new_page()
    answer = await page.goto(f"http://localhost:{served.port}/v1/status")
    assert answer is not None
    assert answer.status == 200
    assert await page.evaluate("() => document.contentType") == "application/json"
    blocked = await page.evaluate("fetch('/v1/status').then(answer => answer.status, String)")
    assert "Failed to fetch" in blocked  # our own policy: an answer is no page, and loads nothing


async def test_a_script_of_the_same_origin_passes(browser: Browser, served: Served) -> None:
    """As the page that will live here."""
    page = await browser.new_page(bypass_csp=True)
    await page.goto(f"http://localhost:{served.port}/v1/status")
    got: dict[str, Any] = await page.evaluate(served.attack, f"http://localhost:{served.port}")
    assert (got["get"], got["post"], got["picture"], got["stream"]) == (200, 201, "loaded", "message")
    assert (got["workflows"], got["generate"], got["sheet"]) == (200, 202, "loaded")


async def test_what_the_far_side_sends_is_words_and_downloads_never_a_page(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    """Names and messages are shown as they are; what could run is a file to save, also for who opens its address."""
    job_id = await served.api.submit(comfytunnel={"label": f"<b>{EVIL}</b>"})
    await served.api.scheduler.start(job_id)
    page = await browser.new_page()
    said: list[str] = []
    page.on("console", lambda told: said.append(told.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    outputs: dict[str, Output] = {}
    for kind in ("image/svg+xml", "text/html", "text/javascript", "image/png"):
        folder = tmp_path / kind.replace("/", "-")
        folder.mkdir()
        path = folder / f"a{EVIL.replace('/', '')}.txt"
        path.write_text(f"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'>{EVIL}</svg>")
        outputs[kind] = await served.api.scheduler.output(job_id, path, kind, ord=len(outputs))
    await served.api.scheduler.succeed(job_id)
    await page.goto(f"http://localhost:{served.port}/")
    await page.locator(".tile.image", has_text="cannot be shown").wait_for()  # it called itself a PNG
    assert await page.locator(".tile.file").count() == 3
    assert await page.locator(".tile.file img").count() == 0
    assert await page.locator(".tile .title").first.inner_text() == f"<b>{EVIL}</b>"
    for kind in ("image/svg+xml", "text/html", "text/javascript"):
        url = f"http://localhost:{served.port}/api/v2/assets/{outputs[kind].asset_id}/content"
        async with page.expect_download() as downloading:
            await page.evaluate("url => { location.href = url }", url)
        assert await (await downloading.value).failure() is None
    await page.locator(".tile.file button").first.click()
    viewer = page.get_by_role("dialog")
    async with page.expect_download() as downloading:
        await viewer.get_by_role("link", name="Download").click()
    await downloading.value
    assert await page.locator("script:not([src='/page/main.js'])").count() == 0
    assert await page.locator("dialog img, dialog iframe, dialog object, dialog embed").count() == 0
    assert said == []
