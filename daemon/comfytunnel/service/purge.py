"""What `uninstall --purge` may remove: the config, the state, the pictures. Each is shown and asked for by itself.

The law: a folder is removed whole only if it can be nothing but ours. What a config names may be anybody's, a home folder too.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comfytunnel import config, paths
from comfytunnel.errors import ConfigError, StateError


@dataclass(frozen=True, slots=True)
class Belonging:
    """`refusal`: why it stays, whoever agrees."""

    what: str
    paths: Sequence[Path]
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {', '.join(map(str, self.paths))}"

    def remove(self) -> None:
        """StateError if it cannot be removed; what has gone already is fine."""
        try:
            for path in self.paths:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # not empty, or not there
                        if path.parent.name == paths.APP:
                            path.parent.rmdir()
        except OSError as error:
            raise StateError(
                f"{error.filename or self.paths[0]} cannot be removed: {error.strerror}.",
                hint="Remove it yourself.",
            ) from error


def belongings(config_path: Path, state_dir: Path, *, system: bool = False) -> list[Belonging]:
    """What is there, in the order in which it is asked for: a config that is gone can no longer say where the pictures are. Those of a
    service of the machine (`system`) lie in its state folder, whatever `~` means to root."""
    found = []
    pictures = None
    if not system:
        with contextlib.suppress(ConfigError):
            pictures = config.load(config_path).jobs.output_dir
    if pictures is not None and pictures.is_dir():
        found.append(Belonging("pictures", [pictures], _not_ours(pictures)))
    if state_dir.is_dir():
        found.append(Belonging("jobs, uploads and outages", [state_dir], _not_ours(state_dir)))
    configs = [config_path, *sorted(config_path.parent.glob(f"{config_path.name}.bak-*"))]
    if configs := [path for path in configs if path.is_file()]:
        found.append(Belonging("config", configs))
    return found


def _not_ours(folder: Path) -> str:
    """Why a folder may hold more than what is ours, or ""."""
    if folder.is_symlink():
        return "it is a link"
    if paths.APP not in folder.name:
        return f"its name does not say {paths.APP}, so other things may be in it; remove it yourself"
    return ""
