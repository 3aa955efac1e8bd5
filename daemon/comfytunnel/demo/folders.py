"""Where files lie below the stand-in's base, and under which names; as measured on 0.33, weak spots included.

Nothing is written here but the folders that a picture is about to be saved in. What a node does with a file is nodes.py's, what HTTP
gives and takes of them files.py's.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True, slots=True)
class Folders:
    """input/, output/ and temp/ below one base."""

    base: Path

    def of(self, kind: str) -> Path | None:
        """The folder of `type=kind`, None for a type that ComfyUI does not know."""
        return self.base / kind if kind in ("input", "output", "temp") else None

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split "a.png [temp]" into name and folder; without such an ending the folder is None."""
        for kind in ("output", "input", "temp"):
            if name.endswith(f"[{kind}]"):
                return name[: -len(kind) - 3], self.base / kind
        return name, None

    def input_file(self, name: str) -> Path:
        plain, folder = self.annotated(name)
        return (folder or self.base / "input") / plain


def models(folders: Folders) -> list[str]:
    """Two that are always there, and what lies in models/: as on a real one, that may change while it runs."""
    folder = folders.base / "models"
    return [
        "demo-flux.safetensors",
        "demo/demo-xl.safetensors",
        *sorted(map(os.path.basename, folder.glob("*"))),
    ]


def pictures_in(folder: Path) -> list[str]:
    known = Image.registered_extensions()
    return sorted(f.name for f in folder.iterdir() if f.is_file() and f.suffix.lower() in known)


def save_place(folder: Path, prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """(folder, bare name, next counter, subfolder) for a filename_prefix; raises when it leaves the folder."""
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    values |= {"month": f"{now.tm_mon:02}", "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}"}
    values |= {"minute": f"{now.tm_min:02}", "second": f"{now.tm_sec:02}"}
    for key, value in values.items():
        prefix = prefix.replace(f"%{key}%", value)
    subfolder, name = os.path.split(os.path.normpath(prefix))
    target = folder / subfolder
    if not target.resolve().is_relative_to(folder.resolve()):
        raise Exception(f"**** ERROR: {target.resolve()} is outside of the output folder {folder.resolve()}")
    target.mkdir(parents=True, exist_ok=True)
    taken = re.compile(re.escape(name) + r"_(\d+)")
    counters = [int(m[1]) for entry in target.iterdir() if (m := taken.match(entry.name))]
    return target, name, max(counters, default=0) + 1, subfolder
