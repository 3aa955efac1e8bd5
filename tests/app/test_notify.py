"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from comfytunnel.notify import Notifier


def test_words_of_the_far_side_are_no_messages_of_their_own(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version such as "1\\nWATCHDOG=trigger" would otherwise let a rented node restart our unit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        notifier = Notifier()
        assert notifier.managed
        notifier.status("ComfyUI 1\nWATCHDOG=trigger serving")
        assert manager.recv(4096) == b"STATUS=ComfyUI 1 WATCHDOG=trigger serving"
        notifier.status("ComfyUI 1\nWATCHDOG=trigger serving")
        notifier.ready()
        assert manager.recv(4096) == b"READY=1", "the same line is sent once"
        notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "wanted"),
    [
        ("30000000", "{own}", 30.0),
        ("2000000", None, 2.0),
        ("30000000", "1", None),  # meant for another process
        ("0", "{own}", None),
        ("soon", "{own}", None),
        (None, None, None),
    ],
)
def test_the_watchdogs_time_is_ours_only_if_it_is_meant_for_us(
    usec: str | None,
    pid: str | None,
    wanted: float | None,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid and pid.format(own=os.getpid()))):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        notifier = Notifier()
        assert notifier.watchdog == wanted
        notifier.close()
