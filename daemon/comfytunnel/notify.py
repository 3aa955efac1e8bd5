"""What the service manager is told: ready, one live line, stopping. Without one ($NOTIFY_SOCKET unset) nothing happens."""

from __future__ import annotations

import os

import sdnotify

from comfytunnel.printable import printable


class Notifier:
    """sd_notify(3). Never raises: a manager that has gone is no reason to stop."""

    def __init__(self) -> None:
        self.managed = "NOTIFY_SOCKET" in os.environ
        self._socket = sdnotify.SystemdNotifier()
        self._line = ""

    def ready(self) -> None:
        self._socket.notify("READY=1")

    def status(self, line: str) -> None:
        """`line` is what `systemctl status` shows; the same line twice is sent once. It may hold words of the far side: a line
        break in them would be a message of its own to the manager."""
        line = printable(line)
        if line != self._line:
            self._line = line
            self._socket.notify(f"STATUS={line}")

    def stopping(self) -> None:
        self._socket.notify("STOPPING=1")

    def close(self) -> None:
        """Nothing is said after this."""
        if self.managed:
            self._socket.socket.close()
