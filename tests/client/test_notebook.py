"""What a notebook shows of a job: pictures and words, and nothing that the far side could have made a browser run."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from comfytunnel import AsyncClient, Client, Job, UsageError, wire
from comfytunnel.client import shown
from comfytunnel.decoding import convert
from tests.api.conftest import Api
from tests.api.conftest import api as api
from tests.api.conftest import short as short

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def an_output(name: str = "a.png", size: int = len(PNG), kind: str = "image") -> wire.Output:
    return wire.Output(
        node_id="1", name=name, type=kind, content_type="image/png", size_bytes=size, id="i", hash=None, url="", url_expires_at=NOW
    )  # fmt: skip


def a_job(*outputs: wire.Output, **more: Any) -> wire.Job:
    plain: dict[str, Any] = {
        "id": "j", "status": "succeeded", "created_at": NOW, "started_at": NOW, "completed_at": NOW, "expires_at": NOW,
        "queue_position": None, "progress": None, "outputs": list(outputs), "error": None, "urls": wire.JobUrls("", "", ""),
    }  # fmt: skip
    return wire.Job(**{**plain, **more})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_job_of_either_client_shows_its_pictures(
    kind: type[Client] | type[AsyncClient], api: Api, tmp_path: Path
) -> None:
    """Through the daemon, as the bytes are; a picture by itself goes to Jupyter as a picture."""
    job_id = await api.submit()
    (tmp_path / "a.png").write_bytes(PNG)
    await api.scheduler.start(job_id)
    await api.scheduler.output(job_id, tmp_path / "a.png")
    await api.scheduler.succeed(job_id)
    if kind is AsyncClient:
        job: Any = await AsyncClient(api.path).job(job_id)
    else:
        job = await asyncio.to_thread(Client(api.path).job, job_id)
    bundle = await asyncio.to_thread(job._repr_mimebundle_)
    assert f"data:image/png;base64,{b64encode(PNG).decode()}" in bundle["text/html"]
    assert job_id in bundle["text/plain"]
    (output,) = job.outputs
    alone = await asyncio.to_thread(output._repr_mimebundle_)
    assert b64decode(alone["image/png"]) == PNG


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'>",
        b"<html><script>x()</script>",
        b"",
        b"RIFF1234WAVE",
    ],
)
def test_bytes_that_are_no_picture_are_told_by_name_whatever_they_claim(data: bytes) -> None:
    found = shown.html_of_job(a_job(an_output()), lambda *_: data)
    assert "<img" not in found
    assert "script" not in found
    assert "svg" not in found
    assert set(shown.bundle_of_output(an_output(), lambda *_: data)) == {"text/plain"}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF1234WEBPVP8", "image/webp"),
    ],
)
def test_a_picture_is_shown_as_what_it_is(data: bytes, kind: str) -> None:
    assert f"data:{kind};base64," in shown.html_of_job(a_job(an_output("a.svg")), lambda *_: data)


def test_words_of_the_far_side_are_escaped_and_lose_their_terminal_escapes() -> None:
    evil = "<img src=x onerror=alert(1)>\x1b[2J\"'&"
    failed = a_job(
        an_output(evil),
        an_output(evil, kind="text"),
        status="failed",
        error=wire.JobError("<b>", evil * 1000),
    )
    found = shown.html_of_job(failed, lambda *_: PNG)
    assert "<img src=x" not in found
    assert "&quot;&#x27;&amp;" in found
    assert "\x1b" not in found
    assert len(found) < 10_000
    assert "\x1b" not in shown.line_of_job(failed)


def test_what_is_shown_is_bounded() -> None:
    """The sum of all pictures, and their number; the rest is told by name, and is not even fetched."""
    asked: list[int] = []

    def fetch(output: wire.Output, most: int) -> bytes:
        asked.append(most)
        return PNG[:8] + bytes(output.size_bytes - 8)

    large = [an_output(size=3 * 2**20) for _ in range(4)]
    found = shown.html_of_job(a_job(*large), fetch)
    assert (found.count("<img"), found.count("<li>"), len(asked)) == (2, 2, 2)
    found = shown.html_of_job(a_job(*[an_output() for _ in range(40)]), fetch)
    assert found.count("<img") == shown.PICTURES_MOST
    assert shown.html_of_job(a_job(an_output()), lambda *_: None).count("<li>") == 1


def test_a_job_without_a_client_says_how_to_get_one() -> None:
    job = convert(msgspec.to_builtins(a_job()), Job)
    with pytest.raises(UsageError, match="knows no client"):
        job.refresh()
