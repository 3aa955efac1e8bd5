"""Why something is not as the user wants it, as every part of the API says it.

Part of wire.py, which passes it on: readers import it from there. Apart because the other parts of wire.py need it too.
"""

from __future__ import annotations

import msgspec


class Cause(msgspec.Struct, frozen=True):
    """A stable code, a sentence, the next step ("" where there is none)."""

    code: str
    message: str
    hint: str = ""
