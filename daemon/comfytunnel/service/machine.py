"""Our unit for the whole machine, on a box without a desktop: `install --system`, run as root.

It differs from a user's in who runs it (a user of its own, or one that is named), where its files lie, who may use it (the members of
the group comfytunnel), and where its key comes from (a credential that systemd hands over; no key lies open to that user).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from comfytunnel.config import Config
from comfytunnel.errors import RefusedError, UsageError
from comfytunnel.service import plan as plans
from comfytunnel.service.files import Wanted, shipped
from comfytunnel.service.plan import Plan, Run
from comfytunnel.service.program import open_to_others
from comfytunnel.service.systemd import Systemd, exec_word, value_of

GROUP = "comfytunnel"
UNITS, SYSUSERS = Path("/etc/systemd/system"), Path("/etc/sysusers.d")
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))  # by ProtectHome=
CREDENTIALS = Path("/run/credentials")


class Machine(Systemd):
    """The unit of the whole machine. `user` None: the user comfytunnel, which systemd-sysusers makes."""

    scope = "--system"

    def __init__(self, name: str, run: Run = plans.run, user: str | None = None) -> None:
        super().__init__(name, run)
        self.folder = UNITS
        self.user = user

    def wanted(self, plan: Plan) -> list[Wanted]:
        return [
            Wanted(SYSUSERS / f"{self.name}.conf", shipped("systemd/comfytunnel.sysusers")),
            Wanted(UNITS / f"{self.name}.service", shipped("systemd/comfytunnel-system.service")),
            Wanted(UNITS / f"{self.name}.socket", shipped("systemd/comfytunnel-system.socket")),
            Wanted(UNITS / f"{self.name}.service.d" / "10-program.conf", program_conf(plan, self.user)),
        ]

    def check(self) -> None:
        if os.geteuid() != 0:
            raise RefusedError(
                "A service of the whole machine is root's to install.", hint="Run it with sudo."
            )
        if self.user is not None:
            try:
                pwd.getpwnam(self.user)
            except KeyError:
                raise UsageError(
                    f"There is no user {self.user}.", hint="Without --user one is made, of its own."
                ) from None
        super().check()

    def bring(self, plan: Plan, changed: Iterable[Path], *, start: bool) -> None:
        changed = list(changed)
        if any(path.parent == SYSUSERS for path in changed):
            self._tool("systemd-sysusers", str(SYSUSERS / f"{self.name}.conf"))
        super().bring(plan, changed, start=start)

    def next_steps(self) -> list[str]:
        way = f"COMFYTUNNEL_SOCKET={places(self.name)[2]}"
        return [f"Who may use it: usermod -aG {GROUP} NAME (counts from the next login), with {way}"]


def places(name: str) -> tuple[Path, Path, Path]:
    """Config, state folder and control socket, as they stand in the unit."""
    return Path(f"/etc/{name}/config.toml"), Path(f"/var/lib/{name}"), Path(f"/run/{name}/control.sock")


def check_program(words: tuple[str, ...]) -> None:
    """RefusedError where the service's user could not start it."""
    path = Path(words[0])
    hidden = any(each.is_relative_to(folder) for each in (path, path.resolve()) for folder in HIDDEN)
    if hidden or not open_to_others(path):
        raise RefusedError(
            f"{path} is in a home folder, or behind one that others may not enter: a service of the machine cannot start it.",
            hint="Install comfytunnel for everybody: python3 -m venv /opt/comfytunnel, and its pip install comfytunnel.",
        )


def credentials(loaded: Config, name: str) -> dict[str, Path]:
    """The keys that the config takes from systemd, and where root keeps each: `identity_file = "/run/credentials/NAME.service/ssh-key"`
    is /etc/NAME/ssh-key."""
    folder = CREDENTIALS / f"{name}.service"
    files = {path for tunnel in loaded.tunnels.values() for path in tunnel.identity_files}
    return {path.name: Path("/etc") / name / path.name for path in sorted(files) if path.parent == folder}


def program_conf(plan: Plan, user: str | None) -> str:
    words = " ".join(exec_word(word) for word in plan.program)
    return "\n".join(
        [
            "# Written by `comfytunnel install --system`: the program of this machine, its keys, and folders of its own that it may write.",
            "[Service]",
            *([f"User={user}"] if user is not None else []),
            "ExecStart=",
            f"ExecStart={words} daemon",
            "ExecReload=",
            f"ExecReload={words} config reload",
            *(
                f"LoadCredential={value_of(key)}:{value_of(str(path))}"
                for key, path in plan.credentials.items()
            ),
            *(f'ReadWritePaths="-{value_of(str(path))}"' for path in plan.writable),
            "",
        ]
    )
