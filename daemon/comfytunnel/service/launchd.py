"""Our agent under launchd: the plist, rendered from the wheel's template, and the few words of launchctl. Written from the manuals
(launchd.plist(5), launchctl(1)); docs/known-issues.md says what has not been run on a Mac.

launchd expands no `~` and knows no drop-ins: every path is absolute, and the whole file is ours.
"""

from __future__ import annotations

import os
import plistlib
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comfytunnel.errors import StateError
from comfytunnel.service import plan as plans
from comfytunnel.service.files import Wanted, shipped
from comfytunnel.service.plan import Plan, Run

GONE_PATIENCE = 12.0  # seconds for an agent that was told to end; ExitTimeOut in its plist is 10
GONE_LOOK = 0.1  # seconds between two looks


class Launchd:
    """The user's own agent, in the domain of the desktop."""

    def __init__(self, name: str, run: Run = plans.run) -> None:
        self.name = name
        self.path = Path(f"~/Library/LaunchAgents/{name}.plist").expanduser()
        self.log_file = Path(f"~/Library/Logs/{name}.log").expanduser()
        self._domain = f"gui/{os.getuid()}"
        self._run = run

    def wanted(self, plan: Plan) -> list[Wanted]:
        return [Wanted(self.path, agent(plan, self.log_file))]

    def check(self) -> None:
        done = plans.run(("launchctl", "print", self._domain))
        if done.code:
            raise StateError(
                f"launchd has no desktop of yours ({self._domain}): {done.out}",
                hint="Log in at the Mac's screen once, or run `comfytunnel daemon` another way.",
            )

    def bring(self, plan: Plan, changed: Iterable[Path], *, start: bool) -> None:
        """A changed plist is taken up by unloading the old one: launchd reads it once."""
        loaded = self._loaded()
        if loaded and list(changed):
            self.drop()
            loaded = False
        self._must("enable", f"{self._domain}/{self.name}")
        if start and not loaded:
            self._must("bootstrap", self._domain, str(self.path))

    def drop(self) -> None:
        """`bootout` may return before the agent has gone, and `bootstrap` would fail as long as it has not. One that is not loaded is
        gone already."""
        done = self._run(("launchctl", "bootout", f"{self._domain}/{self.name}"))
        deadline = time.monotonic() + GONE_PATIENCE
        while done is not plans.DRY and self._loaded() and time.monotonic() < deadline:
            time.sleep(GONE_LOOK)

    def _loaded(self) -> bool:
        return plans.run(("launchctl", "print", f"{self._domain}/{self.name}")).code == 0

    def dropped(self) -> None:
        """Nothing is left to be told."""

    def restart(self) -> None:
        self._must("kickstart", "-k", f"{self._domain}/{self.name}")

    def pid(self) -> int | None:
        found = re.search(
            r"^\s*pid = (\d+)$", plans.run(("launchctl", "print", f"{self._domain}/{self.name}")).out, re.M
        )
        return int(found[1]) if found else None

    def program(self) -> tuple[str, ...]:
        """The words that the agent starts; () if there is none."""
        try:
            found = plistlib.loads(self.path.read_bytes())["ProgramArguments"]
        except (OSError, KeyError, TypeError, plistlib.InvalidFileException):
            return ()
        return tuple(map(str, found))

    def log(self, *, follow: bool, since: str | None) -> list[str] | Path:
        return self.log_file

    def agent(self) -> str | None:
        return plans.run(("launchctl", "getenv", "SSH_AUTH_SOCK")).out or None

    def next_steps(self) -> list[str]:
        return []

    def _must(self, *words: str) -> None:
        done = self._run(("launchctl", *words))
        if done.code:
            raise StateError(
                f"`launchctl {' '.join(words)}` failed: {done.out}", hint=f"Its log: {self.log_file}"
            )


def agent(plan: Plan, log_file: Path) -> str:
    """The agent's plist as text."""
    put = {"label": plan.name, "socket": str(plan.socket), "log": str(log_file)}
    found: dict[str, Any] = _filled(plistlib.loads(shipped("launchd/comfytunnel.plist").encode()), put)
    found["ProgramArguments"] = [*plan.program, "daemon"]
    found["EnvironmentVariables"] = plan.environment
    return plistlib.dumps(found, sort_keys=False).decode()


def _filled(value: Any, put: dict[str, str]) -> Any:
    """The template with each "{word}" in its place; a path that holds braces itself is not looked at again."""
    if isinstance(value, dict):
        return {key: _filled(item, put) for key, item in value.items()}
    if isinstance(value, str) and (word := re.fullmatch(r"\{(\w+)\}", value)):
        return put.get(word[1], value)
    return value
