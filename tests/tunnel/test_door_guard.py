"""The guard at a real door: what is refused never reaches the far end, what is answered is answered whole, ends stay ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import structlog

from comfytunnel.config import Unix
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.tunnel import door
from comfytunnel.tunnel.guard import Rules
from comfytunnel.tunnel.state import Phase, Reconnect
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.callers import GET, MEGABYTE, all_gone, connected
from tests.tunnel.conftest import DEADLINE, Far, becomes, config_for, hello, near, service
from tests.tunnel.test_owner import NOBODY, as_root

EVIL = (
    b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}"
)
LATER = b"GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n"


def refusal(answer: bytes) -> str:
    """The code in a 403 or 400 of ours, after checking that it is whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 40[03] ", head), answer[:200]
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert length is not None
    assert int(length[1]) == len(body)
    return str(json.loads(body)["error"]["code"])


class Heard:
    """A service that notes what reaches it and answers each request of a connection after `gate`."""

    def __init__(self) -> None:
        self.data = b""
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.data += data
            for _ in range(data.count(b"HTTP/1.1\r\n")):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
                await self.gate.wait()
                writer.write(b"llo")


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spares", [0, 2])
async def test_a_foreign_page_gets_403_and_the_far_end_nothing(spares: int, far: Far, tmp_path: Path) -> None:
    heard = Heard()
    async with service(heard) as port, near(config_for(far, tmp_path, port, spares=spares)) as tunnel:
        await tunnel.up()
        assert refusal(await tunnel.call(EVIL)) == "origin_refused"
        assert refusal(
            await tunnel.call(
                EVIL.replace(b"Content-Length: 2", b"Content-Length: 9999999") + bytes(MEGABYTE)
            )
        )
        assert refusal(await tunnel.call(GET.replace(b"localhost", b"evil.example"))) == "host_refused"
        assert refusal(await tunnel.call(GET.replace(b"Host", b"X: a\r\n b\r\nHost"))) == "bad_request"
        assert tunnel.door.tally.refused == 4
        assert tunnel.door.tally.lost == 0
        await all_gone(tunnel)
    assert heard.data == b""


async def test_a_head_in_pieces_is_judged_when_it_is_whole_though_its_channel_is_open(
    far: Far, tmp_path: Path
) -> None:
    heard = Heard()
    async with service(heard) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        for data, last in ((LATER, b"hello"), (EVIL, b"}\n")):
            async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
                writer.write(data[:30])
                await becomes(lambda: any(c._channel for c in tunnel.door._callers), "its channel is open")
                writer.write(data[30:] + (bytes(MEGABYTE) if data is EVIL else b""))
                if data is EVIL:
                    assert refusal(await reader.read()) == "origin_refused"
                else:
                    assert (await reader.readuntil(last)).startswith(b"HTTP/1.1 200 ")
        assert heard.data == LATER
        await all_gone(tunnel)


async def test_a_refused_caller_is_not_held_while_there_is_no_link(sshd: Sshd, tmp_path: Path) -> None:
    heard = Heard()
    sshd.set_authorized([])
    async with service(heard) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        async with asyncio.timeout(2):
            assert refusal(await tunnel.call(EVIL)) == "origin_refused"
        assert tunnel.door.held_callers == 0
        sshd.set_authorized([sshd.client_public])
        tunnel.tell(Reconnect())
        await tunnel.up()
        await all_gone(tunnel)
    assert heard.data == b""


async def test_a_later_request_of_another_page_resets_the_connection_and_never_arrives(
    far: Far, tmp_path: Path
) -> None:
    """Whatever is being answered on it must not be mixed with an answer of ours."""
    heard = Heard()
    async with service(heard) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        for answered in (True, False):
            heard.data = b""
            heard.gate.set() if answered else heard.gate.clear()
            async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
                writer.write(LATER)
                got = await reader.readuntil(b"hello" if answered else b"he")
                writer.write(EVIL)
                with pytest.raises(ConnectionResetError):
                    got += await reader.read()
                assert b"403" not in got
                heard.gate.set()
            await all_gone(tunnel)
            assert heard.data == LATER


async def test_pipelined_requests_pass_up_to_the_one_that_is_refused(far: Far, tmp_path: Path) -> None:
    heard = Heard()
    async with service(heard) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(LATER * 3)
            for _ in range(3):
                await reader.readuntil(b"hello")
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(LATER + EVIL + LATER)
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await all_gone(tunnel)
    assert b"evil" not in heard.data
    assert heard.data.count(LATER) <= 4


async def test_who_was_greeted_first_is_reset_and_not_answered(far: Far, tmp_path: Path) -> None:
    """A server that speaks first passes; an answer of ours behind its words would be read as theirs."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        assert await reader.read() == b""

    async with service(greet) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            assert await reader.readline() == b"220 welcome\r\n"
            writer.write(EVIL)
            with pytest.raises(ConnectionResetError):
                await reader.read()


async def test_half_a_head_and_an_end_bring_the_end_only(far: Far, tmp_path: Path) -> None:
    heard = Heard()
    async with service(heard) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        assert await tunnel.call(LATER[:-2], end=True) == b""
        assert await tunnel.call(b"GE", end=True) == b""
        await all_gone(tunnel)
    assert heard.data == b"GE"


async def test_a_reason_is_logged_once_and_endless_reasons_are_not(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "REFUSALS_TOLD", 3)
    async with near(config_for(sshd, tmp_path, 1)) as tunnel:
        await tunnel.up()
        with structlog.testing.capture_logs() as lines:
            for number in range(6):
                for _ in range(2):
                    await tunnel.call(GET.replace(b"localhost", b"evil%d" % number))
        told = [line for line in lines if line["event"] == "refused"]
        assert [line["cause"] for line in told] == ["host_refused"] * 3
        assert all(line["log_level"] == "warning" and line["hint"] for line in told)


# --- owners ---------------------------------------------------------------------------------------------------------

STRANGER = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket()
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.sendall(sys.stdin.buffer.read())
sys.stdout.buffer.write(sock.makefile("rb").read())
"""


@as_root
async def test_another_user_of_the_machine_gets_nothing_unless_allowed(far: Far, tmp_path: Path) -> None:
    heard = Heard()

    async def stranger(data: bytes) -> bytes:
        command = [sys.executable, "-c", STRANGER, str(tunnel.port), str(NOBODY)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE):
            return (await process.communicate(data))[0]

    async with service(heard) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        assert refusal(await stranger(GET)) == "other_user"
        assert await stranger(b"\x16\x03\x01") == b""
        assert heard.data == b""
        await all_gone(tunnel)
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        tunnel.door.rules = Rules(allow_other_users=True)
        assert (await stranger(GET)).endswith(b"hello")


# --- passes ---------------------------------------------------------------------------------------------------------


async def test_a_unix_socket_has_its_mode_for_a_guard(sshd: Sshd, tmp_path: Path, short_path: Path) -> None:
    path = short_path / "s"
    async with service(hello) as port, near(config_for(sshd, tmp_path, port, listen=(Unix(path),))) as tunnel:
        await tunnel.up()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET.replace(b"localhost", b"anything"))
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_programs_use_comfyui_as_ever(far: Far, tmp_path: Path) -> None:
    """Kept-alive requests, uploads by length and in chunks, a websocket, downloads; with aiohttp and with curl."""
    picture = os.urandom(900_000)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7777):
            yield body[at : at + 7777]

    comfyui = ComfyUI(tmp_path / "instance")
    await comfyui.start("127.0.0.1", free_port())
    try:
        async with (
            near(config_for(far, tmp_path, comfyui.port)) as tunnel,
            aiohttp.ClientSession() as session,
        ):
            await tunnel.up()
            url = f"http://127.0.0.1:{tunnel.port}"
            async with session.ws_connect(f"{url}/ws?clientId=a") as ws:
                assert json.loads((await ws.receive(timeout=DEADLINE)).data)["type"] == "status"
                await ws.send_json({"type": "feature_flags", "data": {}})
            form = aiohttp.FormData()
            form.add_field("image", picture, filename="a.png")
            async with session.post(f"{url}/upload/image", data=form) as answer:
                assert answer.status == 200
            boundary = "b" * 20
            body = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="b.png"\r\n\r\n'.encode()
                + picture
                + f"\r\n--{boundary}--\r\n".encode()
            )
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            async with session.post(f"{url}/upload/image", data=pieces(), headers=headers) as answer:
                assert answer.status == 200
            for name in ("a.png", "b.png"):
                async with session.get(f"{url}/view", params={"filename": name, "type": "input"}) as answer:
                    assert await answer.read() == picture
            if shutil.which("curl"):
                (tmp_path / "c.png").write_bytes(picture)
                for extra in (
                    ["-0"],
                    ["-F", f"image=@{tmp_path}/c.png"],
                    ["-F", f"image=@{tmp_path}/c.png", "-H", "Transfer-Encoding: chunked"],
                ):
                    path = "queue" if extra == ["-0"] else "upload/image"
                    curl = await asyncio.create_subprocess_exec(
                        "curl", "-sS", "--fail", *extra, f"{url}/{path}", stdout=subprocess.PIPE
                    )
                    out, _ = await curl.communicate()
                    assert curl.returncode == 0
                    assert json.loads(out)
            assert tunnel.door.tally.refused == 0
    finally:
        await comfyui.stop()
