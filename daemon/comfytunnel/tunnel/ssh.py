"""The asyncssh link. asyncssh's exceptions become causes here and nowhere else.

What we ask of the far side is this much: authenticate us by key, and open direct channels to one port. No session channel, no
agent, X11 or reverse forwarding, no compression, no password. The link counts as open when the first channel was confirmed, or
refused because nothing listens there (that is ComfyUI's affair, not ours); that channel becomes the first spare.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel import keys
from comfytunnel.tunnel.channels import Channels
from comfytunnel.tunnel.dial import Resolver, acknowledger, code_of, dial, reset_on_close
from comfytunnel.tunnel.hostkeys import HostKeys, name_of
from comfytunnel.tunnel.link import Channel, Facts, LinkError, Sink
from comfytunnel.tunnel.state import Cause, Code

HANDSHAKE_DEADLINE = 15.0  # seconds from TCP to a judged host key: six round trips of a bad satellite line
LOGIN_DEADLINE = 90.0  # seconds for authentication and the first channel: an agent may ask a person
_CLOSE_DEADLINE = 1.0  # seconds for asyncssh to take itself apart after an abort, which sends nothing
_BANNER_LIMIT = 4096  # characters kept of what the relay says before authentication
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # first: AES-NI does 1.4 times chacha20 here


class SshOpener:
    """Opens links to the endpoint of one tunnel's config. Called by the driver, once per link."""

    def __init__(
        self, config: TunnelConfig, resolver: Resolver, on_refused: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._resolver = resolver
        self._on_refused = on_refused
        self._host_keys = HostKeys(config.known_hosts, config.host_key)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[SshLink]:
        """One link. Raises LinkError with the cause."""
        watch = _Watch()
        try:
            conn = await self._connect(watch)
        except TimeoutError:
            raise LinkError(
                Cause(Code.CONNECT_TIMEOUT, "It accepted the connection and then said nothing.")
            ) from None
        except (OSError, asyncssh.Error, ValueError) as error:
            raise LinkError(_cause(error, watch)) from error
        link = SshLink(conn, watch, self._config, self._on_refused)
        try:
            await link.prove(LOGIN_DEADLINE)
            yield link
        finally:
            await link.abort()

    async def _connect(self, watch: _Watch) -> asyncssh.SSHClientConnection:
        config = self._config
        ssh_config = [str(config.ssh_config)] if config.ssh_config and config.ssh_config.is_file() else None
        where: dict[str, Any] = {
            "host": config.host,
            "port": config.port or (),
            "username": config.user or (),
            "config": ssh_config,
            "tunnel": config.proxy_jump or (),
            "proxy_command": config.proxy_command or (),
            "host_key_alias": config.host_key_alias or (),
        }
        resolved = await asyncio.to_thread(
            partial(asyncssh.SSHClientConnectionOptions, **where, client_keys=None, known_hosts=None)
        )
        name = name_of(resolved.host, resolved.port, resolved.host_key_alias)
        try:
            known = self._host_keys.known(name)
        except OSError as error:
            raise LinkError(
                Cause(Code.HOST_KEY_UNKNOWN, f"{config.known_hosts} cannot be read: {error.strerror}.")
            ) from error
        agent = _agent(config.agent)
        if agent == ():
            agent = resolved.config.get("IdentityAgent", os.environ.get("SSH_AUTH_SOCK") or None)
        has_agent = agent not in (None, "none")
        files = await asyncio.to_thread(partial(keys.check, config.identity_files, has_agent=has_agent))
        direct = not (resolved.tunnel or resolved.proxy_command)
        sock = await dial(resolved.host, resolved.port, self._resolver) if direct else None
        watch.judge = partial(self._host_keys.judge, name)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE) as deadline:
                watch.on_host_key = lambda: deadline.reschedule(
                    asyncio.get_running_loop().time() + LOGIN_DEADLINE
                )
                return await asyncssh.connect(
                    **where,
                    sock=sock,
                    client_factory=watch.client,
                    # Plain host keys are judged by us alone; asyncssh only gets what it must check inside certificates.
                    known_hosts=lambda _host, _addr, _port: (
                        [],
                        list(known.authorities),
                        list(known.revoked),
                    ),
                    server_host_key_algs=f"^{','.join(known.algorithms)}" if known.algorithms else (),
                    client_keys=files or (None if config.identity_files and not has_agent else ()),
                    agent_path=agent,
                    agent_forwarding=False,
                    x11_forwarding=False,
                    password_auth=False,
                    kbdint_auth=False,
                    host_based_auth=False,
                    gss_auth=False,
                    gss_kex=False,
                    compression_algs=["none"],
                    encryption_algs=_CIPHERS,
                    keepalive_interval=0,
                    login_timeout=LOGIN_DEADLINE,
                )
        except FileNotFoundError as error:
            if resolved.proxy_command and error.filename == resolved.proxy_command[0]:
                raise LinkError(
                    Cause(Code.CONFIG_ERROR, f"ProxyCommand {error.filename}: {error.strerror}.")
                ) from error
            raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        finally:
            watch.on_host_key = lambda: None  # each rekeying shows the host key again


class SshLink:
    """See link.Link. Made and ended by SshOpener only."""

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        watch: _Watch,
        config: TunnelConfig,
        on_refused: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._watch = watch
        self._channels = Channels(conn, config.remote, config.spares, watch.why_ended, on_refused)
        host_key = conn.get_server_host_key()
        local = conn.get_extra_info("sockname")
        self.facts = Facts(
            host=config.host,
            port=conn.get_extra_info("port") or 0,
            user=conn.get_extra_info("username") or "",
            host_key=host_key.get_fingerprint() if host_key else None,
            server_version=str(conn.get_extra_info("server_version") or "")[:255],
            banner=watch.banner or None,
            local_address=str(local[0]) if local else None,
        )

    @property
    def rtt(self) -> float | None:
        return self._channels.rtt

    async def prove(self, deadline: float) -> None:
        """The first channel: raises LinkError if forwarding is denied, or if nothing comes for `deadline` seconds."""
        try:
            async with asyncio.timeout(deadline):
                await self._channels.probe(first=True)
        except TimeoutError:
            raise LinkError(Cause(Code.CONNECT_TIMEOUT, "It let us in and then opened no channel.")) from None

    async def open(self, sink: Sink) -> Channel:
        return await self._channels.open(sink)

    async def silence(self, after: float) -> None:
        loop = asyncio.get_running_loop()
        # What we wait for is time, and each byte puts it off.
        while (left := self._watch.last_received + after - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    async def ask(self, deadline: float) -> float | None:
        heard = self._watch.listen()
        probe = self._channels.start_probe()
        ended = asyncio.ensure_future(self._watch.ended.wait())
        # Not the probe itself: what answers it is bytes, and one that fails without any is no sign of life.
        signs: list[asyncio.Future[Any]] = [heard, ended]
        try:
            done, _ = await asyncio.wait(signs, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError
            if ended.done():
                raise LinkError(self._watch.why_ended())
            # The confirmation is itself bytes that were heard: it is a moment behind them, or it is not there yet.
            await asyncio.wait([probe], timeout=_CONFIRM_GRACE)
            answered = probe.done() and not probe.cancelled() and probe.exception() is None
            return probe.result() if answered else None
        finally:
            ended.cancel()
            heard.cancel()

    async def ended(self) -> Cause:
        await self._watch.ended.wait()
        return self._watch.why_ended()

    async def abort(self) -> None:
        """End the link now; unsent bytes die with it."""
        self._channels.reset()
        sock = self._conn.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            reset_on_close(sock)
        self._conn.abort()
        try:
            async with asyncio.timeout(_CLOSE_DEADLINE):
                await self._conn.wait_closed()
        except TimeoutError:
            return  # the socket is closed; what is left is memory that goes with the object


_CONFIRM_GRACE = 0.05  # seconds


class _Watch:
    """What one connection tells us while it lives: bytes, the banner, the host key, the end. asyncssh's SSHClient."""

    def __init__(self) -> None:
        self.connected = False
        self.last_received = 0.0
        self.banner = ""
        self.refusal: Cause | None = None
        self.ended = asyncio.Event()
        self.judge: Callable[[asyncssh.SSHKey], Cause | None] = lambda _key: Cause(Code.PROTOCOL_ERROR)
        self.on_host_key: Callable[[], None] = lambda: None
        self._error: Exception | None = None
        self._ear: asyncio.Future[None] | None = None

    def listen(self) -> asyncio.Future[None]:
        """A future that is done when the next byte arrives."""
        if self._ear is None or self._ear.done():
            self._ear = asyncio.get_running_loop().create_future()
        return self._ear

    def why_ended(self) -> Cause:
        return _cause(self._error, self, alive=True)

    def client(self) -> asyncssh.SSHClient:
        watch = self
        loop = asyncio.get_running_loop()

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                watch.connected = True
                received = conn.data_received
                acknowledge = acknowledger(conn.get_extra_info("socket"))

                def heard(data: bytes, datatype: Any = None) -> None:
                    watch.last_received = loop.time()
                    acknowledge()
                    if watch._ear is not None and not watch._ear.done():
                        watch._ear.set_result(None)
                    received(data, datatype)

                # asyncssh offers no count of received bytes; every transport it has (socket, jump host, command)
                # delivers through this one method of asyncio's Protocol.
                setattr(conn, "data_received", heard)  # noqa: B010 - mypy allows no assignment to a method

            def connection_lost(self, exc: Exception | None) -> None:
                watch._error = exc
                watch.ended.set()

            def auth_banner_received(self, msg: str, lang: str) -> None:
                watch.banner = (watch.banner + msg)[:_BANNER_LIMIT]

            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                watch.on_host_key()
                watch.refusal = watch.judge(key)
                return watch.refusal is None

        return Client()


def _agent(setting: str) -> Any:
    """The config's `agent` in asyncssh's words: a path, None for none, () for what ssh would use."""
    if setting == "none":
        return None
    return str(Path(setting).expanduser()) if setting else ()


def _cause(error: BaseException | None, watch: _Watch, *, alive: bool = False) -> Cause:
    """What an error of asyncssh or of the kernel means. `alive`: the connection had been authenticated."""
    text = f"{error}." if error and str(error) else ""
    match error:
        case _ if watch.refusal is not None:
            return watch.refusal
        case LinkError():
            return error.cause
        case asyncssh.PermissionDenied():
            return Cause(Code.AUTH_DENIED, _said(watch))
        case asyncssh.ProtocolError(reason=reason) if "Too many authentication failures" in reason:
            return Cause(  # OpenSSH counts each key that is offered (MaxAuthTries, 6)
                Code.AUTH_DENIED,
                f"It counted too many keys. {_said(watch)}".strip(),
                'Too many keys are offered before the right one: name it in `identity_file` and set agent = "none".',
            )
        case asyncssh.HostKeyNotVerifiable():
            return Cause(Code.HOST_KEY_UNKNOWN, text)
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError():
            return Cause(Code.KEY_UNREADABLE, text)
        case asyncssh.ChannelOpenError(code=asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED):
            return Cause(Code.FORWARD_DENIED, text)
        case asyncssh.ConnectionLost() if not alive:
            return Cause(Code.CONNECT_RESET, _said(watch))
        case asyncssh.ProtocolError() | asyncssh.ProtocolNotSupported() | asyncssh.KeyExchangeFailed() if (
            not alive
        ):
            return Cause(Code.PROTOCOL_ERROR, text)
        case asyncssh.Error():
            return Cause(Code.CONNECTION_LOST if alive else Code.CONNECT_RESET, text)
        case OSError() if not alive and error.filename:
            return Cause(Code.KEY_UNREADABLE, f"{error.filename}: {error.strerror}.")
        case OSError() if not alive:
            return Cause(code_of(error), text)
        case ValueError() if not watch.connected:
            return Cause(Code.CONFIG_ERROR, text)
        case _ if not alive:
            return Cause(Code.PROTOCOL_ERROR, text)
        case _:
            return Cause(Code.CONNECTION_LOST, text)


def _said(watch: _Watch) -> str:
    banner = " ".join(watch.banner.split())
    return f"The host says: {banner[:300]}" if banner else ""
