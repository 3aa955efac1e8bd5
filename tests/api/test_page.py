"""The page's files over TCP: whole, typed, fresh, under a policy that lets nothing of elsewhere in, and free of what could break it."""

from __future__ import annotations

import re

import pytest

from comfytunnel.api.page import FOLDER, POLICY
from comfytunnel.config import WebConfig
from tests.api.test_tcp import Web
from tests.api.test_tcp import web as web  # the fixture

FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
LINES_MOST = 300
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|\.style\s*="
)


async def test_each_file_is_served_with_its_type_and_the_strict_policy(web: Web) -> None:
    for path, name in [("/", "index.html"), *((f"/page/{name}", name) for name in FILES)]:
        async with web.http.get(web.url + path) as answer:
            assert (answer.status, await answer.read()) == (200, (FOLDER / name).read_bytes())
            assert answer.headers["Content-Type"] == TYPES[name.rpartition(".")[2]]
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-cache"


async def test_what_the_browser_has_already_is_not_sent_again(web: Web) -> None:
    async with web.http.get(f"{web.url}/") as first:
        tag = first.headers["ETag"]
    for held, status in ((tag, 304), (f"W/{tag}", 304), ('"another"', 200)):
        async with web.http.get(f"{web.url}/", headers={"If-None-Match": held}) as answer:
            assert (answer.status, answer.headers["ETag"]) == (status, tag)
            assert answer.headers["Content-Security-Policy"] == POLICY


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/..%2fapi%2ftcp.py", "/page/../wire.py", "/index.html"]
)
async def test_nothing_but_those_files_is_served(web: Web, path: str) -> None:
    status, body, _ = await web.ask("GET", path)
    assert (status, body["error"]["code"]) == (404, "not_found")


async def test_the_files_need_no_token_and_all_else_does(web: Web) -> None:
    """The page itself asks for it."""
    web.listener.serve(WebConfig(listen=web.config.listen, token="sesame"))
    for path, status in (("/", 200), ("/page/main.js", 200), ("/v1/status", 401), ("/page/none.js/x", 401)):
        async with web.http.get(web.url + path) as answer:
            assert answer.status == status


async def test_pages_of_elsewhere_do_not_get_them_either(web: Web) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ):
        status, _, _ = await web.ask("GET", "/", headers=headers)
        assert status == 403


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_says_its_law_and_reaches_for_nothing_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text.count("\n") <= LINES_MOST
    assert name.endswith((".html", ".svg")) or text.startswith("/* ")
    assert not MARKUP.search(text)
    assert not re.search(r"(?<!xmlns=[\"'])https?://(?!www\.w3\.org/2000/svg)", text)
    assert name != "index.html" or not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", text)
