"""Our units under systemd: which files they are, and the few words of systemctl.

The units are those of the wheel, byte for byte. What differs from machine to machine stands in drop-ins that are built here. Nothing
here asks a person, and nothing here talks to the daemon.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from comfytunnel.errors import StateError
from comfytunnel.service import plan as plans
from comfytunnel.service.files import Wanted, shipped
from comfytunnel.service.plan import Done, Plan, Run

_EMPTY_WORDS = re.compile(
    r"^(Start|Stop|Fail)\w+ (to start )?\S+ - |Scheduled restart job|Failed with result|Main process exited"
)
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


class Systemd:
    """The user's own units."""

    scope = "--user"

    def __init__(self, name: str, run: Run = plans.run) -> None:
        self.name = name
        self.folder = user_folder()
        self._run = run
        self._confined: bool | None = None

    # --- files --------------------------------------------------------------------------------------------------------

    def wanted(self, plan: Plan) -> list[Wanted]:
        service, socket = (self.folder / f"{self.name}.{kind}.d" for kind in ("service", "socket"))
        found = [
            Wanted(self.folder / f"{self.name}.service", shipped("systemd/comfytunnel.service")),
            Wanted(self.folder / f"{self.name}.socket", shipped("systemd/comfytunnel.socket")),
            Wanted(service / "10-program.conf", program_conf(plan)),
        ]
        if self.confined(plan):
            found += [
                Wanted(service / "20-confined.conf", shipped("systemd/confined.conf")),
                Wanted(service / "30-writable.conf", writable_conf(plan)),
            ]
        if plan.socket != runtime_socket():
            found.append(Wanted(socket / "10-path.conf", socket_conf(plan.socket)))
        return found

    def confined(self, plan: Plan) -> bool:
        """Whether this machine lets a user's unit have a user namespace: tried, with the very program."""
        if self._confined is None:
            settings = [
                word
                for line in shipped("systemd/confined.conf").splitlines()
                if re.fullmatch(r"\w+=.*", line)
                for word in ("-p", line)
            ]
            words = ("systemd-run", self.scope, "--quiet", "--wait", "--collect", *settings)
            self._confined = plans.run((*words, "--", *plan.program, "--version")).code == 0
        return self._confined

    # --- the manager --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        done = self._ask("show", "--property", "Version", "--value")
        if done.code:
            raise StateError(
                f"There is no systemd manager of yours that could run a service: {_last(done)}",
                hint="Log in as yourself (ssh, or a desktop; not su), or run `comfytunnel daemon` another way.",
            )

    def bring(self, plan: Plan, changed: Iterable[Path], *, start: bool) -> None:
        changed = list(changed)
        service, socket = f"{self.name}.service", f"{self.name}.socket"
        if changed:
            self._must("daemon-reload")
        self._must("enable", service)
        if not start:
            return
        runs = self.pid() is not None
        if any(".socket" in str(path) for path in changed) and self._active(socket):
            self._must("restart", socket)  # it takes the service with it
            runs = False
        verb = "restart" if changed and runs else "start"
        self._start(verb, *((socket, service) if verb == "start" else (service,)))

    def drop(self) -> None:
        for unit in (f"{self.name}.socket", f"{self.name}.service"):
            self._run(
                ("systemctl", self.scope, "disable", "--now", unit)
            )  # one that is not there is gone already

    def dropped(self) -> None:
        self._must("daemon-reload")
        self._run(("systemctl", self.scope, "reset-failed", f"{self.name}.service", f"{self.name}.socket"))

    def restart(self) -> None:
        self._start("restart", f"{self.name}.service")

    def pid(self) -> int | None:
        found = self._ask("show", "--property", "MainPID", "--value", f"{self.name}.service").out
        return int(found) if found.isdecimal() and found != "0" else None

    def program(self) -> tuple[str, ...]:
        """The words that the unit starts, as the manager has them; () if it knows no such unit."""
        found = self._ask("show", "--property", "ExecStart", "--value", f"{self.name}.service").out
        words = re.search(r"path=(.*?) ; argv\[\]=(.*?) ;", found)  # the second one is not quoted
        return (words[1], *words[2].removeprefix(words[1]).split()) if words else ()

    def log(self, *, follow: bool, since: str | None) -> list[str] | Path:
        words = ["journalctl", self.scope, "-u", self.name, "-o", "short-iso"]
        words += ["--since", since] if since else [] if follow else ["-n", "200"]
        return [*words, *(["-f"] if follow else ["--no-pager"])]

    def agent(self) -> str | None:
        found = re.search(r"^SSH_AUTH_SOCK=(.*)$", self._ask("show-environment").out, re.MULTILINE)
        return found[1] if found else None

    def next_steps(self) -> list[str]:
        return linger_advice(
            plans.run(("loginctl", "show-user", str(os.getuid()), "--property", "Linger", "--value")),
            os.environ,
        )

    def _start(self, verb: str, *units: str) -> None:
        done = self._run(("systemctl", self.scope, verb, *units))
        if done.code:
            raise StateError(
                f"The service does not start: {self._why() or _last(done)}",
                hint=f"All of it: systemctl {self.scope} status {self.name}; comfytunnel logs",
            )

    def _active(self, unit: str) -> bool:
        return self._ask("is-active", "--quiet", unit).code == 0

    def _why(self) -> str:
        """The last line of the unit's log that says more than that it failed."""
        done = plans.run(("journalctl", self.scope, "-u", self.name, "-n", "20", "-o", "cat", "--no-pager"))
        lines = [line for line in done.out.splitlines() if line.strip() and not _EMPTY_WORDS.search(line)]
        return lines[-1].strip() if lines and done.code == 0 else ""

    def _ask(self, *words: str) -> Done:
        return plans.run(("systemctl", self.scope, *words))

    def _must(self, *words: str) -> None:
        self._tool("systemctl", self.scope, *words)

    def _tool(self, *words: str) -> None:
        done = self._run(words)
        if done.code:
            raise StateError(
                f"`{' '.join(words)}` failed: {_last(done)}",
                hint=f"systemctl {self.scope} status {self.name}",
            )


def user_folder() -> Path:
    """Where a user's own units lie: systemd.unit(5)."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path("~/.config").expanduser()
    return base / "systemd" / "user"


def runtime_socket() -> Path:
    """What comfytunnel.socket listens on, as it stands in the wheel: %t/comfytunnel/control.sock."""
    return Path(f"/run/user/{os.getuid()}/comfytunnel/control.sock")


def program_conf(plan: Plan) -> str:
    """The drop-in that names the program, and where it finds its config and state."""
    words = " ".join(exec_word(word) for word in plan.program)
    lines = [f'Environment="{value_of(name)}={value_of(value)}"' for name, value in plan.environment.items()]
    return "\n".join(
        [
            "# Written by `comfytunnel install`: the program of this machine, and where it finds its files.",
            "[Service]",
            "ExecStart=",
            f"ExecStart={words} daemon",
            "ExecReload=",
            f"ExecReload={words} config reload",
            *lines,
            "",
        ]
    )


def writable_conf(plan: Plan) -> str:
    """The drop-in beside confined.conf: the folders that stay writable. One that is not there is passed over at the start.
    Temporary files go to the state folder, since /tmp is not among them: SQLite and Python ask TMPDIR."""
    lines = [f'ReadWritePaths="-{value_of(str(path))}"' for path in (*plan.writable, plan.socket.parent)]
    return "\n".join(
        [
            "# Written by `comfytunnel install` from the config. After a change of output_dir or known_hosts: comfytunnel install",
            "[Service]",
            *lines,
            f'Environment="TMPDIR={value_of(str(plan.state_dir))}"',
            "",
        ]
    )


def socket_conf(path: Path) -> str:
    return "\n".join(
        [
            "# Written by `comfytunnel install`, because COMFYTUNNEL_SOCKET was set.",
            "[Socket]",
            "ListenStream=",
            f"ListenStream={str(path).replace('%', '%%')}",
            "",
        ]
    )


def value_of(text: str) -> str:
    """Text as it stands between double quotes in a unit: systemd.syntax(7), and no specifier."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def exec_word(word: str) -> str:
    """A word of ExecStart=: quoted where it must be, and nothing of it is a specifier or a variable."""
    plain = word.replace("%", "%%").replace("$", "$$")
    return plain if _PLAIN.fullmatch(plain) else f'"{value_of(word).replace("$", "$$")}"'


def linger_advice(told: Done, environ: Mapping[str, str]) -> list[str]:
    """Without lingering a user's services end with the last login: worth a word where nobody sits at a screen."""
    if told.code or told.out != "no" or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"):
        return []
    return ["It ends when you log out. To keep it, and to have it from the boot on: loginctl enable-linger"]


def _last(done: Done) -> str:
    lines = [line for line in done.out.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.code}"
