"""The guard against what a real browser really sends: every page of elsewhere is refused, ComfyUI's own page passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from comfytunnel.demo.comfyui import ComfyUI
from tests.fakes.sshd import free_port
from tests.tunnel.conftest import Near, config_for, hello, near, remote_far, service

if TYPE_CHECKING:
    from playwright.async_api import Browser

ATTACK = """
async url => {
  const tried = async what => { try { return await what() } catch (error) { return String(error) } };
  const loaded = element => new Promise(done => {
    element.onload = () => done("loaded"); element.onerror = () => done("error"); document.body.append(element);
  });
  const make = (name, more) => Object.assign(document.createElement(name), more);
  const json = {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"};
  return {
    get: await tried(async () => (await fetch(url + "/queue")).status),
    blind_get: await tried(async () => (await fetch(url + "/queue", {mode: "no-cors"})).type),
    post: await tried(async () => (await fetch(url + "/prompt", json)).status),
    blind_post: await tried(async () => (await fetch(url + "/prompt", {method: "POST", mode: "no-cors", body: "{}"})).type),
    odd_method: await tried(async () => (await fetch(url + "/prompt", {method: "EXPLOIT"})).status),
    picture: await loaded(make("img", {src: url + "/view?filename=a.png&type=input"})),
    script: await loaded(make("script", {src: url + "/queue"})),
    frame: await loaded(make("iframe", {src: url + "/"})),
    websocket: await new Promise(done => {
      const ws = new WebSocket(url.replace("http", "ws") + "/ws?clientId=evil");
      ws.onmessage = () => done("message"); ws.onerror = () => done("error");
    }),
  };
}
"""
OWN = """
async () => {
  const ask = async (path, more) => { const answer = await fetch(path, more); return [answer.status, await answer.text()] };
  const form = new FormData();
  form.append("image", new Blob([new Uint8Array(300000)]), "a.png");
  const uploaded = await ask("/upload/image", {method: "POST", body: form});
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws?clientId=own");
  const told = [];
  const tells = word => new Promise((done, failed) => {
    const look = () => told.some(text => text.includes(word)) && done(word);
    socket.addEventListener("message", look); socket.addEventListener("error", failed); look();
  });
  socket.addEventListener("message", event => told.push(String(event.data)));
  const first = await tells("status");
  const submitted = await ask("/prompt", {method: "POST", body: JSON.stringify({prompt: %s, client_id: "own"})});
  await tells("execution_success");
  socket.close();
  return {queue: (await ask("/queue"))[0], uploaded: uploaded[0], first, submitted: submitted[0],
          view: (await ask("/view?filename=a.png&type=input"))[0]};
}
"""
GRAPH = """{
  "1": {class_type: "EmptyImage", inputs: {width: 8, height: 8, batch_size: 1, color: 1}},
  "2": {class_type: "SaveImage", inputs: {images: ["1", 0], filename_prefix: "own"}}}"""


@asynccontextmanager
async def elsewhere(link: str) -> AsyncIterator[int]:
    """Another site on another port: a page with a link."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=f'<!DOCTYPE html><body><a href="{link}">go</a>', content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    try:
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def road(tmp: Path) -> AsyncIterator[tuple[Near, ComfyUI]]:
    """The stand-in behind a tunnel."""
    async with (
        ComfyUI(tmp / "instance") as comfyui,
        remote_far(tmp) as far,
        near(config_for(far, tmp, comfyui.port)) as tunnel,
    ):
        await tunnel.up()
        yield tunnel, comfyui


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1"])
async def test_pages_of_another_origin_or_port_reach_nothing(
    host: str, browser: Browser, tmp_path: Path
) -> None:
    async with road(tmp_path) as (tunnel, comfyui):
        target = f"http://localhost:{tunnel.port}"
        async with elsewhere(f"{target}/") as port:
            page = await browser.new_page()
            await page.goto(f"http://{host}:{port}/")
            got: dict[str, Any] = await page.evaluate(ATTACK, target)
            assert (
                got.pop("blind_get") == got.pop("blind_post") == "opaque"
            )  # an answer of ours, which no page can read
            assert got.pop("frame") == "loaded"  # with our refusal in it
            assert all("error" in str(value).lower() for value in got.values()), got
            assert tunnel.door.tally.refused >= 8
            assert tunnel.door.tally.bytes_out == 0
            assert comfyui.prompts_received == 0


async def test_a_rebound_name_reaches_nothing(browser: Browser, tmp_path: Path) -> None:
    """To the browser the door is then the page's own origin; only the Host tells."""
    async with road(tmp_path) as (tunnel, comfyui):
        page = await browser.new_page()
        answer = await page.goto(f"http://rebound.example:{tunnel.port}/")
        assert answer is not None
        assert answer.status == 403
        assert (await answer.json())["error"]["code"] == "host_refused"
        got: dict[str, Any] = await page.evaluate(ATTACK, f"http://rebound.example:{tunnel.port}")
        assert got["get"] == got["post"] == got["odd_method"] == 403
        assert got["websocket"] == "error"
        assert tunnel.door.tally.bytes_out == 0
        assert comfyui.prompts_received == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_comfyuis_own_page_passes_with_its_websocket(
    host: str, browser: Browser, tmp_path: Path
) -> None:
    async with road(tmp_path) as (tunnel, comfyui):
        page = await browser.new_page()
        answer = await page.goto(f"http://{host}:{tunnel.port}/")
        assert answer is not None
        assert answer.status == 200
        got: dict[str, Any] = await page.evaluate(OWN % GRAPH)
        assert "status" in got.pop("first")
        assert set(got.values()) == {200}, got
        assert comfyui.prompts_received == 1
        assert tunnel.door.tally.refused == 0


async def test_a_link_on_another_page_passes(browser: Browser, tmp_path: Path) -> None:
    """ComfyUI itself refuses it unless it runs with --enable-cors-header, as Vast.ai's template has it: so another server here."""
    async with (
        service(hello) as behind,
        remote_far(tmp_path) as far,
        near(config_for(far, tmp_path, behind)) as tunnel,
    ):
        await tunnel.up()
        async with elsewhere(f"http://localhost:{tunnel.port}/") as port:
            page = await browser.new_page()
            await page.goto(f"http://evil.example:{port}/")
            await page.click("a")
            await page.wait_for_url(f"http://localhost:{tunnel.port}/", timeout=10_000)
            assert "hello" in await page.content()
