"""The screen of `status`, on terminals of every width, and `status --watch` on a real one: its window, its keys, its end."""

from __future__ import annotations

import asyncio
import fcntl
import re
import signal
import struct
import termios
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from comfytunnel import wire
from comfytunnel.cli.screen import Look, Seen, screen
from comfytunnel.jobs.model import LiveProgress
from tests.api.conftest import STARTED, Api, a_tunnel, an_outage, serving
from tests.cli.conftest import Cli, Terminal, on_terminal

NOW = STARTED + timedelta(hours=3)
SGR = re.compile(r"\x1b\[\d*m")
EVIL = "\x1b]0;owned\x07\x9b31m\u202e"


def a_status(**changes: object) -> wire.Status:
    plain = wire.Status(
        version="1.2.3",
        pid=7,
        started_at=STARTED,
        config="c",
        tunnels={"default": a_tunnel()},
        jobs=wire.JobCounts(queued=3, running=1),
        web=wire.Web(["127.0.0.1:8000", "[::1]:8000"]),
    )
    return msgspec.structs.replace(plain, **changes)


def test_all_that_matters_stands_on_one_screen() -> None:
    outage = an_outage(began=NOW - timedelta(minutes=5), ended=NOW)
    text = screen(Seen(a_status(), (), [an_outage(ended=None), outage]), NOW)
    assert text.splitlines() == [
        "comfytunnel 1.2.3, pid 7, running for 3 h",
        "",
        "default    up, for 3 h",
        "  ComfyUI  serving 0.33.0",
        "  road     127.0.0.1:18188, [::1]:18188 -> root@ssh2.vast.ai:13273 -> localhost:18188  (12 ms)",
        "",
        "jobs       3 queued, 1 running",
        "outages    5 min ago  default: 12.5 s. The connection was lost: the other side went silent.",
        "page       http://localhost:8000/",
    ]


@pytest.mark.parametrize("width", [200, 80, 40, 24])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    cause = wire.Cause("x", f"The other side {EVIL} went silent, and nobody knows why.", "Attach the key.")
    tunnel = a_tunnel(phase="waiting", cause=cause, next=wire.Next("connect", NOW + timedelta(seconds=7)))
    text = screen(
        Seen(a_status(tunnels={"default": tunnel}), (), [an_outage()]), NOW, Look(width, colour=True)
    )
    plain = SGR.sub("", text)
    assert max(map(len, plain.splitlines())) <= width
    assert not set(plain) & set("\x1b\x07\x9b\u202e")
    for words in ("silent", "Attach the key", "connects in 7 s", "ssh2.vast.ai"):
        assert words.replace(" ", "") in "".join(plain.split())


def test_colours_are_the_terminals_alone() -> None:
    assert "\x1b" not in screen(Seen(a_status()), NOW)
    assert "\x1b" not in screen(Seen(a_status()), NOW, Look(80))
    assert "\x1b[32m" in screen(Seen(a_status()), NOW, Look(80, colour=True))


async def test_watching_shows_a_change_at_once_and_leaves_the_terminal_as_it_was(api: Api, cli: Cli) -> None:
    api.tunnels.known["default"] = a_tunnel(comfyui=wire.ComfyUI("serving", f"0.33{EVIL}"))
    async with on_terminal(cli, "status", "--watch", whole=True) as (terminal, process):
        before = termios.tcgetattr(terminal.screen)
        await terminal.until("up, for")
        assert "\x1b[?1049h" in terminal.shown
        assert termios.tcgetattr(terminal.screen) != before, "what is typed would stand in the picture"
        api.tunnels.set("default", phase="halted", cause=wire.Cause("x", f"Another key{EVIL}.", "Trust it."))
        await terminal.until("Trust it.")
        job_id = await api.submit()
        await api.scheduler.start(job_id)
        api.scheduler.now[job_id] = LiveProgress(0.5, 1, 2, "1", "K", message=f"Sampler{EVIL} 3/10")
        await terminal.until("50%, node 1/2, Sampler 3/10")
        terminal.type("q")
        shown = await terminal.rest()
        assert await process.wait() == 0
        assert shown.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert "owned" not in shown
        assert termios.tcgetattr(terminal.screen) == before


@pytest.mark.parametrize("end", ["\x03", signal.SIGTERM])
async def test_however_it_ends_the_screen_comes_back(api: Api, cli: Cli, end: str | signal.Signals) -> None:
    async with on_terminal(cli, "status", "--watch", whole=True) as (terminal, process):
        await terminal.until("up, for")
        terminal.type(end) if isinstance(end, str) else process.send_signal(end)
        assert (await terminal.rest()).endswith("\x1b[?1049l")
        assert await process.wait() == 0


async def test_a_window_of_another_size_is_drawn_anew(api: Api, cli: Cli) -> None:
    async with on_terminal(cli, "status", "--watch", whole=True) as (terminal, process):
        resize(terminal, 30, 100)
        await terminal.until("up, for")
        resize(terminal, 4, 30)
        process.send_signal(signal.SIGWINCH)
        await terminal.until("the window is too low")
        last = terminal.shown.rpartition("\x1b[H")[2]
        assert last.count("\r\n") == 3


def resize(terminal: Terminal, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal.screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def test_a_restart_of_the_daemon_is_watched_over(short: Path, tmp_path: Path) -> None:
    async with serving(short) as first:
        cli = Cli(tmp_path, first.path)
        view = on_terminal(cli, "status", "--watch", whole=True)
        terminal, process = await view.__aenter__()
        await terminal.until("up, for")
    await terminal.until("This goes on by itself")
    async with serving(short) as second:
        second.tunnels.set("default", phase="down")
        await asyncio.wait_for(terminal.until("down, as you asked"), 10)
        terminal.type("q")
        await terminal.rest()
        assert await process.wait() == 0
        await view.__aexit__(None, None, None)
