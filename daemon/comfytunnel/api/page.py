"""The web page's files: served over TCP alone, to the owner's browser, and the same for everybody, so without the token.

Read once, when the listener begins: an upgrade beneath a running daemon never mixes two versions. Nothing is looked up by a name that
a request gives but in that table. What the page may load, run and reach is said here and nowhere else; it comes from this port only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from comfytunnel.api.answers import Handler

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
"""By the ending. A file of another kind is not served."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""An output is on this origin too, and no script: what a browser could run comes as a download of type octet-stream, with nosniff."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: str
    tag: str


class Page:
    """The files of the folder, as they are now."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: dict[str, _File] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in TYPES:
                body = path.read_bytes()
                tag = hashlib.sha256(body).hexdigest()[:16]
                self._files[path.name] = _File(body, TYPES[path.suffix], tag)

    def routes(self) -> Iterator[tuple[str, Handler]]:
        """Path and handler of each GET."""
        yield "/", self._index
        yield "/page/{name}", self._named

    async def _index(self, request: web.Request) -> web.Response:
        return _answer(request, self._files[INDEX])

    async def _named(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return _answer(request, found)


def _answer(request: web.Request, file: _File) -> web.Response:
    held = request.if_none_match or ()
    if any(tag.value in (file.tag, "*") for tag in held):
        answer = web.Response(status=304, headers=HEADERS)
    else:
        answer = web.Response(body=file.body, headers=HEADERS, content_type=file.kind, charset=_charset(file))
    answer.etag = file.tag
    return answer


def _charset(file: _File) -> str | None:
    return "utf-8" if file.kind.startswith("text/") else None
