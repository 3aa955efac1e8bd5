"""What we rely on of files: what nodes write, what /view serves and refuses, what /upload/image makes of names."""

from __future__ import annotations

import asyncio
import io
import json
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from PIL import Image

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.jobs.homeward import LATE
from tests.contract.conftest import Far, save


async def test_saved_picture_is_a_png_with_its_workflow(far: Far) -> None:
    """SaveImage writes a PNG of the size and colour that was asked for, with workflow and extra_pnginfo as text."""
    graph = far.picture(width=5, height=3, color=0x102030)
    entry = await far.run(graph, extra_data={"extra_pnginfo": {"workflow": {"id": "w1"}, "note": far.nonce}})
    picture = Image.open(io.BytesIO((await _fetch(far, entry))[1]))
    assert picture.format == "PNG"
    assert picture.size == (5, 3)
    assert picture.convert("RGB").getpixel((0, 0)) == (0x10, 0x20, 0x30)
    assert json.loads(picture.info["prompt"]) == graph
    assert json.loads(picture.info["workflow"]) == {"id": "w1"}
    assert json.loads(picture.info["note"]) == far.nonce


async def test_nodes_invert_scale_and_load(far: Far) -> None:
    """Upload, LoadImage, ImageInvert and ImageScale do what they say."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (0, int(far.nonce[:2], 16), 255)).save(buffer, format="PNG")
    uploaded = await _upload(far, f"{far.nonce}.png", buffer.getvalue())
    scale = {"upscale_method": "nearest-exact", "width": 12, "height": 0, "crop": "disabled"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": uploaded["name"]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], **scale}},
        "4": save("3", f"contract/{far.nonce}/p"),
    }
    entry = await far.run(graph)
    picture = Image.open(io.BytesIO((await _fetch(far, entry, "4"))[1])).convert("RGB")
    assert picture.size == (12, 8)
    pixel = picture.getpixel((5, 5))
    assert isinstance(pixel, tuple)
    red, green, blue = pixel
    assert (red, blue) == (255, 0)
    assert green - (255 - int(far.nonce[:2], 16)) in (-1, 0)  # the real one cuts its floats off


async def test_batches_and_counters(far: Far) -> None:
    """A batch is one file each; counters count on from what is there, five digits and an underscore."""
    graph = far.picture()
    graph["1"]["inputs"]["batch_size"] = 2
    first = (await far.run(graph))["outputs"]["2"]["images"]
    second = (await far.run(far.picture()))["outputs"]["2"]["images"]
    names = [file["filename"] for file in first + second]
    assert names == ["p_00001_.png", "p_00002_.png", "p_00003_.png"]
    assert {file["subfolder"] for file in first + second} == {f"contract/{far.nonce}"}


async def test_preview_goes_to_temp(far: Far) -> None:
    """PreviewImage's files have the type temp and can be viewed."""
    graph = far.picture()
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    entry = await far.run(graph)
    [file] = entry["outputs"]["2"]["images"]
    assert file["type"] == "temp"
    assert (await _fetch(far, entry))[1].startswith(b"\x89PNG")


async def test_view_headers_and_head(far: Far) -> None:
    """/view sends length, ETag, Last-Modified and ranges; HEAD the same without a body."""
    entry = await far.run(far.picture())
    headers, body = await _fetch(far, entry)
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Content-Type"] == "image/png"
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"].startswith('"')
    written = parsedate_to_datetime(headers["Last-Modified"]).timestamp()
    ended = dict(entry["status"]["messages"])["execution_success"]["timestamp"] / 1000
    assert ended - 60 < written <= ended + LATE  # one clock, and no file is newer than its job
    async with far.session.head(f"{far.url}/view", params=_place(entry)) as answer:
        assert answer.status == 200
        assert {key: answer.headers[key] for key in ("Content-Length", "ETag", "Last-Modified")} == {
            key: headers[key] for key in ("Content-Length", "ETag", "Last-Modified")
        }


async def test_ranges(far: Far) -> None:
    """A single range is a 206 with Content-Range, one past the end a 416; If-Range is ignored."""
    entry = await far.run(far.picture())
    headers, body = await _fetch(far, entry)
    size = len(body)
    for asked, start, end in [("10-", 10, size), ("0-4", 0, 5), ("-7", size - 7, size)]:
        status, got, part = await _range(far, entry, {"Range": f"bytes={asked}"})
        assert (status, part) == (206, body[start:end])
        assert got["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    assert (await _range(far, entry, {"Range": f"bytes={size}-"}))[0] == 416
    assert (await _range(far, entry, {"Range": "bytes=1-2", "If-Range": '"other"'}))[0] == 206
    assert (await _range(far, entry, {"Range": "bytes=1-2", "If-Match": headers["ETag"]}))[0] == 206


async def test_if_match_is_honoured(far: Far) -> None:
    """If-Match with another ETag is a 412: the file has changed under its name."""
    entry = await far.run(far.picture())
    headers, _ = await _fetch(far, entry)
    assert (await _range(far, entry, {"If-Match": '"other"', "Range": "bytes=1-"}))[0] == 412
    assert (await _range(far, entry, {"If-Match": headers["ETag"]}))[0] == 200


async def test_preview_is_reencoded_without_ranges(far: Far) -> None:
    """With `preview` the picture is encoded anew, whole, whatever range was asked for."""
    entry = await far.run(far.picture())
    place = _place(entry) | {"preview": "webp;50"}
    async with far.session.get(f"{far.url}/view", params=place, headers={"Range": "bytes=1-2"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "image/webp"
        assert "ETag" not in answer.headers


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ({}, 404),
        ({"filename": ""}, 400),
        ({"filename": "../p.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "p.png", "type": "odd"}, 400),
        ({"filename": "p.png", "subfolder": "../.."}, 403),
        ({"filename": "p.png", "subfolder": "/etc"}, 403),
        ({"filename": "absent.png"}, 404),
        ({"filename": "a" * 2000}, 404),
        ({"filename": "absent.png", "subfolder": "absent"}, 404),
    ],
)
async def test_view_refusals(far: Far, place: dict[str, str], status: int) -> None:
    """Names that lead elsewhere are 400 or 403, absent files 404, never an error page of another kind."""
    async with far.session.get(f"{far.url}/view", params=place) as answer:
        assert answer.status == status


async def test_upload_keeps_or_changes_the_name(far: Far) -> None:
    """Same name and bytes: same name. Same name and other bytes: "a (1).png". overwrite: same name, new bytes."""
    name = f"{far.nonce}.png"
    assert await _upload(far, name, b"one") == {"name": name, "subfolder": "", "type": "input"}
    assert (await _upload(far, name, b"one"))["name"] == name
    assert (await _upload(far, name, b"two"))["name"] == f"{far.nonce} (1).png"
    assert (await _upload(far, name, b"two"))["name"] == f"{far.nonce} (1).png"
    assert (await _upload(far, name, b"three", overwrite="true"))["name"] == name
    async with far.session.get(f"{far.url}/view", params={"filename": name, "type": "input"}) as answer:
        assert await answer.read() == b"three"


async def test_upload_into_a_subfolder_of_temp(far: Far) -> None:
    """type and subfolder are honoured and come back: the nonce that tells a restart lives there."""
    told = await _upload(far, "nonce.txt", b"n", type="temp", subfolder=far.nonce)
    assert told == {"name": "nonce.txt", "subfolder": far.nonce, "type": "temp"}
    place = {"filename": "nonce.txt", "subfolder": far.nonce, "type": "temp"}
    async with far.session.head(f"{far.url}/view", params=place) as answer:
        assert answer.status == 200


async def test_an_input_in_a_subfolder_is_loaded_by_its_path(far: Far) -> None:
    """A file uploaded into a subfolder of input/ is there for HEAD with its length, and for LoadImage as "subfolder/name"."""
    body = _png((int(far.nonce[:2], 16), 0, 255))
    told = await _upload(far, f"{far.nonce}.png", body, type="input", subfolder="comfytunnel")
    assert told == {"name": f"{far.nonce}.png", "subfolder": "comfytunnel", "type": "input"}
    place = {"filename": told["name"], "subfolder": "comfytunnel", "type": "input"}
    async with far.session.head(f"{far.url}/view", params=place) as answer:
        assert (answer.status, int(answer.headers["Content-Length"])) == (200, len(body))
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"comfytunnel/{told['name']}"}},
        "2": save("1", f"contract/{far.nonce}/p"),
    }
    picture = Image.open(io.BytesIO((await _fetch(far, await far.run(graph)))[1])).convert("RGB")
    assert picture.getpixel((0, 0)) == (int(far.nonce[:2], 16), 0, 255)


async def test_overwrite_mends_a_file_of_another_size(far: Far) -> None:
    """What was half written under a name is replaced, and later uploads without `overwrite` find the same bytes."""
    name = f"{far.nonce}-half.bin"
    await _upload(far, name, b"ha", subfolder="comfytunnel")
    assert (await _upload(far, name, b"half", subfolder="comfytunnel", overwrite="true"))["name"] == name
    assert (await _upload(far, name, b"half", subfolder="comfytunnel"))["name"] == name


async def test_an_upload_over_the_limit_is_413_and_leaves_nothing(far: Far) -> None:
    """100 MB in one body (the default of --max-upload-size). The answer comes while the rest is still being sent."""
    name = f"{far.nonce}-large.bin"
    form = aiohttp.FormData({"type": "input", "subfolder": "comfytunnel"})
    form.add_field("image", io.BytesIO(bytes(101 * 1024**2)), filename=name)
    async with far.session.post(f"{far.url}/upload/image", data=form) as answer:
        assert answer.status == 413
    place = {"filename": name, "subfolder": "comfytunnel", "type": "input"}
    async with far.session.head(f"{far.url}/view", params=place) as answer:
        assert answer.status == 404


async def test_upload_refusals(far: Far) -> None:
    """A subfolder that leads out is 400, no image 400, an unknown type 500."""
    assert await _upload_status(far, "x.png", b"x", subfolder="../../x") == 400
    assert await _upload_status(far, "x.png", b"x", type="odd") == 500
    async with far.session.post(f"{far.url}/upload/image", data={"type": "input"}) as answer:
        assert answer.status == 400


async def test_cut_upload_leaves_nothing(far: Far) -> None:
    """An upload whose connection ends early leaves no file."""
    name = f"{far.nonce}-cut.png"
    part = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\nhalf'.encode()
    at = urlsplit(far.url)
    _, writer = await asyncio.open_connection(at.hostname, at.port)
    head = (
        "POST /upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    )
    writer.write(f"{head}Content-Length: 5000\r\n\r\n".encode() + part)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await _upload(far, f"{far.nonce}-whole.png", b"whole")  # the server has been round once since
    async with far.session.head(f"{far.url}/view", params={"filename": name, "type": "input"}) as answer:
        assert answer.status == 404


async def test_waiting_job_sees_an_overwritten_input(far: Far) -> None:
    """A job reads its input when it runs: overwriting changes what a waiting job gets."""
    before, after = (_png((number, 0, 0)) for number in (10, 20))
    name = (await _upload(far, f"{far.nonce}-in.png", before))["name"]
    blocker = await far.submit(far.slow())
    await far.running(blocker)
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": save("1", f"contract/{far.nonce}/p"),
    }
    waiting = await far.submit(graph)
    await _upload(far, name, after, overwrite="true")
    await far.post("/interrupt", {"prompt_id": blocker})
    body = (await _fetch(far, await far.finished(waiting)))[1]
    assert Image.open(io.BytesIO(body)).convert("RGB").getpixel((0, 0)) == (20, 0, 0)


async def test_names_are_used_again_and_cached_files_may_be_gone(far: Far, server: ComfyUI) -> None:
    """After deletion a name is used again by other bytes, and a cached run names a file that no longer exists."""
    graph = far.picture()
    entry = await far.run(graph)
    old = await _fetch(far, entry)
    file = entry["outputs"]["2"]["images"][0]
    (server.base / "output" / file["subfolder"] / file["filename"]).unlink()
    cached = await far.run(graph)
    assert cached["outputs"] == entry["outputs"]
    async with far.session.get(f"{far.url}/view", params=_place(cached)) as answer:
        assert answer.status == 404
    other = await far.run(far.picture(width=50))
    assert other["outputs"] == entry["outputs"]
    assert (await _fetch(far, other))[0]["ETag"] != old[0]["ETag"]


def _png(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(buffer, format="PNG")
    return buffer.getvalue()


def _place(entry: dict[str, Any], node: str = "2") -> dict[str, str]:
    place: dict[str, str] = entry["outputs"][node]["images"][0]
    return place


async def _fetch(far: Far, entry: dict[str, Any], node: str = "2") -> tuple[Any, bytes]:
    async with far.session.get(f"{far.url}/view", params=_place(entry, node)) as answer:
        assert answer.status == 200
        return answer.headers, await answer.read()


async def _range(far: Far, entry: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, bytes]:
    async with far.session.get(f"{far.url}/view", params=_place(entry), headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


def _form(name: str, body: bytes, fields: dict[str, str]) -> aiohttp.FormData:
    form = aiohttp.FormData(fields)
    form.add_field("image", body, filename=name, content_type="image/png")
    return form


async def _upload(far: Far, name: str, body: bytes, **fields: str) -> dict[str, str]:
    async with far.session.post(f"{far.url}/upload/image", data=_form(name, body, fields)) as answer:
        assert answer.status == 200
        told: dict[str, str] = await answer.json()
        return told


async def _upload_status(far: Far, name: str, body: bytes, **fields: str) -> int:
    async with far.session.post(f"{far.url}/upload/image", data=_form(name, body, fields)) as answer:
        return answer.status
