"""A picture as sixels (DEC STD 070, 1990): six rows of pixels at a time, one pass for each colour in them. Pure; text out, of our own making to the last byte."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = (
    128  # xterm's VT340 takes 16 and every other terminal of today 256; more than this is not to be seen
)
_RUNS = re.compile(rb"(.)\1{3,254}", re.DOTALL)  # what is shorter is not worth its number
_SHIFTED = bytes((value + 63) % 256 for value in range(256))  # six bits -> a printable character


def sixels(image: Image) -> str:
    """Return the escape sequence that draws an RGB picture at the cursor."""
    indexed = image.quantize(COLOURS)
    width, height = indexed.size
    data, palette = indexed.tobytes(), indexed.getpalette() or []
    parts = [f'\x1bPq"1;1;{width};{height}']
    for number in sorted(set(data)):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * number : 3 * number + 3])
        parts.append(f"#{number};2;{red};{green};{blue}")
    parts += [_band(data[top * width : (top + 6) * width], width) for top in range(0, height, 6)]
    return "".join([*parts, "\x1b\\"])


def _band(data: bytes, width: int) -> str:
    """Up to six rows: for each colour in them the columns where it stands, a bit for each row; `$` goes back to the left edge."""
    planes: dict[int, bytearray] = {}
    for offset in range(0, len(data), width):
        bit = 1 << (offset // width)
        for x, number in enumerate(data[offset : offset + width]):
            plane = planes.get(number)
            if plane is None:
                plane = planes[number] = bytearray(width)
            plane[x] |= bit
    return "$".join(f"#{number}{_short(plane)}" for number, plane in planes.items()) + "-"


def _short(plane: bytearray) -> str:
    text = bytes(plane).rstrip(b"\0").translate(_SHIFTED)
    return _RUNS.sub(lambda run: b"!%d%c" % (len(run[0]), run[1][0]), text).decode("ascii")
