"""The files of jobs, opened in the system's viewer. They come from the far side: only pictures, films and sounds, never what a browser would execute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from comfytunnel.cli import exits

MAX_OPENED = 20  # files of one command: each is a window
OPENED = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jpeg",
        ".jpg",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
        ".mkv",
        ".mov",
        ".mp4",
        ".webm",
        ".flac",
        ".m4a",
        ".mp3",
        ".ogg",
        ".opus",
        ".wav",
    ]
)


def open_files(paths: Sequence[str]) -> None:
    """Hand the files to the system's viewer, which is not waited for. What cannot be opened is said, and is no failure."""
    wanted = [path for path in paths if Path(path).suffix.lower() in OPENED]
    viewer = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if not wanted:
        return
    if viewer is None or not (sys.platform == "darwin" or _has_display()):
        exits.say(
            "nothing was opened: there is no viewer here"
            if viewer is None
            else "nothing was opened: there is no display"
        )
        return
    for path in wanted[:MAX_OPENED]:
        subprocess.Popen(
            [viewer, str(Path(path).absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    if len(wanted) > MAX_OPENED:
        exits.say(f"only the first {MAX_OPENED} of {len(wanted)} files were opened")


def _has_display() -> bool:
    """Without one xdg-open would draw pictures into this terminal, with whatever browser it finds."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
