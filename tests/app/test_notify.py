"""What the service manager hears."""

from __future__ import annotations

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
