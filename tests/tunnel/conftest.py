"""What the tests of the tunnel stand on: a far end of either kind, a service behind it, and our side put together.

Both far ends speak SSH for real. `Far` gives them one face where tests run against both; what only one of them can do is done
to it directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from comfytunnel.config import Tcp, TunnelConfig
from comfytunnel.demo.remote import Remote
from comfytunnel.ending import end_accepting
from comfytunnel.fdstore import Handed
from comfytunnel.notify import Notifier
from comfytunnel.tunnel.dial import Resolver
from comfytunnel.tunnel.door import Door
from comfytunnel.tunnel.driver import Driver, View
from comfytunnel.tunnel.link import Link
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.ssh import SshOpener
from comfytunnel.tunnel.state import Event, Phase, Tunnel, Want
from tests.fakes.sshd import Sshd, free_port

DEADLINE = 10.0  # seconds for anything that a test waits for; most of it takes milliseconds

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_agent_and_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The keys, the agent and the settings of whoever runs the tests stay out of them."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name is short enough for a socket in it, which that of tmp_path may not be."""
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        yield Path(folder)


# --- what stands behind the far end ---------------------------------------------------------------------------------


@asynccontextmanager
async def service(serve: Serve, where: int | Path = 0) -> AsyncIterator[int]:
    """A service on a loopback port (0: any free one) or a Unix socket; its port. Its connections are reset at the end."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # callers that break off are what many tests are about
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            open_ones.discard(writer)

    if isinstance(where, Path):
        server = await asyncio.start_unix_server(guarded, where)
    else:
        server = await asyncio.start_server(guarded, "127.0.0.1", where)
    try:
        yield 0 if isinstance(where, Path) else server.sockets[0].getsockname()[1]
    finally:
        await end_accepting(server)
        await asyncio.sleep(0)  # asyncio's turn from a connection that was met to its handler
        for writer in list(open_ones):
            writer.transport.abort()
        await becomes(lambda: not open_ones, "the service has ended its connections")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it gets, and an end for an end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one HTTP request."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and says nothing until the other side ends."""
    while await reader.read(1 << 16):
        pass


# --- the far end ----------------------------------------------------------------------------------------------------


@dataclass
class Far:
    """One of the two SSH servers, under one face."""

    server: Sshd | Remote
    key: Path
    host_key: Callable[[], str]  # fingerprint of what new connections see
    known_hosts_line: Callable[[], str]

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def logins(self) -> int:
        return self.server.accepted if isinstance(self.server, Sshd) else self.server.logins

    @property
    def connections(self) -> int:
        return len(self.server.sessions) if isinstance(self.server, Sshd) else self.server.connections

    async def cut(self) -> None:
        if isinstance(self.server, Sshd):
            await self.server.cut()
        else:
            self.server.cut()

    def freeze(self) -> None:
        self.server.freeze()

    async def change_host_key(self) -> None:
        if isinstance(self.server, Sshd):
            await self.server.change_host_key()
        else:
            self.server.change_host_key()

    async def refuse_forwards(self) -> None:
        if isinstance(self.server, Sshd):
            await self.server.set_permit_open("none")
        else:
            self.server.refuse_forwards = True

    def refuse_key(self) -> None:
        if isinstance(self.server, Sshd):
            self.server.set_authorized([])
        else:
            self.server.refuse_auth = True

    def accept_key(self) -> None:
        if isinstance(self.server, Sshd):
            self.server.set_authorized([self.server.client_public])
        else:
            self.server.refuse_auth = False


class _Everywhere(dict[tuple[str, int], int]):
    """Targets as sshd has them: every loopback port is where it says it is."""

    def get(self, key: tuple[str, int], default: Any = None) -> Any:
        return key[1]


@asynccontextmanager
async def sshd_far(tmp: Path, **options: Any) -> AsyncIterator[Far]:
    async with Sshd(tmp, **options) as sshd:
        yield Far(sshd, sshd.client_key, lambda: sshd.host_key_fingerprint, lambda: sshd.known_hosts_line)


@asynccontextmanager
async def remote_far(tmp: Path, **options: Any) -> AsyncIterator[Far]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = tmp / "remote_client_key"
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    async with Remote(targets=_Everywhere(), authorized=[key.convert_to_public()], **options) as remote:
        yield Far(remote, path, lambda: remote.host_key.get_fingerprint(), lambda: remote.known_hosts_line)


FARS = {"sshd": sshd_far, "remote": remote_far}


@pytest.fixture(params=FARS)
async def far(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Far]:
    """Each test with it runs against a real sshd and against the in-process server."""
    async with FARS[request.param](tmp_path) as it:
        yield it


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[Sshd]:
    async with Sshd(tmp_path) as it:
        yield it


# --- our side -------------------------------------------------------------------------------------------------------


def config_for(far: Far | Sshd, tmp: Path, service_port: int, **changes: Any) -> TunnelConfig:
    key = far.key if isinstance(far, Far) else far.client_key
    user = far.user if isinstance(far, Sshd) else far.server.user if isinstance(far.server, Sshd) else "root"
    listen = free_port()
    config = TunnelConfig(
        name="t",
        host="127.0.0.1",
        port=far.port,
        user=user,
        identity_files=(key,),
        ssh_config=None,
        known_hosts=tmp / "known_hosts",
        listen=(Tcp("127.0.0.1", listen),),
        remote=Tcp("127.0.0.1", service_port),
    )
    return replace(config, **changes)


@dataclass
class Near:
    """Driver and door of one tunnel, running, and every record that was announced."""

    config: TunnelConfig
    driver: Driver
    door: Door
    records: list[Tunnel] = field(default_factory=list)
    refusals: list[None] = field(default_factory=list)  # each time ComfyUI's side said no

    @property
    def port(self) -> int:
        endpoint = self.config.listen[0]
        assert isinstance(endpoint, Tcp)
        return endpoint.port

    @property
    def record(self) -> Tunnel:
        return self.driver.view.value.tunnel

    def tell(self, event: Event) -> None:
        self.driver.tell(event)

    async def until(self, wanted: Callable[[View], bool], deadline: float = DEADLINE) -> View:
        try:
            async with asyncio.timeout(deadline):
                return await self.driver.view.until(wanted)
        except TimeoutError:
            raise AssertionError(f"not within {deadline} s; now: {self.record}") from None

    async def phase(self, *phases: Phase, deadline: float = DEADLINE) -> Tunnel:
        return (await self.until(lambda view: view.tunnel.phase in phases, deadline)).tunnel

    async def up(self, *, after: int = 0) -> Link:
        """The link, once one with a higher number than `after` is up."""
        view = await self.until(lambda view: view.link is not None and view.tunnel.link > after)
        assert view.link is not None
        return view.link

    async def call(
        self, data: bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", *, end: bool = False
    ) -> bytes:
        """One call through the door: all that comes back until the end."""
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                if end:
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()


@asynccontextmanager
async def near(
    config: TunnelConfig, policy: Policy | None = None, *, want: bool = True, bound: bool = True
) -> AsyncIterator[Near]:
    """A tunnel that runs, and is wanted unless `want` says otherwise; its door is bound unless `bound` says otherwise."""
    refusals: list[None] = []
    opener = SshOpener(
        config,
        Resolver(),
        lambda: refusals.append(None),
        eager=lambda: driver.view.value.tunnel.waiting,
    )
    driver = Driver("t", opener, policy)
    listeners = Listeners(Notifier(), Handed())
    door = Door(
        "t",
        config.listen,
        driver.view,
        listeners,
        hold=config.hold,
        on_held=lambda held: driver.demand("door", held),
    )
    it = Near(config, driver, door, refusals=refusals)

    async def record() -> None:
        async for view in driver.view.changes():
            it.records.append(view.tunnel)

    tasks = [asyncio.create_task(work) for work in (record(), driver.run(), door.run())]
    try:
        if want:
            driver.tell(Want(True))
        if bound:
            async with asyncio.timeout(DEADLINE):
                await door.state.until(lambda state: len(state.listening) == len(config.listen))
        yield it
    finally:
        for task in reversed(tasks):  # the door first: open calls need a link to finish on
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        listeners.close()


async def becomes(
    holds: Callable[[], bool], what: str | Callable[[], str], deadline: float = DEADLINE
) -> None:
    """Wait for something that nobody announces, such as a number of processes or of sockets."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not holds():
        if loop.time() > end:
            raise AssertionError(f"not within {deadline} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.005)
