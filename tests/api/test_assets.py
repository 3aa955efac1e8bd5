"""/api/v2/assets: files in, described, out and away, every answer held against the contract."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blake3 import blake3

from comfytunnel.errors import StateError
from comfytunnel.jobs import landing
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.model import Stage, Status
from comfytunnel.jobs.store import Store
from tests.api.conftest import Api
from tests.api.contract import check

ASSETS = "/api/v2/assets"


def digest(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def kept(api: Api) -> list[str]:
    """The names in the folder of the uploads."""
    return sorted(path.name for path in api.store.files.iterdir())


def form(data: bytes | None = b"bytes", **fields: str) -> aiohttp.FormData:
    said = {"content_type": "image/png", "file_path": "photo.png"} | fields
    made = aiohttp.FormData({key: value for key, value in said.items() if value != "absent"})
    if data is not None:
        made.add_field("file", io.BytesIO(data), filename="photo.png")
    return made


async def refused(api: Api, given: aiohttp.FormData, status: int = 422) -> dict[str, Any]:
    """The error of an upload that must be refused and leave nothing."""
    got, told = await api.ask("POST", ASSETS, data=given)
    assert got == status, told
    check("POST", ASSETS, got, told)
    assert kept(api) == []
    error: dict[str, Any] = told["error"]
    return error


def graph(image: object) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def asset_object(asset_id: object) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": asset_id}}


async def submit(api: Api, workflow: dict[str, Any]) -> tuple[int, Any]:
    status, told = await api.ask("POST", "/api/v2/jobs", json={"workflow": workflow})
    check("POST", "/api/v2/jobs", status, told)
    return status, told


async def test_an_upload_is_new_once_and_then_shares_its_bytes(api: Api) -> None:
    """201 and created_new for new bytes, 200 for known ones; an asset of its own each time, the bytes there once, private."""
    status, first = await api.ask("POST", ASSETS, data=form())
    check("POST", ASSETS, status, first)
    assert (status, first["created_new"], first["hash"]) == (201, True, digest(b"bytes"))
    assert (first["size_bytes"], first["content_type"], first["file_path"]) == (5, "image/png", "photo.png")
    assert first["expires_at"] is None
    assert "job_id" not in first
    status, second = await api.ask("POST", ASSETS, data=form())
    check("POST", ASSETS, status, second)
    assert (status, second["created_new"]) == (200, False)
    assert second["id"] != first["id"]
    assert kept(api) == [digest(b"bytes").removeprefix("blake3:")]
    assert api.store.files.stat().st_mode & 0o777 == 0o700
    assert (api.store.files / kept(api)[0]).stat().st_mode & 0o777 == 0o600


async def test_an_asset_is_shown_and_its_bytes_come_back(api: Api) -> None:
    asset = await api.upload(b"0123456789")
    status, shown = await api.ask("GET", f"{ASSETS}/{asset['id']}")
    check("GET", f"{ASSETS}/{{id}}", status, shown)
    assert shown == {key: value for key, value in asset.items() if key != "created_new"}
    async with api.http.get(asset["url"]) as response:
        assert await response.read() == b"0123456789"
        assert response.headers["Content-Type"] == "image/png"
        assert "photo.png" in response.headers["Content-Disposition"]


async def test_a_form_that_ends_in_the_middle_of_the_file_is_refused(api: Api) -> None:
    """The request is whole by its Content-Length, the form is not: its last boundary is missing."""
    fields = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in [("content_type", "image/png"), ("file_path", "a.png")]
    )
    body = f'{fields}--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhalf'.encode()
    for ending, status in [(b"", 422), (b"\r\n", 422), (b"\r\n--b--\r\n", 201)]:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        got, told = await api.ask("POST", ASSETS, data=body + ending, headers=headers)
        assert got == status, told
        assert len(kept(api)) == (status == 201)


@pytest.mark.parametrize(
    "part",
    [
        'Content-Disposition: form-data; name="_charset_"\r\n\r\n' + "x" * 40,
        'Content-Disposition: form-data; name="file"; filename="x"\r\nContent-Length: 2\r\n\r\nlonger',
        'Content-Disposition: form-data; name="file"; filename="x"\r\nContent-Length: nan\r\n\r\nbytes',
        'Content-Disposition: form-data; filename="x"\r\n\r\nno name',
        "Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--",
        'Content-Disposition: form-data; name="content_type"\r\n\r\n\udcff',
    ],
    ids=range(6),
)
async def test_a_form_that_lies_about_itself_is_refused(api: Api, part: str) -> None:
    """In its lengths, its character set, its structure: 422 with a reason, never an error of ours."""
    body = f"--b\r\n{part}\r\n--b--\r\n".encode("utf-8", "surrogateescape")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, told = await api.ask("POST", ASSETS, data=body, headers=headers)
    assert (status, told["error"]["code"]) == (422, "invalid_request"), told
    assert kept(api) == []


async def test_an_idempotency_key_is_used_once(api: Api) -> None:
    """The answer to a repeat names the asset that the first one made; a refused upload leaves the key free."""
    headers = {"Idempotency-Key": "key-1"}
    status, _ = await api.ask("POST", ASSETS, data=form(file_path="/etc/passwd"), headers=headers)
    assert status == 422
    status, made = await api.ask("POST", ASSETS, data=form(), headers=headers)
    assert status == 201
    for data in (form(), form(b"other")):
        status, told = await api.ask("POST", ASSETS, data=data, headers=headers)
        check("POST", ASSETS, status, told)
        assert (status, told["error"]["code"]) == (422, "idempotency_key_reuse")
        assert told["error"]["details"]["asset_id"] == made["id"]
        assert "job_id" not in told["error"]["details"]
    status, _ = await api.ask("POST", ASSETS, data=form(), headers={"Idempotency-Key": "x" * 256})
    assert status == 422
    assert len(kept(api)) == 1


async def test_two_uploads_with_one_key_at_the_same_time_make_one_asset(api: Api) -> None:
    async def send() -> int:
        return (await api.ask("POST", ASSETS, data=form(), headers={"Idempotency-Key": "key"}))[0]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send()) for _ in range(5)]
    assert sorted(task.result() for task in tasks) == [201, 422, 422, 422, 422]


async def test_fields_may_come_in_any_order_and_hash_and_tags_are_taken(api: Api) -> None:
    """The file first, then what is said of it."""
    given = aiohttp.FormData()
    given.add_field("file", b"bytes", filename="x")
    for name, value in [
        ("tags", "input"),
        ("tags", "mine"),
        ("file_path", "a/b.png"),
        ("content_type", "Image/PNG"),
    ]:
        given.add_field(name, value)
    given.add_field("expected_hash", digest(b"bytes"))
    status, asset = await api.ask("POST", ASSETS, data=given)
    assert status == 201
    assert (asset["file_path"], asset["content_type"]) == ("a/b.png", "image/png")
    assert asset["comfytunnel"]["tags"] == ["input", "mine"]


async def test_another_hash_than_expected_is_refused_and_leaves_nothing(api: Api) -> None:
    error = await refused(api, form(b"bytes", expected_hash=digest(b"other")), 409)
    assert error["code"] == "hash_mismatch"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..\\..\\b.png",
        "\\\\host\\b",
        "",
        "a\nb.png",
        "\x1b[2Jx.png",
        "\u202egnp.exe",
        "x" * 1025,
    ],
)
async def test_a_hostile_name_is_refused(api: Api, name: str) -> None:
    error = await refused(api, form(file_path=name))
    assert error["details"]["path"] == "$.file_path"
    assert sorted(path.name for path in api.store.files.parent.iterdir() if path.is_dir()) == ["assets"]


@pytest.mark.parametrize(
    "name", ["photo.png", "sub/photo.png", "..png", "C:\\x.png", "ümläut ?*:.png", "x" * 1024]
)
async def test_an_odd_name_is_a_label_and_stays_as_it_is(api: Api, name: str) -> None:
    """However odd the name, the file lies under its hash."""
    asset = await api.upload(b"bytes", name)
    assert asset["file_path"] == name
    assert kept(api) == [digest(b"bytes").removeprefix("blake3:")]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"content_type": "absent"}, "content_type"),
        ({"file_path": "absent"}, "file_path"),
        ({"content_type": "png\r\nX: y"}, "content_type"),
        ({"expected_hash": "sha256:00"}, "expected_hash"),
        ({"expires_in": "59"}, "expires_in"),
        ({"expires_in": "604801"}, "expires_in"),
        ({"expires_in": "-5"}, "expires_in"),
        ({"tags": ""}, "tags"),
        ({"file_path": "y" * 5000}, "file_path"),
    ],
)
async def test_what_does_not_fit_is_said_with_its_field(api: Api, fields: dict[str, str], path: str) -> None:
    assert (await refused(api, form(b"bytes", **fields)))["details"]["path"] == f"$.{path}"


async def test_no_file_two_files_and_no_form_are_refused(api: Api) -> None:
    assert (await refused(api, form(None, x="y")))["details"]["path"] == "$.file"
    twice = form()
    twice.add_field("file", b"more", filename="y")
    assert (await refused(api, twice))["details"]["path"] == "$.file"
    for body, kind in [
        (b"{}", "application/json"),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data"),
    ]:
        status, told = await api.ask("POST", ASSETS, data=body, headers={"Content-Type": kind})
        assert (status, told["error"]["code"]) == (422, "invalid_request"), kind
    assert kept(api) == []


@pytest.mark.parametrize("announced", [True, False])
async def test_more_than_is_kept_is_refused_and_leaves_nothing(api: Api, *, announced: bool) -> None:
    """By its Content-Length before it is read, or, without one, as soon as it has become too long."""
    api.context.assets.max_upload = 100_000
    data: Any = form(b"x" * 3_000_000)
    if not announced:
        whole = data()

        async def pieces() -> Any:
            yield (await whole.as_bytes())

        status, told = await api.ask(
            "POST", ASSETS, data=pieces(), headers={"Content-Type": whole.content_type}
        )
    else:
        status, told = await api.ask("POST", ASSETS, data=data)
    assert (status, told["error"]["code"]) == (422, "file_too_large")
    assert kept(api) == []


async def test_what_announces_too_much_is_refused_before_it_is_read(api: Api) -> None:
    reader, writer = await asyncio.open_unix_connection(api.path)
    writer.write(
        b"POST /api/v2/assets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 99999999999\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert b" 422 " in await reader.readline()
    writer.close()


async def test_a_full_disk_is_said_and_nothing_half_written_stays(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = landing.Landing.write

    def full(self: landing.Landing, data: bytes) -> None:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(landing.Landing, "write", full)
    error = await refused(api, form(), 500)
    assert error["code"] == "disk_full"
    assert "room" in error["message"]


async def test_a_caller_that_leaves_in_the_middle_leaves_nothing(api: Api) -> None:
    """The bytes so far are on disk, then the connection ends."""
    reader, writer = await asyncio.open_unix_connection(api.path)
    head = (
        "POST /api/v2/assets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        'Content-Length: 9000000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    )
    writer.write(head.encode() + b"x" * 3_000_000)
    await writer.drain()
    async with asyncio.timeout(10):
        while not any((api.store.files / name).stat().st_size >= 1_000_000 for name in kept(api)):  # noqa: ASYNC110 (a disk has no bell)
            await asyncio.sleep(0.01)
        writer.close()
        while kept(api):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await reader.read() == b""


async def test_leftovers_of_a_killed_process_are_swept(api: Api) -> None:
    """Half an upload, and bytes that never got a record; what has one stays."""
    await api.upload(b"bytes")
    (api.store.files / "abc.part").write_bytes(b"half")
    (api.store.files / ("0" * 64)).write_bytes(b"renamed, not recorded")
    await api.context.assets.open()
    assert kept(api) == [digest(b"bytes").removeprefix("blake3:")]


async def test_a_folder_that_somebody_took_away_is_an_error_and_not_the_daemons_end(api: Api) -> None:
    """The sweep says so; the next upload makes it anew."""
    api.store.files.rmdir()
    with pytest.raises(StateError):
        await api.context.assets.sweep()
    assert (await api.ask("POST", ASSETS, data=form()))[0] == 201


async def test_files_of_others_in_the_folder_are_left_alone(api: Api) -> None:
    (api.store.files / "notes.txt").write_text("mine")
    await api.context.assets.sweep()
    assert kept(api) == ["notes.txt"]


async def test_the_files_of_a_broken_database_are_moved_aside_with_it(api: Api, tmp_path: Path) -> None:
    """Without their records nobody would need them, and the first sweep would delete them all."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / ("0" * 64)).write_bytes(b"bytes")
    (tmp_path / "jobs.db").write_bytes(b"broken" * 1000)
    store = await Store.open(tmp_path / "jobs.db")
    try:
        await Assets(store).open()
    finally:
        await store.close()
    [aside] = tmp_path.glob("assets.broken-*")
    assert (aside / ("0" * 64)).read_bytes() == b"bytes"
    assert list(store.files.iterdir()) == []


async def test_from_hash_makes_an_asset_over_known_bytes(api: Api) -> None:
    asset = await api.upload(b"bytes")
    body = {"hash": asset["hash"], "file_path": "again.png", "tags": ["t"], "expires_in": 3600}
    status, made = await api.ask("POST", f"{ASSETS}/from-hash", json=body)
    check("POST", f"{ASSETS}/from-hash", status, made)
    assert (status, made["created_new"], made["file_path"], made["size_bytes"]) == (
        201,
        False,
        "again.png",
        5,
    )
    assert made["content_type"] == "image/png"
    body["expires_in"] = 7200
    status, same = await api.ask("POST", f"{ASSETS}/from-hash", json=body)
    check("POST", f"{ASSETS}/from-hash", status, same)
    assert (status, same["id"]) == (200, made["id"])
    assert same["expires_at"] > made["expires_at"]
    status, shorter = await api.ask("POST", f"{ASSETS}/from-hash", json=body | {"expires_in": 60})
    assert (status, shorter["expires_at"]) == (200, same["expires_at"])


@pytest.mark.parametrize("asked", [digest(b"unknown"), "blake3:short", "../../etc/passwd", ""])
async def test_unknown_bytes_are_not_found_by_hash(api: Api, asked: str) -> None:
    status, told = await api.ask("POST", f"{ASSETS}/from-hash", json={"hash": asked})
    check("POST", f"{ASSETS}/from-hash", status, told)
    assert (status, told["error"]["code"]) == (404, "blob_not_found")


async def test_by_hash_says_whether_from_hash_would_find_it(api: Api) -> None:
    asset = await api.upload(b"bytes")
    for asked, status in [(asset["hash"], 200), (digest(b"other"), 404), ("blake3:x", 404)]:
        async with api.http.head(f"http://localhost{ASSETS}/by-hash/{asked}") as response:
            assert (response.status, await response.read()) == (status, b"")


async def test_content_honours_ranges_only_of_the_bytes_that_the_caller_has(api: Api) -> None:
    asset = await api.upload(b"0123456789")
    async with api.http.get(asset["url"]) as response:
        tag = response.headers["ETag"]
    for headers, status, body in [
        ({"Range": "bytes=2-4"}, 206, b"234"),
        ({"Range": "bytes=-3"}, 206, b"789"),
        ({"Range": "bytes=4-", "If-Range": tag}, 206, b"456789"),
        ({"Range": "bytes=4-", "If-Range": '"other"'}, 200, b"0123456789"),
        ({"Range": "bytes=4-", "If-Range": f"W/{tag}"}, 200, b"0123456789"),
        ({"Range": "bytes=10-"}, 416, b""),
        ({"Range": "bytes=2-4", "If-Match": '"other"'}, 412, b""),
        ({"If-None-Match": tag}, 304, b""),
    ]:
        async with api.http.get(asset["url"], headers=headers) as response:
            assert (response.status, await response.read()) == (status, body), headers
            if status == 206:
                assert response.headers["Content-Range"].endswith("/10")


async def test_delete_takes_the_record_and_the_last_one_takes_the_bytes(api: Api) -> None:
    first, second = await api.upload(b"bytes"), await api.upload(b"bytes", "b.png")
    for asset, left in [(first, 1), (second, 0)]:
        async with api.http.delete(f"http://localhost{ASSETS}/{asset['id']}") as response:
            assert (response.status, await response.read()) == (204, b"")
        assert len(kept(api)) == left
        for method, route in [("DELETE", "{id}"), ("GET", "{id}"), ("GET", "{id}/content")]:
            status, told = await api.ask(method, f"{ASSETS}/{route.format(id=asset['id'])}")
            check(method, f"{ASSETS}/{route}", status, told)
            assert (status, told["error"]["code"]) == (404, "not_found")


async def test_what_a_job_has_made_is_not_deleted_by_itself(api: Api, tmp_path: Path) -> None:
    job_id = await api.submit()
    (tmp_path / "a.png").write_bytes(b"x")
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / "a.png")
    status, told = await api.ask("DELETE", f"{ASSETS}/{output.asset_id}")
    check("DELETE", f"{ASSETS}/{{id}}", status, told)
    assert (status, told["error"]["code"]) == (409, "asset_in_use")


async def test_an_expired_asset_is_gone_at_that_second_and_its_bytes_at_the_next_sweep(api: Api) -> None:
    asset = await api.upload(b"bytes", expires_in="60")
    assert asset["expires_at"] is not None
    api.context.assets.now = lambda: datetime.now(UTC) + timedelta(seconds=61)
    assert (await api.ask("GET", f"{ASSETS}/{asset['id']}"))[0] == 404
    assert (await submit(api, graph(asset_object(asset["id"]))))[1]["error"]["code"] == "missing_asset"
    await api.context.assets.sweep()
    assert kept(api) == []


async def test_a_job_is_bound_to_the_assets_that_its_graph_means(api: Api) -> None:
    """By the object with the id, inside a list too; by a text equal to the name, the newest wins; the graph stays as it was sent."""
    old, new = await api.upload(b"old", "a.png"), await api.upload(b"new", "a.png")
    typed = await api.upload(b"typed", "b.JPG")
    workflow = graph("a.png") | {
        "7": {
            "class_type": "Batch",
            "inputs": {"images": {"list": [asset_object(typed["id"]), asset_object(old["id"])]}, "text": "b"},
        }
    }
    status, job = await submit(api, workflow)
    assert status == 201, job
    bound = await api.store.inputs(job["id"])
    assert [(item.at, f"blake3:{item.blake3}", item.suffix) for item in bound] == [
        (("1", "image"), new["hash"], ".png"),
        (("7", "images", "list", 0), typed["hash"], ".jpg"),
        (("7", "images", "list", 1), old["hash"], ".png"),
    ]
    assert (await api.ask("GET", f"/api/v2/jobs/{job['id']}/workflow"))[1]["workflow"] == workflow


@pytest.mark.parametrize("given", ["unknown", None, 7, ""])
async def test_an_asset_that_is_not_there_is_said_at_submission(api: Api, given: object) -> None:
    status, told = await submit(api, graph(asset_object(given)))
    assert (status, told["error"]["code"]) == (422, "missing_asset")
    assert told["error"]["details"]["node_errors"]["1"][0]["field"] == "image"
    assert (await api.ask("GET", "/api/v2/jobs"))[1]["jobs"] == []


async def test_an_asset_whose_bytes_were_taken_away_is_missing(api: Api) -> None:
    asset = await api.upload(b"bytes")
    (api.store.files / kept(api)[0]).unlink()
    for image in ("photo.png", asset_object(asset["id"])):
        assert (await submit(api, graph(image)))[1]["error"]["code"] == "missing_asset"
    assert (await api.ask("GET", f"{ASSETS}/{asset['id']}/content"))[0] == 404


async def test_damaged_bytes_are_mended_by_the_next_upload(api: Api) -> None:
    await api.upload(b"bytes")
    (api.store.files / kept(api)[0]).write_bytes(b"bYtes")
    asset = await api.upload(b"bytes")
    async with api.http.get(asset["url"]) as response:
        assert await response.read() == b"bytes"


async def test_a_deleted_asset_keeps_its_bytes_until_the_job_has_ended(api: Api) -> None:
    asset = await api.upload(b"bytes")
    _, job = await submit(api, graph(asset_object(asset["id"])))
    async with api.http.delete(f"http://localhost{ASSETS}/{asset['id']}") as response:
        assert response.status == 204
    await api.context.assets.sweep()
    assert len(kept(api)) == 1
    await api.scheduler.start(job["id"])
    await api.scheduler.succeed(job["id"])
    await api.context.assets.sweep()
    assert kept(api) == []


async def test_what_a_job_has_made_can_be_the_input_of_another(api: Api, tmp_path: Path) -> None:
    """Its bytes are copied at submission: what becomes of the file in the user's folder is no matter then. A changed file is missing."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"picture")
    first = await api.submit()
    await api.scheduler.start(first)
    output = await api.scheduler.output(first, picture, blake3=digest(b"picture").removeprefix("blake3:"))
    status, job = await submit(api, graph(asset_object(output.asset_id)))
    assert status == 201, job
    assert (api.store.files / kept(api)[0]).read_bytes() == b"picture"
    await api.scheduler.move(job["id"], Stage.ENDED, status=Status.CANCELED)
    await api.context.assets.sweep()
    picture.write_bytes(b"PICTURE")
    assert (await submit(api, graph(asset_object(output.asset_id))))[1]["error"]["code"] == "missing_asset"
    picture.unlink()
    picture.symlink_to("/etc/passwd")
    assert (await submit(api, graph(asset_object(output.asset_id))))[1]["error"]["code"] == "missing_asset"
    assert kept(api) == []


async def test_an_upload_and_a_sweep_at_the_same_time_lose_nothing(api: Api) -> None:
    """The sweep may look between the bytes' arrival and their record."""
    sweeping = True

    async def sweep() -> None:
        while sweeping:
            await api.context.assets.sweep()

    task = asyncio.create_task(sweep())
    made = [await api.upload(f"{number}".encode()) for number in range(30)]
    sweeping = False
    await task
    assert len(kept(api)) == len(made) == 30
