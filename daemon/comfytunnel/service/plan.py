"""What a service needs to know of this installation, and what systemd and launchd have in common: values, and how their tools are run."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comfytunnel.errors import StateError
from comfytunnel.service.files import Wanted

LOCK_NAME = "daemon.lock"  # api.listen holds it while a daemon lives
TOOL_PATIENCE = 90.0  # seconds for systemctl or launchctl; a start may take 60 (TimeoutStartSec), a stop 10


@dataclass(frozen=True, slots=True)
class Plan:
    """`program`: the words before `daemon`. `writable`: folders that the daemon writes to, besides its socket's.
    `credentials`: what the manager hands over, by name, and the file that it is of."""

    name: str
    program: tuple[str, ...]
    config: Path
    state_dir: Path
    socket: Path
    writable: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    credentials: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What a tool has said."""

    code: int = 0
    out: str = ""


DRY = Done()  # nothing was run

Run = Callable[[Sequence[str]], Done]
"""Runs a tool that changes something. A dry run says what it would be instead."""


def run(words: Sequence[str]) -> Done:
    """Run a tool to its end. StateError if it cannot be started or takes too long; a bad exit code is the caller's to judge."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_PATIENCE,
            check=False,
            env=os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"},
        )
    except FileNotFoundError as error:
        raise StateError(
            f"{words[0]} is not on this machine, and it is what runs services here.",
            hint="Let another program start `comfytunnel daemon`, in the foreground.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise StateError(
            f"`{' '.join(words)}` has not ended within {TOOL_PATIENCE:.0f} s.",
            hint="`comfytunnel logs` may say why.",
        ) from error
    return Done(done.returncode, done.stdout.decode(errors="replace").strip())


def holder(state_dir: Path) -> int | None:
    """The pid of the daemon that uses this state folder, whoever started it; None: none does."""
    try:
        with (state_dir / LOCK_NAME).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read(20).strip()
                return int(text) if text.isdigit() else 0
    except OSError:  # no such file: no daemon ever ran here
        pass
    return None


class Service(Protocol):
    """The service under one manager. Whatever changes something goes through the `Run` that it was made with."""

    def wanted(self, plan: Plan) -> list[Wanted]:
        """The files, in the order in which they are written."""

    def check(self) -> None:
        """StateError where there is no manager that could run us."""

    def bring(self, plan: Plan, changed: Iterable[Path], *, start: bool) -> None:
        """Have the manager take up the files; from now on it starts us by itself. With `start` we run when this returns, and anew if what
        was `changed` concerns us."""

    def drop(self) -> None:
        """Stop, and never be started again. To be called before the files go; `dropped` afterwards."""

    def dropped(self) -> None: ...

    def restart(self) -> None: ...

    def pid(self) -> int | None:
        """The daemon that the manager runs; None: none."""

    def program(self) -> tuple[str, ...]:
        """The words that it starts; () if it knows nothing of us."""

    def log(self, *, follow: bool, since: str | None) -> list[str] | Path:
        """The command that shows the log, or the file that it is."""

    def agent(self) -> str | None:
        """The socket of the SSH agent that the manager gives to its services."""

    def next_steps(self) -> list[str]:
        """What a person may want to do now, a sentence each."""
