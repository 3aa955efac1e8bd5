"""What the stand-in does wrong when a test asks for it: one table, everything off at first.

A switch that counts (`int`) is used up: 1 means "the next one only", ALWAYS means until it is set back to 0. No behaviour
lives here; each fault is carried out where the good behaviour would have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ALWAYS = -1
"""For a counting switch: every time, until it is set back to 0."""

EVIL_NAMES: tuple[Mapping[str, Any], ...] = (
    {"filename": "../../evil.png", "subfolder": "", "type": "output"},
    {"filename": "evil.png", "subfolder": "../../..", "type": "output"},
    {"filename": "/etc/evil.png", "subfolder": "", "type": "output"},
    {"filename": "evil.png", "subfolder": "/etc", "type": "output"},
    {"filename": "..\\..\\evil.png", "subfolder": "a\\..\\..", "type": "output"},
    {"filename": "C:\\evil.png", "subfolder": "", "type": "output"},
    {"filename": "nul\x00evil.png", "subfolder": "", "type": "output"},
    {"filename": "\x1b[2J\x1b]0;owned\x07evil.png", "subfolder": "\r\n", "type": "output"},
    {"filename": "\u202egnp.live.png", "subfolder": "", "type": "output"},
    {"filename": "e" * 5000 + ".png", "subfolder": "s" * 5000, "type": "output"},
    {"filename": "..", "subfolder": ".", "type": "output"},
    {"filename": ".", "subfolder": "..", "type": "output"},
    {"filename": "", "subfolder": "", "type": "output"},
    {"filename": ".bashrc", "subfolder": "", "type": "output"},
    {"filename": "-rf.png", "subfolder": "--", "type": "output"},
    {"filename": "evil.png", "subfolder": "", "type": "../output"},
    {"filename": "evil.png.desktop", "subfolder": "", "type": "output"},
    {"filename": "evil.png"},
    {"filename": 7, "subfolder": ["x"], "type": {"y": 1}},
    {"filename": None, "subfolder": None, "type": None},
)
"""Names that a client must survive: traversal, absolute, control characters, too long, wrong types."""


@dataclass(slots=True, kw_only=True)
class Faults:
    """Everything that can go wrong on ComfyUI's side. Set a field at any time; it acts from the next request on."""

    html_login: Literal["", "401", "redirect", "html"] = ""
    """Answer every request as Vast.ai's Caddy on port 8188 does: 401, a redirect to a login page, or the page itself."""
    starting: bool = False
    """The port takes connections and closes each at once without a byte. (Not bound at all: `await comfyui.stop()`.)"""
    slow_answers: float = 0.0
    """Seconds before each HTTP answer; a busy ComfyUI blocks for 1.4 s (measured), a frozen one for ever."""
    drop_prompt_request: int = 0
    """Cut the connection of the next POST /prompt before the job is queued: it never runs."""
    drop_prompt_response: int = 0
    """Queue the next POST /prompt, then cut its connection without an answer: it runs all the same."""
    reject_prompt_500: int = 0
    """Queue the next POST /prompt and answer 500: the ambiguous one."""
    reject_prompt_500_unqueued: int = 0
    """Answer the next POST /prompt with 500 and do not queue it: looks the same from outside."""
    lose_interrupts: int = 0
    """Acknowledge the next interrupt or cancel of a running job and forget it (about 2 % on a real one, measured)."""
    cut_upload: int = 0
    """Cut the connection of the next upload in the middle of its bytes: nothing is stored."""
    slow_upload: float = 0.0
    """Seconds before an upload is stored and answered."""
    late_upload_answer: float = 0.0
    """Seconds between the storing of an upload and its answer."""
    reject_upload_500: int = 0
    """Answer the next upload with 500 and store nothing, as with a full disk."""
    history_late: float = 0.0
    """Seconds between `execution_success` on the websocket and the entry in history; the job counts as running."""
    huge_output: int = 0
    """SaveImage and PreviewImage pad each PNG to at least so many bytes with noise (in a private chunk: still a picture)."""
    many_outputs: int = 0
    """Each node with outputs names so many more files in history; none of them exists."""
    evil_filename: Sequence[Mapping[str, Any]] = ()
    """Put these in place of each file that a node names (say EVIL_NAMES); /view then serves bytes for any name."""
    missing_output: bool = False
    """/view answers 404 for everything in output/, as after somebody has cleaned up."""
    reject_view_500: int = 0
    """Answer the next /view with 500, as with a disk that hangs."""
    truncate_view: int = 0
    """The next /view announces the whole length, sends half of it and closes."""
    stall_view: int = 0
    """The next /view announces the whole length, sends half of it and then nothing more."""
    silent_websocket: bool = False
    """Websockets stay open, answer pings and hear nothing after the first `status`."""
    refuse_websockets: int = 0
    """Answer the next websocket with 500 instead of opening it."""
    cut_websockets: int = 0
    """Cut the next websocket as soon as it has been opened."""

    def take(self, name: str) -> bool:
        """Whether the counting switch is on; uses one up."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left != 0
