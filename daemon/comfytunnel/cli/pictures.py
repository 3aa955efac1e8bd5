"""Pictures in the terminal, where it can show them: the protocols of kitty and of iTerm2, and sixels. Elsewhere the path has to do.

A file that a job has made comes from a machine that nobody trusts: it is opened as one of a few formats, within limits, made small, and what the terminal gets
was encoded here. Nothing is drawn where nobody looks, nor through tmux and screen, which take pictures for text.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import os
import re
import select
import struct
import sys
import termios
import time
import tty
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comfytunnel.cli.words import PICTURES, choose

if TYPE_CHECKING:
    from PIL.Image import Image

VARIABLE = "COMFYTUNNEL_PICTURES"
MOST = 4  # pictures of one job
BYTES_MOST = 64 * 2**20  # of a file
PIXELS_MOST = 40_000_000  # of a picture: four bytes each in memory, for a moment
COLUMNS, ROWS = 60, 20  # cells that a picture may take, if the terminal has them
CELL = (10, 20)  # pixels, where the terminal does not say
PATIENCE = 0.2  # seconds for the terminal's answer; one on this machine needs 1 ms, over SSH a round trip
CHUNK = 4096  # characters of base64 in one sequence, kitty's limit
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def wish(asked: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return one of words.PICTURES: what is `asked`, else what $COMFYTUNNEL_PICTURES says, else auto. UsageError for another word."""
    said = environ.get(VARIABLE)
    if asked or not said:
        return choose(asked or "auto", PICTURES, "way to show pictures")
    return choose(said, PICTURES, f"way to show pictures (it stands in ${VARIABLE})")


def way(
    asked: str | None, ask: Callable[[], bytes] | None = None, environ: Mapping[str, str] = os.environ
) -> str:
    """Return how pictures are shown on stdout: kitty, iterm, sixel or never. `asked` and errors as of `wish`; `ask`: for the terminal's device attributes."""
    chosen = wish(asked, environ)
    if not sys.stdout.isatty() or environ.get("TERM", "dumb") == "dumb":
        return "never"
    return _detected(environ, ask or device_attributes) if chosen == "auto" else chosen


def _detected(environ: Mapping[str, str], ask: Callable[[], bytes]) -> str:
    """What the terminal says of itself in variables, which can be wrong in a terminal that was started from another one; else its answer."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if "TMUX" in environ or "STY" in environ or "ZELLIJ" in environ or term.startswith(("screen", "tmux")):
        return "never"  # whether they pass a picture on is not to be known from within
    if term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environ or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    found = re.search(rb"\x1b\[\?([0-9;]{1,100})c", ask())
    return "sixel" if found is not None and b"4" in found[1].split(b";")[1:] else "never"


def device_attributes() -> bytes:
    """Return what the terminal answers to DA1, which all do since the VT100; b"" if it is not ours to ask, or does not answer within PATIENCE."""
    found = b""
    try:
        terminal = sys.stdin.fileno()
        if not os.isatty(terminal) or os.tcgetpgrp(terminal) != os.getpgrp():
            return b""
        if select.select([terminal], [], [], 0)[0]:
            return b""  # somebody has typed: the keys are not ours
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):
        return b""
    try:
        tty.setcbreak(terminal, termios.TCSANOW)  # else the answer stands on the screen, and waits for Enter
        sys.stdout.write("\x1b[c")
        sys.stdout.flush()
        deadline = time.monotonic() + PATIENCE
        while not found.endswith(b"c") and len(found) < 200:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                break
            found += os.read(terminal, 200)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    return found


def show(paths: Iterable[Path | str], how: str) -> None:
    """Draw the first MOST of these on stdout; what is no picture, or cannot be shown, is left out: its path was said."""
    drawn = 0
    for path in paths:
        if how == "never" or drawn == MOST:
            return
        text = picture(Path(path), how, *room())
        if text is not None:
            drawn += 1
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def room() -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the columns and rows that a picture may take, and the width and height of a cell in pixels."""
    rows = columns = wide = high = 0
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        rows, columns, wide, high = struct.unpack("HHHH", answer)
    columns, rows = columns or 80, rows or 24
    cell = (wide // columns, high // rows) if wide >= columns and high >= rows else CELL
    return (min(COLUMNS, max(columns - 2, 4)), min(ROWS, max(rows - 4, 2))), cell


def picture(path: Path, how: str, cells: tuple[int, int], cell: tuple[int, int]) -> str | None:
    """Return what draws the file at the cursor, at most so many `cells` large; None for what is no picture within the limits."""
    from comfytunnel.cli.sixel import sixels

    most = (cells[0] * cell[0], cells[1] * cell[1])
    image = _small(path, most)
    if image is None:
        return None
    if how == "sixel":
        return sixels(image.convert("RGB"))
    columns = max(1, min(cells[0], -(-image.width // cell[0])))
    rows = max(1, min(cells[1], -(-image.height // cell[1])))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    if how == "kitty":
        return _kitty(text, columns, rows)
    size = len(file.getvalue())
    return (
        f"\x1b]1337;File=inline=1;size={size};width={columns};height={rows};preserveAspectRatio=1:{text}\x07"
    )


def _kitty(text: str, columns: int, rows: int) -> str:
    """In chunks; q=2: no answers, which would be typed into the shell."""
    chunks: Sequence[str] = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        more = int(number < len(chunks) - 1)
        head = f"a=T,f=100,q=2,c={columns},r={rows},m={more}" if not number else f"q=2,m={more}"
        parts.append(f"\x1b_G{head};{chunk}\x1b\\")
    return "".join(parts)


def _small(path: Path, most: tuple[int, int]) -> Image | None:
    """The picture, decoded and made as small as the terminal needs it; never larger."""
    try:
        from PIL import Image
    except ImportError:  # a distribution may leave it out: only pictures need it here
        return None
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if os.fstat(file.fileno()).st_size > BYTES_MOST:
                return None
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > PIXELS_MOST:
                return None
            image.draft("RGB", most)
            image.load()
            small = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGBA")
            small.thumbnail(most)
    except (OSError, ValueError, SyntaxError, OverflowError, MemoryError, EOFError, struct.error):
        return None  # what decoders raise over a file that is not what it says
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    small = small.convert("RGBA")
    ground = Image.new("RGBA", small.size, (0, 0, 0, 255))
    ground.alpha_composite(small)
    return ground.convert("RGB")
