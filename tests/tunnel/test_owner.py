"""Whose the other end of a connection is, asked of the real kernel: by netlink, and by the table that it prints."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from comfytunnel.tunnel import owner
from comfytunnel.tunnel.dial import reset_on_close
from tests.tunnel.test_door_listening import needs_ipv6

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose a socket is")
as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs root to become somebody else"
)
NOBODY = 65534

CALLER = """
import os, socket, sys
os.setuid(int(sys.argv[3]))
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.connect((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["netlink", "table", "no diag module"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with netlink, without it, and with a kernel whose netlink knows no TCP."""

    def denied(*_: object) -> None:
        raise PermissionError

    if request.param == "table":
        monkeypatch.setattr(owner.SocketTable, "_ask", denied)
    elif request.param == "no diag module":
        monkeypatch.setattr(owner.SocketTable, "_ask", lambda *_: None)
    else:
        monkeypatch.setattr(owner, "_search", denied)
    return str(request.param)


@pytest.fixture
def table(way: str) -> Iterator[owner.SocketTable]:
    it = owner.SocketTable()
    yield it
    it.close()


@pytest.fixture(params=["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as it:
        it.settimeout(5)
        yield it


def test_a_caller_of_ours_is_ours(listener: socket.socket, table: owner.SocketTable) -> None:
    with socket.create_connection(listener.getsockname()[:2]), listener.accept()[0] as accepted:
        assert table.peer_uid(accepted) == os.geteuid()
        assert table.is_ours(accepted)


@needs_ipv6
def test_an_ipv4_caller_with_an_ipv6_socket_is_found(table: owner.SocketTable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as caller:
        caller.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        with listener.accept()[0] as accepted:
            assert table.peer_uid(accepted) == os.geteuid()


@as_root
def test_another_user_is_told_apart(listener: socket.socket, table: owner.SocketTable) -> None:
    host, port = listener.getsockname()[:2]
    command = [sys.executable, "-c", CALLER, host, str(port), str(NOBODY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        with listener.accept()[0] as accepted:
            assert table.peer_uid(accepted) == NOBODY
            assert not table.is_ours(accepted)
        caller.communicate()


def by_end(caller: socket.socket) -> None:
    caller.close()


def by_reset(caller: socket.socket) -> None:
    reset_on_close(caller)
    caller.close()


@pytest.mark.parametrize("leave", [by_end, by_reset])
def test_a_caller_that_has_left_is_nobodys(
    leave: Callable[[socket.socket], None], listener: socket.socket, table: owner.SocketTable
) -> None:
    """The kernel shows a closed socket as root's, and root may pass."""
    caller = socket.create_connection(listener.getsockname()[:2])
    with listener.accept()[0] as accepted:
        caller.sendall(b"POST /prompt HTTP/1.1\r\n\r\n")
        leave(caller)
        with pytest.raises(owner.Untold):
            table.is_ours(accepted)


def test_a_listener_is_not_taken_for_a_connection() -> None:
    """The kernel offers one where it finds no connection; its user may be another than the caller's was."""
    table = owner.SocketTable()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert table._ask(socket.AF_INET, listener.getsockname(), ("127.0.0.1", 1)) is None
        with socket.create_connection(listener.getsockname()) as caller:
            assert table._ask(socket.AF_INET, listener.getsockname(), caller.getsockname()) is not None
    table.close()
