"""Reads the form of an upload: the file as a stream into the hands that take it, the other fields as short texts, in any order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from comfytunnel.api.arriving import arriving
from comfytunnel.errors import UsageError
from comfytunnel.jobs.about import digest_of, too_large
from comfytunnel.jobs.assets import Incoming

PIECE = 256 * 1024  # bytes that are read at a time
FIELD_BYTES = 4096  # of one text field; a file_path has 1024 at most
MAX_PARTS = 128  # fields of one form, the tags among them
SLACK = 1024**2  # bytes of the form around the file


@dataclass(frozen=True, slots=True)
class Form:
    """`expected` in hex, None if the client declared no hash."""

    content_type: str
    file_path: str
    tags: tuple[str, ...]
    expires_in: int | None
    expected: str | None


async def read_form(request: web.Request, coming: Incoming) -> Form:
    """Have the file taken in by `coming`. UsageError for what is no such form, ConnectionError when the caller leaves in the middle."""
    if request.content_type != "multipart/form-data":
        raise _unfit("the body must be multipart/form-data", "file")
    if (request.content_length or 0) > coming.most + SLACK:
        raise too_large(coming.most)  # before any of it is read
    texts: dict[str, list[str]] = {}
    seen = False
    with _blame():
        number = 0
        reader = await request.multipart()
        while (part := await arriving(request, reader.next())) is not None:
            number += 1
            if number > MAX_PARTS or not isinstance(part, BodyPartReader) or part.name is None:
                raise _unfit(
                    f"it has a part without a name, a form within, or more than {MAX_PARTS} parts", ""
                )
            if part.name != "file":
                texts.setdefault(part.name, []).append(await _text(request, part))
                continue
            if seen:
                raise _unfit("there must be one `file`", "file")
            seen = True
            while chunk := await arriving(request, part.read_chunk(PIECE)):
                await coming.write(chunk)
    if not seen:
        raise _unfit("`file` is missing", "file")
    return Form(
        content_type=_one(texts, "content_type"),
        file_path=_one(texts, "file_path"),
        tags=tuple(texts.get("tags", ()) or texts.get("tags[]", ())),
        expires_in=_seconds(texts),
        expected=_hash(texts),
    )


async def _text(request: web.Request, part: BodyPartReader) -> str:
    data = bytearray()
    while chunk := await arriving(request, part.read_chunk(FIELD_BYTES)):
        data += chunk
        if len(data) > FIELD_BYTES:
            raise _unfit(f"`{str(part.name)[:80]}` is longer than {FIELD_BYTES} bytes", str(part.name)[:80])
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _unfit(f"`{str(part.name)[:80]}` is not UTF-8", str(part.name)[:80]) from None


def _one(texts: dict[str, list[str]], name: str) -> str:
    found = texts.get(name, [])
    if len(found) != 1:
        raise _unfit(f"there must be one `{name}`", name)
    return found[0]


def _seconds(texts: dict[str, list[str]]) -> int | None:
    if "expires_in" not in texts:
        return None
    given = _one(texts, "expires_in")
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise _unfit("`expires_in` must be a whole number of seconds", "expires_in")
    return int(given)


def _hash(texts: dict[str, list[str]]) -> str | None:
    if "expected_hash" not in texts:
        return None
    found = digest_of(_one(texts, "expected_hash"))
    if found is None:
        raise _unfit("`expected_hash` must be blake3: and 64 hex digits", "expected_hash")
    return found


def _unfit(what: str, field: str) -> UsageError:
    return UsageError(
        f"The upload does not fit: {what}.",
        hint="Send a form with `file`, `content_type` and `file_path`, as `curl -F` does.",
        details={"path": f"$.{field}" if field else "$"},
    )


@contextlib.contextmanager
def _blame() -> Iterator[None]:
    """What aiohttp raises for a body that is no form, or that ends in the middle."""
    try:
        yield
    except (aiohttp.ClientError, web.RequestPayloadError, EOFError) as error:
        raise ConnectionResetError("the caller left in the middle of an upload") from error
    except (HttpProcessingError, ValueError, RuntimeError) as error:
        raise _unfit(f"it is not a form that can be read ({str(error)[:100]})", "") from error
