"""The Python client: its core on bytes, its shell against a served API and against daemons that are not well."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel import wire
from comfytunnel.client import Client, carrier
from comfytunnel.errors import (
    ConfigError,
    Error,
    NotFoundError,
    NotRunningError,
    RefusedError,
    RemoteError,
    StateError,
    TimedOutError,
    UsageError,
    WorkflowError,
)
from comfytunnel.jobs.model import LiveProgress
from comfytunnel.protocol import EVENT_LIMIT, EventParser, ServerSentEvent, error_from
from tests.api.conftest import WORKFLOW, Api, a_tunnel, serving
from tests.api.conftest import api as api
from tests.api.conftest import short as short

T = TypeVar("T")


async def off(call: Callable[[], T]) -> T:
    """Run a blocking call beside the loop that serves it."""
    return await asyncio.to_thread(call)


STREAM = b": hi\nid: 7\nevent: a\ndata: one\ndata: two\n\ndata:x\r\n\r\nevent: lost\n\n: bye\nid: 8\nevent: b\ndata: 3\n\n"


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    """The parser keeps no opinion about where one read ends and the next begins."""
    parser, found, last = EventParser(), list[ServerSentEvent](), 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += parser.feed(STREAM[last:cut])
        last = cut
    assert found == [
        ServerSentEvent("a", b"one\ntwo", "7"),
        ServerSentEvent("message", b"x", "7"),
        ServerSentEvent("b", b"3", "8"),
    ]


def test_an_event_without_end_is_given_up() -> None:
    parser = EventParser()
    assert not list(parser.feed(b"data: " + b"x" * (EVENT_LIMIT // 2)))
    with pytest.raises(RemoteError):
        list(parser.feed(b"x" * (EVENT_LIMIT // 2)))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "invalid_workflow", WorkflowError),
        (422, "workflow_format_ui", WorkflowError),
        (422, "invalid_request", UsageError),
        (400, "invalid_json", UsageError),
        (404, "tunnel_not_found", NotFoundError),
        (403, "browser_refused", RefusedError),
        (500, "state_error", StateError),
        (500, "internal", RemoteError),
        (418, "new_in_a_later_version", RemoteError),
    ],
)
def test_an_error_keeps_class_code_hint_and_details(status: int, code: str, kind: type[Error]) -> None:
    body = {"error": {"code": code, "message": "why", "details": {"hint": "next", "path": "$.x"}}}
    error = error_from(status, msgspec.json.encode(body))
    assert type(error) is kind
    assert (error.code_on_wire, error.message, error.hint) == (code, "why", "next")
    assert error.details == {"path": "$.x"}


def test_a_config_error_keeps_every_problem() -> None:
    details = {"source": "c.toml", "problems": [{"path": "a.b", "message": "no", "hint": ""}]}
    error = error_from(
        422, msgspec.json.encode({"error": {"code": "config_error", "message": "m", "details": details}})
    )
    assert isinstance(error, ConfigError)
    assert error.problems[0].path == "a.b"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 1}'])
def test_an_answer_that_is_no_envelope_is_still_an_error(body: bytes) -> None:
    assert "500" in error_from(500, body).message


async def test_every_call_speaks_to_the_daemon(api: Api) -> None:
    c = Client(api.path)
    assert (await off(c.status)).pid == os.getpid()
    assert (await off(c.health)).status == "ok"
    assert (await off(c.ready)).ready
    assert list(await off(c.tunnels)) == ["default"]
    assert (await off(lambda: c.tunnel("default"))).phase == "up"
    assert (await off(lambda: c.down("default"))).phase == "down"
    assert (await off(c.ready)).why == {"default": "the link is down"}
    assert (await off(lambda: c.up("default"))).phase == "connecting"
    assert (await off(lambda: c.reconnect("default"))).phase == "connecting"
    assert (await off(c.reload))["added"] == []
    job = await off(lambda: c.submit(WORKFLOW, label="l", priority=2))
    assert (await off(lambda: c.job(job.id))).comfytunnel == job.comfytunnel
    assert [found.id for found in (await off(lambda: c.jobs_page(status="queued", limit=5))).jobs] == [job.id]
    assert (await off(lambda: c.cancel(job.id))).status == "canceled"


async def test_a_name_with_slashes_is_one_name(api: Api) -> None:
    with pytest.raises(NotFoundError) as caught:
        await off(lambda: Client(api.path).tunnel("../x y/ü"))
    assert "../x y/ü" in caught.value.message


async def test_an_output_is_downloaded_whole(api: Api, tmp_path: Path) -> None:
    job_id = await api.submit()
    data = os.urandom(3_000_000)
    (tmp_path / "a.bin").write_bytes(data)
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / "a.bin", "application/x-thing")
    to = io.BytesIO()
    assert await off(lambda: Client(api.path).download(output.asset_id, to)) == len(data)
    assert to.getvalue() == data


async def test_a_file_goes_up_under_its_name_and_type(api: Api, tmp_path: Path) -> None:
    """Whatever the name holds; and it can be deleted again."""
    path = tmp_path / 'a "quote"\n.png'
    path.write_bytes(b"bytes")
    c = Client(api.path)
    asset = await off(lambda: c.upload(path, name='a "quote".png'))
    assert (asset.file_path, asset.content_type, asset.size_bytes) == ('a "quote".png', "image/png", 5)
    assert asset.created_new is True
    other = await off(lambda: c.upload(path, name="b", content_type="text/plain"))
    assert (other.content_type, other.created_new) == ("text/plain", False)
    await off(lambda: c.delete_asset(asset.id))
    with pytest.raises(NotFoundError):
        await off(lambda: c.delete_asset(asset.id))


def test_an_upload_that_is_refused_before_it_is_whole_says_why(short: Path) -> None:
    """The daemon has answered and closed while most of the file was still here."""
    body = b'{"error": {"code": "file_too_large", "message": "too large"}}'

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(
                b"HTTP/1.1 422 x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )

    (short / "large").write_bytes(bytes(8_000_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "sock"))
        listener.listen()
        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(UsageError, match="too large"):
            Client(short / "sock").upload(short / "large")
        thread.join(5)


async def test_events_are_typed_and_resumable(api: Api) -> None:
    c = Client(api.path)
    events = c.events()
    assert isinstance(await off(lambda: next(events)), wire.Status)
    job_id = await api.submit()
    job = await off(lambda: next(events))
    assert isinstance(job, wire.Job)
    assert (job.id, c.last_event_id) == (job_id, "1")
    await off(events.close)  # type: ignore[attr-defined]  # an iterator to the caller, a generator in truth
    await api.scheduler.cancel(job_id)
    again = c.events(c.last_event_id)
    await off(lambda: next(again))
    resumed = await off(lambda: next(again))
    assert isinstance(resumed, wire.Job)
    assert resumed.status == "canceled"
    await off(again.close)  # type: ignore[attr-defined]  # as above


async def test_job_events_end_with_the_terminal_status(api: Api) -> None:
    job_id = await api.submit()
    events = Client(api.path).job_events(job_id)
    assert isinstance(await off(lambda: next(events)), wire.StatusEvent)
    api.scheduler.now[job_id] = LiveProgress(0.5, 1, 2)
    await api.scheduler.start(job_id)
    await api.scheduler.cancel(job_id)
    rest = await off(lambda: list(events))
    assert rest[-1] == wire.StatusEvent("canceled")


async def test_wait_returns_when_comfyui_serves(api: Api) -> None:
    api.tunnels.set("default", comfyui=wire.ComfyUI("starting"))
    c, heard = Client(api.path), list[str]()
    assert (await off(lambda: c.wait(until="up"))).tunnels["default"].phase == "up"
    seen = threading.Event()

    def told(status: wire.Status) -> None:
        heard.append(status.tunnels["default"].comfyui.state)
        seen.set()

    waiting = asyncio.create_task(off(lambda: c.wait("default", told=told)))
    await off(lambda: seen.wait(5))
    api.tunnels.set("default", comfyui=wire.ComfyUI("serving"))
    assert (await waiting).tunnels["default"].comfyui.state == "serving"
    assert heard == ["starting"]


async def test_wait_has_a_deadline_and_knows_its_names(api: Api) -> None:
    api.tunnels.set("default", phase="waiting")
    api.tunnels.known["good"] = a_tunnel()
    c = Client(api.path)
    for timeout in (0.0, 0.2):
        with pytest.raises(TimedOutError):
            await off(lambda timeout=timeout: c.wait("default", timeout=timeout))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    with pytest.raises(NotFoundError):
        await off(lambda: c.wait("defalt", timeout=5))
    assert (await off(lambda: c.wait())).tunnels["good"].phase == "up"


def test_no_daemon_and_a_dead_ones_socket_are_told_alike(short: Path) -> None:
    with pytest.raises(NotRunningError, match="comfytunnel daemon"):
        Client(short / "none").status()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short / "stale"))
    with pytest.raises(NotRunningError, match="No daemon listens"):
        Client(short / "stale").status()


def test_the_way_to_start_it_is_one_that_exists(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a config there is nothing to start; systemctl is named only where there is a unit."""
    monkeypatch.setenv("HOME", str(short))
    monkeypatch.setenv("COMFYTUNNEL_CONFIG", str(short / "config.toml"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def hint() -> str:
        with pytest.raises(NotRunningError) as caught:
            Client(short / "none").status()
        return caught.value.hint

    assert "comfytunnel setup 'ssh -p ...'" in hint()
    (short / "config.toml").touch()
    assert "`comfytunnel daemon`" in hint()
    assert "setup" not in hint()
    assert "systemctl" not in hint()
    unit = short / ".config" / "systemd" / "user" / "comfytunnel.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert "systemctl --user start comfytunnel" in hint()


def test_a_path_that_no_socket_can_have_is_said_before_anything_is_tried(short: Path) -> None:
    with pytest.raises(UsageError, match="bytes long"):
        Client(short / ("x" * 120)).status()


@pytest.fixture
def mute(short: Path) -> Iterator[Path]:
    """A daemon that accepts and says nothing: connecting to it proves nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "mute"))
        listener.listen()
        yield short / "mute"


def test_a_socket_that_never_answers_is_not_running(mute: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(NotRunningError, match="does not answer"):
        Client(mute, timeout=0.2).status()
    assert time.monotonic() - begun < 2


async def test_a_stream_that_falls_silent_is_not_running(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "SILENCE", 0.2)
    with pytest.raises(NotRunningError, match="does not answer"):
        await off(lambda: list(Client(api.path).events()))


async def test_following_a_job_survives_a_restart_of_the_daemon(short: Path) -> None:
    """The stream breaks, the socket vanishes, another daemon comes: the view goes on to the job's end."""
    path = short / "run" / "control.sock"
    found: list[Any] = []
    seen = threading.Event()

    def follow() -> None:
        for event in Client(path).follow(job_id, timeout=20):
            found.append(event)
            seen.set()

    async with serving(short) as first:
        job_id = await first.submit()
        following = asyncio.create_task(off(follow))
        await off(lambda: seen.wait(5))
    async with serving(short) as second:
        await second.scheduler.start(job_id)
        (short / "a.png").write_bytes(b"x")
        await second.scheduler.output(job_id, short / "a.png")
        await second.scheduler.succeed(job_id)
        await asyncio.wait_for(following, 10)
    assert isinstance(found[-1], wire.Job)
    assert found[-1].status == "succeeded"
    assert len([event for event in found if isinstance(event, wire.Output)]) == 1


async def test_following_says_once_that_the_daemon_is_away(short: Path) -> None:
    async with serving(short) as api:
        job_id, away = await api.submit(), list[str]()
        follower = Client(api.path).follow(job_id, patience=1.0, away=lambda: away.append("away"))
        await off(lambda: next(follower))
        assert away == []
    with pytest.raises(NotRunningError):
        await off(lambda: list(follower))
    assert away == ["away"]


async def test_following_gives_up_when_the_daemon_stays_away(short: Path) -> None:
    async with serving(short) as api:
        job_id = await api.submit()
        follower = Client(api.path).follow(job_id, patience=0.5)
        await off(lambda: next(follower))
    with pytest.raises(NotRunningError):
        await off(lambda: list(follower))


async def test_following_polls_when_there_is_no_stream_to_be_had(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfytunnel.api.stream.MAX_STREAMS", 0)
    job_id = await api.submit()
    follower = Client(api.path).follow(job_id, timeout=20)
    assert (await off(lambda: next(follower))) == wire.StatusEvent(
        "queued",
        0,
        wire.StatusExtra(wire.WaitsFor("link_down", "the link is connecting", api.scheduler.waits.since)),  # type: ignore[union-attr, arg-type]  # both are set in the fixture
    )
    await api.scheduler.cancel(job_id)
    rest = await off(lambda: list(follower))
    assert isinstance(rest[-1], wire.Job)


def test_the_client_drags_nothing_of_the_daemon_in() -> None:
    """A client that imports the server starts half a second late."""
    script = (
        "import sys, comfytunnel.client\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('aiohttp', 'asyncssh', 'asyncio', 'structlog', 'rich')\n"
        "       or m.startswith(('comfytunnel.api', 'comfytunnel.jobs', 'comfytunnel.tunnel'))]\n"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_socket_of_somebody_else_is_refused(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "s"))
        listener.listen()
        (short / "s").chmod(0)
        us = os.geteuid()
        if us == 0:
            short.chmod(0o755)
            os.seteuid(65534)  # root may open any socket
        try:
            with pytest.raises(RefusedError):
                Client(short / "s").status()
        finally:
            os.seteuid(us)
