"""Which program a unit names: one that is still there when comfytunnel, or the Python under it, has been upgraded.

The law: never a path with a version in it where there is one without, and never a copy that its tool throws away.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from comfytunnel.errors import RefusedError

MODULE = ("-P", "-m", "comfytunnel")  # -P: a structlog.py in the home folder is not what we want to import
_PASSING = re.compile(
    r"/(\.?cache|Caches)/(uv|pipx)/|/uv/(archive|environments|builds)-v\d+/|/pipx/\.cache/", re.IGNORECASE
)
"""Where `uvx`, `uv run --with` and `pipx run` keep what they remove by themselves."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What a process of ours is like: `sys`, in one value that a test can make."""

    executable: Path
    prefix: Path
    base_prefix: Path
    command: Path | None  # the script `comfytunnel`, where there is one

    @staticmethod
    def here() -> Interpreter:
        script = Path(sys.argv[0])
        found = script if script.name == "comfytunnel" and script.is_absolute() else None
        beside = shutil.which("comfytunnel")
        command = found or (Path(beside) if beside else None)
        return Interpreter(Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), command)


def program(it: Interpreter) -> tuple[str, ...]:
    """The words before `daemon`. RefusedError for a copy that will not last.

    In an environment (pipx, uv tool, venv) it is that environment's own `python`: its path holds no version, and an upgrade keeps it.
    Outside of one it is the command that a package manager installed, whose first line that manager keeps right.
    """
    if _PASSING.search(f"{it.prefix}/"):
        raise RefusedError(
            f"This copy of comfytunnel is a passing one: {it.prefix} is removed by the tool that made it.",
            hint="Install it to stay: pipx install comfytunnel, or uv tool install comfytunnel.",
        )
    if it.prefix != it.base_prefix:
        for name in ("python", "python3", it.executable.name):
            candidate = it.prefix / "bin" / name
            if os.access(candidate, os.X_OK):
                return (str(candidate), *MODULE)
    elif it.command is not None and os.access(it.command, os.X_OK):
        return (str(it.command),)
    return (str(it.executable), *MODULE)


def trouble(words: tuple[str, ...]) -> str:
    """Why a program that a unit names cannot be started, or "": the interpreter or what it points to has gone."""
    path = Path(words[0])
    if os.access(path, os.X_OK):
        return ""
    if path.is_symlink():
        return f"{path} leads to {path.readlink()}, which is not there any more: was that Python removed?"
    return f"{path} is not there any more" if not path.exists() else f"{path} cannot be executed"


def open_to_others(path: Path) -> bool:
    """Whether a user of another group may read what lies there: each folder on the way, and what a link leads to."""
    for each in (path, path.resolve()):
        for folder in each.parents:
            try:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return False
            except OSError:
                return False
    return True
