"""A terminal's other screen for something that is drawn anew and anew: entered, drawn, left as it was, whatever ends us.

Nothing flickers: a frame overwrites the one before, line by line, and is shown at once by terminals that can (DEC mode 2026). A window that changes its
size, a bell from another thread and a key end a wait. What is drawn is not this file's business, and must be printable already.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # the alternate screen, without cursor, lines cut at the edge
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # what lies between is shown at once; others ignore it
QUIT = b"qQ\x03\x04"


class Ended(Exception):  # noqa: N818 - no error: somebody has had enough
    """A signal asks us to end."""


class FullScreen:
    """The terminal of stdout between `with` and its end; keys come from stdin if that is one, too."""

    def __init__(self) -> None:
        self._keys: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._bell, self._ringer = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ringer, False)

    def __enter__(self) -> Self:
        handlers: dict[int, Callable[[int, FrameType | None], None]] = {
            signal.SIGWINCH: lambda *_: self.ring(),
            signal.SIGTSTP: lambda *_: self._suspend(),
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
        }
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def size(self) -> os.terminal_size:
        """Return columns and rows, as they are now."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            found = os.terminal_size((0, 0))
        return found if found.columns and found.lines else shutil.get_terminal_size()

    def draw(self, text: str) -> None:
        """Show the text; what is too long for the window ends with a line that says so."""
        lines, rows = text.split("\n"), max(self.size().lines, 2)
        if len(lines) > rows:
            lines = [*lines[: rows - 1], f"... {len(lines) - rows + 1} lines more: the window is too low"]
        frame = "\r\n".join(f"{line}\x1b[K" for line in lines)
        self._write(f"{BEGIN}\x1b[H{frame}\x1b[J{END}")

    def ring(self) -> None:
        """End a wait, from any thread."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: it rings already; closed: nobody waits
            os.write(self._ringer, b"!")

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until there is something new; True when the user has had enough (q, Ctrl-C)."""
        stdin = sys.stdin.fileno()
        watched = [self._bell, stdin] if self._keys is not None else [self._bell]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._bell in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        if stdin in ready and stdin != self._bell:
            keys = os.read(stdin, 64)
            return not keys or any(key in QUIT for key in keys)
        return False

    def _enter(self) -> None:
        if sys.stdin.isatty():
            self._keys = termios.tcgetattr(sys.stdin)
            quiet = termios.tcgetattr(sys.stdin)
            quiet[3] &= ~(termios.ICANON | termios.ECHO)  # what is typed must not stand in the picture
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
        self._write(ENTER)

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone
            self._write(LEAVE)
        if self._keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._keys)
            self._keys = None

    def _suspend(self) -> None:
        """Ctrl-Z: give the terminal back while we are stopped."""
        self._leave()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)
        self._enter()
        self.ring()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _end(*_: object) -> None:
    raise Ended
