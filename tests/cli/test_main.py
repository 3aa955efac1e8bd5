"""The command line in front of a served API, as a process: words, JSON, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comfytunnel import wire
from comfytunnel.cli.exits import CODES, exit_code
from comfytunnel.cli.render import queued_text
from comfytunnel.errors import Error, RemoteError, StateError, WorkflowError
from comfytunnel.jobs.model import Failure, Stage, Status, Waits
from tests.api.conftest import STARTED, WORKFLOW, Api, a_tunnel
from tests.cli.conftest import Cli


def test_every_exit_code_of_the_contract_has_its_errors() -> None:
    """0 done, 1 failed, 2 usage or config, 3 daemon not running, 4 timed out, 5 refused."""
    assert sorted(set(CODES.values())) == [2, 3, 4, 5]
    assert exit_code(WorkflowError("x")) == 2
    assert {exit_code(Error("x")), exit_code(StateError("x")), exit_code(RemoteError("x"))} == {1}


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "wait",
        "up",
        "events",
        "submit -",
        "run -",
        "jobs",
        "jobs show x",
        "config reload",
    ],
)
async def test_without_a_daemon_every_command_says_how_to_start_one(alone: Cli, command: str) -> None:
    ran = await alone(*command.split(), stdin="{}")
    assert (ran.code, ran.out) == (3, "")
    assert re.fullmatch(r"error: No daemon listens on .*\n  .*comfytunnel daemon.*\n", ran.err)


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        ("status --json", 3, "not_running"),
        ("jobs --json", 3, "not_running"),
        ("run --json none.json", 2, "invalid_request"),
        ("config show --json none.toml", 2, "config_error"),
    ],
)
async def test_with_json_an_error_is_json_too(alone: Cli, command: str, code: int, kind: str) -> None:
    ran = await alone(*command.split())
    assert (ran.code, ran.err) == (code, "")
    error = json.loads(ran.out)["error"]
    assert error["code"] == kind
    assert error["details"]["hint"]


async def test_a_socket_path_too_long_is_a_usage_error(alone: Cli) -> None:
    alone.environ["COMFYTUNNEL_SOCKET"] = f"/tmp/{'x' * 120}"
    ran = await alone("status")
    assert ran.code == 2
    assert "bytes long" in ran.err


@pytest.mark.parametrize(
    "command", [["stauts"], ["status", "--nope"], ["wait", "--for", "ever"], ["jobs", "show"]]
)
async def test_a_wrong_command_line_is_exit_2(alone: Cli, command: list[str]) -> None:
    assert (await alone(*command)).code == 2


def test_a_job_behind_others_says_so_once() -> None:
    behind = wire.WaitsFor("queue", "2 jobs before it.", datetime.now(UTC))
    assert queued_text(2, behind) == "2 ahead"
    assert queued_text(1, wire.WaitsFor("x", "No tunnel.", datetime.now(UTC))) == "1 ahead, No tunnel."
    assert queued_text(0, None) == "next"


async def test_version_and_help_need_no_daemon(alone: Cli) -> None:
    assert (await alone("--version")).out.startswith("comfytunnel ")
    assert "reconnect" in (await alone("--help")).out


async def test_status_is_one_screen_with_state_why_and_next(api: Api, cli: Cli) -> None:
    cause = wire.Cause("auth_denied", "The key was refused.", "Attach the key in the console.")
    api.tunnels.known["default"] = a_tunnel(phase="waiting", cause=cause, next=wire.Next("connect"))
    await api.submit()
    ran = await cli("status")
    assert ran.code == 0
    for part in (
        "waiting before the next try",
        "The key was refused.",
        "Attach the key",
        "connects",
        "1 queued",
    ):
        assert part in ran.out
    assert "127.0.0.1:18188" in ran.out
    assert "ssh2.vast.ai:13273" in ran.out


@pytest.mark.parametrize(
    ("phase", "shown"), [("up", True), ("doubtful", True), ("down", False), ("waiting", False)]
)
async def test_a_round_trip_is_shown_only_of_a_link_that_is_there(
    api: Api, cli: Cli, phase: str, shown: bool
) -> None:
    api.tunnels.known["default"] = a_tunnel(phase=phase, rtt_ms=12.5)
    assert ("(12 ms)" in (await cli("status")).out) is shown


async def test_a_running_job_that_cannot_go_on_says_why_wherever_it_is_shown(
    api: Api, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Waits("disk_full", "The disk is full.", "Make room.", STARTED)
    monkeypatch.setattr(api.scheduler, "waits_for", lambda _job: full)
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    for command in (["status"], ["jobs", "show", job_id]):
        ran = await cli(*command)
        assert "The disk is full." in ran.out
        assert "Make room." in ran.out
    assert "The disk is full." in (await cli("jobs")).out


async def test_status_json_is_the_api_answer(api: Api, cli: Cli) -> None:
    found = json.loads((await cli("status", "--json")).out)
    assert found == (await api.ask("GET", "/v1/status"))[1]


async def test_what_the_far_side_sends_never_reaches_the_terminal_raw(api: Api, cli: Cli) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    api.tunnels.known["default"] = a_tunnel(
        phase="waiting",
        cause=wire.Cause("x", f"bad{evil}", evil),
        comfyui=wire.ComfyUI("error", evil, detail=evil),
    )
    job_id = await api.submit(comfytunnel={"label": f"label{evil}"})
    failure = Failure("node_execution_error", f"m{evil}", f"1{evil}", f"K{evil}", f"line 1\nline 2{evil}")
    await api.scheduler.move(job_id, Stage.ENDED, status=Status.FAILED, error=failure, note=evil)
    for command in (["status"], ["jobs"], ["jobs", "show", job_id], ["jobs", "wait", job_id], ["up"]):
        for end in ([], ["--json"]):
            ran = (
                await cli(*command, *end)
                if command != ["jobs"] or not end
                else await cli("jobs", "list", "--json")
            )
            for text in (ran.out, ran.err):
                assert not set(text) & set("\x1b\x07\x9b\u202e"), (command, text)


async def test_json_is_exact_all_the_same(api: Api, cli: Cli) -> None:
    job_id = await api.submit(comfytunnel={"label": "a\x9b31m\u202eb"})
    found = json.loads((await cli("jobs", "show", job_id, "--json")).out)
    assert found["comfytunnel"]["label"] == "a\x9b31m\u202eb"


async def test_up_down_reconnect_take_the_only_tunnel(api: Api, cli: Cli) -> None:
    assert (await cli("down")).out == "default: down, as you asked\n"
    assert (await cli("up")).out == "default: connecting\n"
    assert json.loads((await cli("reconnect", "default", "--json")).out)["phase"] == "connecting"
    assert api.tunnels.asked == [("down", "default"), ("up", "default"), ("reconnect", "default")]


async def test_with_several_tunnels_a_name_is_needed_and_must_exist(api: Api, cli: Cli) -> None:
    api.tunnels.known["b"] = a_tunnel()
    for command in (["down"], ["down", "c"]):
        ran = await cli(*command)
        assert ran.code == 2
        assert "default, b" in ran.err
    assert api.tunnels.asked == []


async def test_wait_is_done_failed_in_time_or_unknown(api: Api, cli: Cli) -> None:
    assert (await cli("wait")).code == 0
    api.tunnels.set("default", comfyui=wire.ComfyUI("starting"))
    assert (await cli("wait", "--for", "up", "default")).code == 0
    ran = await cli("wait", "--timeout", "0.2")
    assert ran.code == 4
    assert "Not serving after 0.2 s" in ran.err
    assert (await cli("wait", "nope")).code == 2


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"phase": "down"}, "comfytunnel up default"),
        (
            {"phase": "halted", "cause": wire.Cause("host_key_changed", "Another key.", "Compare it.")},
            "Compare it.",
        ),
    ],
)
async def test_wait_ends_at_once_where_it_would_wait_for_the_person_unless_there_is_a_time(
    api: Api, cli: Cli, changes: dict[str, Any], way_out: str
) -> None:
    api.tunnels.set("default", **changes)
    ran = await cli("wait")
    assert ran.code == 1
    assert ran.err.startswith("error: Nothing to wait for: default: ")
    assert way_out in ran.err
    ran = await cli("wait", "--timeout", "0.3")
    assert ran.code == 4
    assert f"Not serving after 0.3 s: default: {changes['phase']}" in ran.err
    assert way_out in ran.err
    api.tunnels.known["other"] = a_tunnel()
    assert (await cli("wait")).code == 0


async def test_events_say_a_state_once(api: Api, cli: Cli) -> None:
    """A job that changes in what no line shows is not told again; programs get every change."""
    async with cli.running("events") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        job_id = await api.submit()
        assert b"the link is connecting" in await process.stdout.readline()
        await api.scheduler.move(job_id, Stage.WAITING, note="changed")
        await api.scheduler.cancel(job_id)
        assert b"canceled" in await process.stdout.readline()


async def test_events_say_that_a_killed_daemon_has_stopped(short: Path) -> None:
    """A daemon that dies in the middle of the stream, without an end of it."""
    alone = Cli(short, short / "s")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n: hi\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, short / "s"):
        ran = await alone("events")
    assert ran.code == 3
    assert "error: The daemon has stopped." in ran.err


async def test_events_are_lines_or_json_and_the_end_of_the_daemon_is_exit_3(api: Api, cli: Cli) -> None:
    async with cli.running("events") as plain, cli.running("events", "--json") as exact:
        assert plain.stdout is not None
        assert exact.stdout is not None
        assert b"default: up; ComfyUI serving 0.33.0" in await plain.stdout.readline()
        assert json.loads(await exact.stdout.readline())["event"] == "status"
        api.tunnels.set("default", phase="down")
        assert b"default: down" in await plain.stdout.readline()
        assert json.loads(await exact.stdout.readline())["data"]["tunnel"]["phase"] == "down"
        await api.server.__aexit__(None, None, None)
        assert [await plain.wait(), await exact.wait()] == [3, 3]


async def test_ctrl_c_is_how_events_end(api: Api, cli: Cli) -> None:
    async with cli.running("events") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_jobs_are_listed_shown_and_canceled(api: Api, cli: Cli) -> None:
    first, second = await api.submit(comfytunnel={"label": "one"}), await api.submit()
    listed = json.loads((await cli("jobs", "--json")).out)
    assert listed == json.loads((await cli("jobs", "list", "--json")).out)
    assert [job["id"] for job in listed["jobs"]] == [second, first]
    lines = (await cli("jobs")).out.splitlines()
    assert [line.split()[0] for line in lines] == [second, first]
    assert "one" in lines[1]
    assert "the link is connecting" in lines[0]
    ran = await cli("jobs", "list", "--limit", "1")
    assert (len(ran.out.splitlines()), "there are more" in ran.err) == (1, True)
    shown = ran.err.split("comfytunnel ", 1)[1].split()  # the command that it names is one
    assert len((await cli(*shown)).out.splitlines()) == 2
    assert "canceled" in (await cli("jobs", "cancel", first)).out
    assert [
        job["id"]
        for job in json.loads((await cli("jobs", "list", "--status", "canceled", "--json")).out)["jobs"]
    ] == [first]
    assert f"job        {second}" in (await cli("jobs", "show", second)).out
    assert (await cli("jobs", "show", "nope")).code == 2
    assert (await cli("jobs", "list", "--status", "done")).code == 2


async def test_jobs_are_grouped_by_their_tunnel(api: Api, cli: Cli) -> None:
    """Those of the config come first, also without jobs; then one that is gone from it; then the jobs that go to any."""
    free, bound, gone = await api.submit(), await api.submit(), await api.submit()
    for job_id, tunnel in ((bound, "default"), (gone, "old\x1b[2J")):
        await api.store.move(job_id, expect=Stage.WAITING, tunnel=tunnel)
    api.tunnels.known["spare"] = api.tunnels.known["default"]
    lines = (await cli("jobs", "--by-tunnel")).out.splitlines()
    heads = ["default: up", "spare: up", "old: not in the config", "any tunnel"]
    assert [line.partition(";")[0] for line in lines if not line.startswith("  ")] == heads
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [bound, "no", gone, free]
    found = json.loads((await cli("jobs", "list", "--by-tunnel", "--json")).out)
    assert [job["id"] for job in found["any"]] == [free]
    assert {name: len(jobs) for name, jobs in found["tunnels"].items()} == {
        "default": 1,
        "spare": 0,
        "old\x1b[2J": 1,
    }


async def test_submit_prints_the_id_alone(api: Api, cli: Cli) -> None:
    ran = await cli(
        "submit", "-", "--label", "x", "--priority", "7", "--tunnel", "default", stdin=json.dumps(WORKFLOW)
    )
    job = await api.store.get(ran.out.strip())
    assert job is not None
    assert (job.label, job.priority, job.tunnel) == ("x", 7, "default")


def test_a_light_command_imports_nothing_heavy() -> None:
    """`status` answers in a tenth of a second because of what it does not import."""
    heavy = (
        "typer",
        "aiohttp",
        "asyncio",
        "asyncssh",
        "rich",
        "structlog",
        "tomllib",
        "comfytunnel.config",
        "comfytunnel.app",
    )
    script = (
        "import sys, contextlib; sys.argv = ['comfytunnel', 'status']\n"
        "from comfytunnel.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    measured = {
        name for name in os.environ if name.startswith("COVERAGE_")
    }  # coverage itself imports some of them
    environ = {name: value for name, value in os.environ.items() if name not in measured}
    environ["COMFYTUNNEL_SOCKET"] = "/nonexistent"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=False
    )
    assert done.stdout == "[]\n", done.stdout


@pytest.mark.parametrize("words", [("--help",), ("config", "path"), ("status", "--json"), ("--version",)])
async def test_an_output_that_takes_no_more_is_said_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A full disk behind `comfytunnel status > file`."""
    cli = Cli(tmp_path, tmp_path / "none.sock")
    with Path("/dev/full").open("w") as full:  # noqa: ASYNC230 - a device, not a disk
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "comfytunnel", *words, stdout=full, stderr=subprocess.PIPE, env=cli.environ
        )
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (
        1,
        "error: The output cannot be written: No space left on device.\n",
    )
