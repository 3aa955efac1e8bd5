"""Files through the whole daemon: a picture goes up, its workflow runs on it, and what cuts in between costs time and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfytunnel import wire
from comfytunnel.errors import NotRunningError, UsageError
from tests.app.test_jobs import picture_of
from tests.app.world import DEADLINE, World


def a_picture(path: Path, color: int) -> Path:
    Image.new("RGB", (8, 8), (color >> 16, color >> 8 & 255, color & 255)).save(path, format="PNG")
    return path


def inverted(image: object) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "test"}},
    }


def color_of(job: wire.Job) -> object:
    assert job.status == "succeeded", job.error
    with Image.open(picture_of(job)) as image:
        return image.convert("RGB").getpixel((0, 0))


def noise(path: Path, megabytes: int) -> Path:
    """A file of so many random MiB."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1024**2))
    return path


async def test_a_picture_goes_up_and_comes_back_inverted(world: World) -> None:
    """Named by `file_path`, as in ComfyUI; and an output of that job is the next one's input."""
    await world.start()
    asset = await world.ask(lambda: world.client.upload(a_picture(world.base / "photo.png", 0x102030)))
    assert (asset.file_path, asset.content_type, asset.created_new) == ("photo.png", "image/png", True)
    job = await world.end_of(await world.submit(inverted("photo.png")))
    assert color_of(job) == (0xEF, 0xDF, 0xCF)
    again = inverted({"__type": "core/ASSET", "info": {"id": job.outputs[0].id}})
    assert color_of(await world.end_of(await world.submit(again))) == (0x10, 0x20, 0x30)


async def test_a_fresh_comfyui_between_two_jobs_gets_the_file_anew(world: World) -> None:
    """Another instance behind the same tunnel: nothing of the first one is there."""
    await world.start()
    await world.ask(lambda: world.client.upload(a_picture(world.base / "photo.png", 0x111111)))
    assert color_of(await world.end_of(await world.submit(inverted("photo.png")))) == (0xEE, 0xEE, 0xEE)
    await world.comfyui.stop()
    shutil.rmtree(world.comfyui.base)
    await world.comfyui.start()
    world.remote.targets[("localhost", 18188)] = world.comfyui.port
    assert color_of(await world.end_of(await world.submit(inverted("photo.png")))) == (0xEE, 0xEE, 0xEE)
    assert len([name for name in world.comfyui.uploads if name.startswith("input/")]) == 2


def sends(seen: wire.Job) -> bool:
    """Whether the job says that its input is on its way."""
    waits = seen.comfytunnel.waits_for if seen.comfytunnel else None
    return waits is not None and waits.code == "inputs"


async def test_a_cut_in_the_middle_of_an_input_costs_only_time(world: World) -> None:
    """The link goes while the file is on its way; it is sent again through the next one, and the job runs once."""
    await world.start()
    large = a_picture(world.base / "large.png", 0x222222)
    with large.open("ab") as file:
        file.write(os.urandom(40 * 1024**2))  # behind the picture's end: it stays a picture
    asset = await world.ask(lambda: world.client.upload(large))
    world.comfyui.faults.slow_upload = 1.0  # so that it is seen even where 40 MB take no time
    job = await world.submit(inverted("large.png"))
    await world.until(lambda: world.client.job(job.id), sends)
    world.remote.cut()
    world.comfyui.faults.slow_upload = 0.0
    assert color_of(await world.end_of(job)) == (0xDD, 0xDD, 0xDD)
    assert world.comfyui.executions == [job.id]
    stored = world.comfyui.base / "input" / "comfytunnel" / f"{str(asset.hash).removeprefix('blake3:')}.png"
    assert stored.read_bytes() == large.read_bytes()


async def test_kill_9_while_an_input_is_on_its_way_and_a_new_start_send_it_again(world: World) -> None:
    await world.start()
    await world.ask(lambda: world.client.upload(a_picture(world.base / "photo.png", 0x123456)))
    world.comfyui.faults.slow_upload = 60.0
    job = await world.submit(inverted("photo.png"))
    await world.until(lambda: world.client.job(job.id), sends)
    await world.kill()
    world.comfyui.faults.slow_upload = 0.0
    await world.start()
    assert color_of(await world.end_of(job)) == (0xED, 0xCB, 0xA9)
    assert world.comfyui.executions == [job.id]


async def test_a_large_upload_leaves_the_daemons_memory_as_it_was(world: World) -> None:
    """48 MiB through the daemon's socket, back out, and up to a ComfyUI that takes them, a MiB at a time."""
    await world.start()
    large = noise(world.base / "large.bin", 48)
    assert world.process is not None
    status = Path(f"/proc/{world.process.pid}/status")
    if not status.exists():
        pytest.skip("the memory of another process is read from /proc")

    def peak() -> int:
        return next(
            int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")
        )

    await world.ask(lambda: world.client.upload(a_picture(world.base / "small.png", 1)))
    await world.end_of(await world.submit(inverted("small.png")))
    before = peak()
    asset = await world.ask(lambda: world.client.upload(large))
    assert asset.size_bytes == 48 * 1024**2
    with (world.base / "back.bin").open("wb") as back:
        await world.ask(lambda: world.client.download(asset.id, back))
    assert (world.base / "back.bin").read_bytes() == large.read_bytes()
    job = await world.end_of(await world.submit(inverted("large.bin")))
    assert job.error is not None
    assert (
        job.error.code == "invalid_workflow" or job.status == "failed"
    )  # it is no picture; it went up all the same
    assert any(name.startswith("input/") and name.endswith(".bin") for name in world.comfyui.uploads)
    assert peak() - before < 16 * 1024, "kB"


async def test_kill_9_in_the_middle_of_an_upload_leaves_nothing_after_the_next_start(world: World) -> None:
    await world.start()
    folder = world.base / "state" / "assets"
    reader, writer = await asyncio.open_unix_connection(world.client.socket_path)
    head = (
        "POST /api/v2/assets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        'Content-Length: 9000000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    )
    writer.write(head.encode() + bytes(4_000_000))
    await world.until(
        lambda: [path.stat().st_size for path in folder.iterdir()], lambda sizes: sum(sizes) > 10**6
    )
    await world.kill()
    writer.close()
    with contextlib.suppress(ConnectionResetError):  # where the kernel still held bytes that nobody had read
        assert await reader.read() == b""
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    await world.start()
    assert list(folder.iterdir()) == []
    assert (
        await world.ask(lambda: world.client.upload(a_picture(world.base / "p.png", 2)))
    ).created_new is True


async def test_the_client_says_what_the_daemon_says_while_it_still_sends(world: World) -> None:
    """A name that is refused, a file that is too large by a limit that is new, a file that is none, no daemon."""
    await world.start()
    large = noise(world.base / "large.bin", 8)
    for name in ("../../etc/passwd", "x" * 2000):
        with pytest.raises(UsageError, match="file_path"):
            await world.ask(lambda: world.client.upload(large, name=name))  # noqa: B023 (awaited before it changes)
    world.config.write_text(world.config_text() + "max_upload_mb = 5\n")
    await world.ask(world.client.reload)
    with pytest.raises(UsageError, match="larger than 5 MB"):
        await world.ask(lambda: world.client.upload(large))
    for path in (world.base, world.base / "absent.png"):
        with pytest.raises(UsageError):
            await world.ask(lambda: world.client.upload(path))  # noqa: B023
    await world.stop()
    with pytest.raises(NotRunningError):
        await world.ask(lambda: world.client.upload(large))


async def test_run_uploads_what_input_names(world: World) -> None:
    await world.start()
    a_picture(world.base / "mine.png", 0x303030)
    source = world.base / "workflow.json"
    source.write_bytes(json.dumps(inverted("not there.png")).encode())
    given = f"1.image={world.base / 'mine.png'}"
    code, out, err = await world.run("run", str(source), "--input", given)
    assert code == 0, err
    with Image.open(out.strip()) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0xCF, 0xCF, 0xCF)
    code, out, err = await world.run("submit", str(source), "--input", given)
    assert code == 0, err
    async with asyncio.timeout(DEADLINE):
        assert (
            color_of(await world.end_of(await world.ask(lambda: world.client.job(out.strip()))))
            == (0xCF,) * 3
        )
