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
    for path in wanted[:MAX_OPENED]:
        why = hand_over(str(Path(path).absolute()))
        if why:
            exits.say(f"nothing was opened: {why}")
            return
    if len(wanted) > MAX_OPENED:
        exits.say(f"only the first {MAX_OPENED} of {len(wanted)} files were opened")


def hand_over(target: str) -> str:
    """Give a path or a URL to the system, which shows it with whatever does so. Returns why it cannot, "" if it can."""
    mac = sys.platform == "darwin"
    viewer = shutil.which("open" if mac else "xdg-open")
    if viewer is None:
        return "there is no viewer here"
    if not (mac or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"  # xdg-open would draw into this terminal, with whatever browser it finds
    quiet = subprocess.DEVNULL
    subprocess.Popen([viewer, target], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return ""
