"""Text from the far side, made fit for a terminal or a log.

Workflows, node names, tracebacks and banners come from machines that nobody trusts; an escape sequence in them could rewrite the
screen, the window's title or the clipboard. Everything that is printed passes here, once, at the edge.
"""

from __future__ import annotations

import re
import unicodedata

# Texts are long and hostile: no branch may look far ahead and fail, or each of many beginnings does. So a string that nothing
# terminates ends before the next escape, as terminals have it.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, modes (ECMA-48, 5.4)
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC with their text
    r"|\x1b[ -/]*[0-~]"  # all other escapes
)
_HIDDEN = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)
"""What turns the direction of text around, or breaks a line without being a control character."""


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` without escape sequences and control characters. With `lines`, newlines and tabs stay; else they become spaces."""
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    for char in _SEQUENCES.sub("", text).replace("\r\n", "\n"):
        if char in "\n\t":
            kept.append(char if lines else " ")
        elif char not in _HIDDEN and unicodedata.category(char) not in {"Cc", "Cs"}:
            kept.append(char)
    return "".join(kept)
