"""An SSH server that only forwards, as a rented instance's sshd does for us: no shell, no exec, no reverse forwards.

Keys only. `direct-tcpip` to a name and port in `targets` reaches the real loopback port that stands there; everything else is
refused and counted. Faults are attributes and methods; the TCP side of them (cut, freeze, refuse) is done by a relay in front.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, cast

import asyncssh

from comfytunnel.demo.relay import Relay
from comfytunnel.ending import end_accepting

LOGIN_SECONDS = 20.0
"""How long a client may take to authenticate."""


class Remote:
    """The stand-in for an instance's SSH server.

    Counters: `sessions_asked` (sessions, reverse forwards, Unix sockets, tun: must remain 0), `forwards_asked` (each
    (host, port) in order, refused ones too), `logins` (authenticated connections ever), `auth_failures` (keys refused),
    `connections` (TCP connections now), `connections_made` (TCP connections ever).
    Faults: `refuse_auth`, `refuse_forwards` (code 1), `ignore_forwards` (never answered), `refuse_connections` (reset after accept),
    cut(), freeze() and unfreeze(), unbind() and rebind(), change_host_key().
    """

    def __init__(
        self,
        *,
        targets: dict[tuple[str, int], int],
        authorized: Iterable[asyncssh.SSHKey],
        host_key: asyncssh.SSHKey | None = None,
        banner: str = "",
    ) -> None:
        """`targets` and `authorized` may be changed at any time (they act on the next forward and the next login)."""
        self.targets = targets
        self.authorized = list(authorized)
        self.host_key = host_key or asyncssh.generate_private_key("ssh-ed25519")
        self.banner = banner
        self.refuse_auth = False
        self.refuse_forwards = False
        self.ignore_forwards = False
        self.sessions_asked = 0
        self.forwards_asked: list[tuple[str, int]] = []
        self.logins = 0
        self.auth_failures = 0
        self._relay = Relay()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._stopping = asyncio.Event()
        self._connected: set[asyncssh.SSHServerConnection] = set()
        self._forwarding: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        return self._relay.port

    @property
    def connections(self) -> int:
        return self._relay.live

    @property
    def connections_made(self) -> int:
        return self._relay.accepted

    @property
    def refuse_connections(self) -> bool:
        return self._relay.refusing

    @refuse_connections.setter
    def refuse_connections(self, refuse: bool) -> None:
        self._relay.refusing = refuse

    @property
    def known_hosts_line(self) -> str:
        """The line for known_hosts that belongs to 127.0.0.1, the bound port and the present host key."""
        key = self.host_key.export_public_key().decode().split()
        return f"[127.0.0.1]:{self.port} {key[0]} {key[1]}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the bound port (0: any free one)."""
        self._stopping.clear()
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=functools.partial(_Server, self),
            server_host_keys=[self.host_key],
            encoding=None,
            login_timeout=LOGIN_SECONDS,
            compression_algs=["none"],
            allow_pty=False,
            agent_forwarding=False,
        )
        return await self._relay.start(self._acceptor.get_port(), host, port)

    async def stop(self) -> None:
        """Reset all connections and listen no more."""
        self._stopping.set()
        await self._relay.stop()
        if self._acceptor:
            # asyncssh's acceptor hands on to asyncio's server what it does not know itself.
            await end_accepting(cast(asyncio.Server, self._acceptor))
            # The relay has closed its end of these, but a busy kernel may take its time to tell them.
            for conn in list(self._connected):
                conn.abort()
                await conn.wait_closed()
            await self._acceptor.wait_closed()
            self._acceptor = None
            await asyncio.sleep(0)  # asyncio closes the socket of an aborted transport a turn later
        if self._forwarding:
            await asyncio.wait(self._forwarding, timeout=LOGIN_SECONDS)

    def cut(self) -> None:
        """Reset all living connections (RST); new ones are welcome."""
        self._relay.cut()

    def freeze(self) -> None:
        """Living connections say nothing any more and are not closed; new ones work."""
        self._relay.freeze()

    def unfreeze(self) -> None:
        """Frozen connections go on where they stopped."""
        self._relay.unfreeze()

    async def unbind(self) -> None:
        """New connections meet "connection refused"; living ones go on."""
        await self._relay.unbind()

    async def rebind(self) -> None:
        """Listen again on the same port."""
        await self._relay.rebind()

    def change_host_key(self, key: asyncssh.SSHKey | None = None) -> asyncssh.SSHKey:
        """Another host key for new connections (default: a new ed25519 one); returns it."""
        self.host_key = key or asyncssh.generate_private_key("ssh-ed25519")
        if self._acceptor:
            self._acceptor.update(server_host_keys=[self.host_key])
        return self.host_key

    async def stopping(self) -> None:
        """Wait until stop() has been called."""
        await self._stopping.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()


class _Server(asyncssh.SSHServer):
    """One connection's callbacks: counts, refuses, forwards."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._conn: asyncssh.SSHServerConnection
        self._lost = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._remote._connected.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._remote._connected.discard(self._conn)

    def begin_auth(self, username: str) -> bool:
        if self._remote.banner:
            self._conn.send_auth_banner(self._remote.banner)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        known = {authorized.public_data for authorized in self._remote.authorized}
        welcome = not self._remote.refuse_auth and key.public_data in known
        self._remote.auth_failures += not welcome
        return welcome

    def auth_completed(self) -> None:
        self._remote.logins += 1

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        """Forward to the loopback port that `targets` names; code 1 when it names none, 2 when nothing listens there."""
        remote = self._remote
        remote.forwards_asked.append((dest_host, dest_port))
        if remote.ignore_forwards:
            return self._never()
        port = remote.targets.get((dest_host, dest_port))
        if remote.refuse_forwards or port is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        return self._forward(port)

    async def _forward(self, port: int) -> Any:
        """asyncssh forgets a socket that is connected only after its SSH connection has gone: we close that one."""
        task = asyncio.current_task()
        assert task is not None
        self._remote._forwarding.add(task)
        task.add_done_callback(self._remote._forwarding.discard)
        forwarder = await self._conn.forward_connection("127.0.0.1", port)
        if self._lost:
            forwarder.close()
        return forwarder

    async def _never(self) -> Any:
        await self._remote.stopping()
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")

    def session_requested(self) -> bool:
        return self._refuse()

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return self._refuse()

    def unix_connection_requested(self, dest_path: str) -> bool:
        return self._refuse()

    def unix_server_requested(self, listen_path: str) -> bool:
        return self._refuse()

    def tun_requested(self, unit: int | None) -> bool:
        return self._refuse()

    def tap_requested(self, unit: int | None) -> bool:
        return self._refuse()

    def _refuse(self) -> bool:
        self._remote.sessions_asked += 1
        return False
