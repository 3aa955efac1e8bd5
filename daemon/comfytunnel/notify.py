"""What the service manager is told: ready, reloading, one live line, alive, stopping; and the sockets that it is to keep. Without one ($NOTIFY_SOCKET
unset) nothing happens. What it passes back at the next start is read in fdstore.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

import sdnotify

from comfytunnel.printable import printable


class Notifier:
    """sd_notify(3). Never raises: a manager that has gone is no reason to stop."""

    def __init__(self, started: bool = False) -> None:
        """`started`: by a manager that does not listen to us (launchd), and starts us again when we end in failure."""
        self.listens = "NOTIFY_SOCKET" in os.environ
        self.managed = self.listens or started
        self._manager = sdnotify.SystemdNotifier() if self.listens else None
        self._line = ""
        self.watchdog = _watchdog() if self.listens else None
        """Seconds within which the manager wants to hear `alive`; None: it does not look."""

    def ready(self) -> None:
        self._say("READY=1")

    def status(self, line: str) -> None:
        """`line` is what `systemctl status` shows; the same line twice is sent once. It may hold words of the far side: a line
        break in them would be a message of its own to the manager."""
        line = printable(line)
        if line != self._line:
            self._line = line
            self._say(f"STATUS={line}")

    def reloading(self) -> None:
        """`ready` ends it, whatever came of it."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def longer(self, seconds: float) -> None:
        """The start goes on, and may take so long from now: EXTEND_TIMEOUT_USEC of sd_notify(3)."""
        self._say(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def keep(self, name: str, sock: socket.socket) -> None:
        """Hand a duplicate of `sock` to the manager, who passes it to the process that comes after us: sd_pid_notify_with_fds(3).
        `name` is a legal FDNAME. A manager without a store, or with a full one, drops it without a word."""
        if self._manager is not None and self._manager.socket is not None:
            message = f"FDSTORE=1\nFDNAME={name}".encode()
            with contextlib.suppress(OSError):  # the successor will have to bind for itself
                socket.send_fds(self._manager.socket, [message], [sock.fileno()])

    def forget(self, name: str) -> None:
        """Let the manager close what it keeps under `name`."""
        self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def close(self) -> None:
        """Nothing is said after this."""
        if self._manager is not None and self._manager.socket is not None:
            self._manager.socket.close()

    def _say(self, message: str) -> None:
        if self._manager is not None:
            self._manager.notify(message)


def _watchdog() -> float | None:
    """sd_watchdog_enabled(3), in seconds."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6
