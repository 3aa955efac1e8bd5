"""What can go wrong between us and a ComfyUI, by what it says about the request.

    ComfyError          message and hint, fit to be shown
    ├── Unreachable     no connection: nothing was sent
    ├── Ambiguous       sent, or perhaps sent, and no usable answer (closed, silent, 5xx): the request may have taken effect
    │   └── Cut         an answer that had begun and ended too soon
    ├── Refused         a definite no from ComfyUI (4xx): nothing has happened; `status` and the parsed `body`
    └── NotComfyUI      something answers that is not ComfyUI (a login page, a redirect, garbage): nothing has happened

aiohttp's exceptions become one of these in exchange.py, and in download.py and upload.py for what they read by themselves.
"""

from __future__ import annotations

from typing import Any


class ComfyError(Exception):
    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unreachable(ComfyError):  # noqa: N818 (blame is the type: these names read as what was seen)
    """No connection was made."""


class Ambiguous(ComfyError):  # noqa: N818
    """`status` is the 5xx that was answered, None without an answer; `silent`: the deadline passed (otherwise it was cut)."""

    def __init__(
        self, message: str, *, hint: str = "", status: int | None = None, silent: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.silent = silent


class Cut(Ambiguous):
    """Of a download some came; the rest may come another time."""


class Refused(ComfyError):  # noqa: N818
    """`body` is the decoded JSON, or None where there was none."""

    def __init__(self, message: str, *, status: int, body: Any = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.body = body


class NotComfyUI(ComfyError):  # noqa: N818
    """`status` is the HTTP status that came instead."""

    def __init__(self, message: str, *, status: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
