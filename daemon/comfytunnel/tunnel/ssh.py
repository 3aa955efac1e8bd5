"""The asyncssh link: how it is opened, asked and ended. What asyncssh reports is understood in witness.py.

What we ask of the far side is this much: authenticate us by key, and open direct channels to one port. No session channel, no
agent, X11 or reverse forwarding, no compression, no password. The link counts as open when the first channel was confirmed, or
refused because nothing listens there (that is ComfyUI's affair, not ours); that channel becomes the first spare.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncssh

from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.channels import Channels
from comfytunnel.tunnel.dial import Resolver, dial
from comfytunnel.tunnel.hostkeys import HostKeys
from comfytunnel.tunnel.jumps import end, way_through
from comfytunnel.tunnel.link import Channel, Facts, LinkError, Sink
from comfytunnel.tunnel.outgoing import outgoing
from comfytunnel.tunnel.reach import reach
from comfytunnel.tunnel.state import Cause, Code
from comfytunnel.tunnel.target import Survey, Target
from comfytunnel.tunnel.waiting import Waiting
from comfytunnel.tunnel.witness import Witness, cause_of

HANDSHAKE_DEADLINE = 15.0  # seconds from TCP to a judged host key: six round trips of a bad satellite line
LOGIN_DEADLINE = 90.0  # seconds for authentication, and for the first channel: an agent may ask a person
LOGIN_SILENCE = 15.0  # seconds of them without a byte, unless the agent is asked: a line that dies here has no question yet
_LOOKS = 4  # in the time that a question has, how often we see what the line takes
_CONFIRM_GRACE = 0.05  # seconds from the first byte of an answer to its being understood
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # first: AES-NI does 1.4 times chacha20 here


class SshOpener:
    """Opens links to the endpoint of one tunnel's config. Called by the driver, once per link."""

    def __init__(
        self,
        config: TunnelConfig,
        resolver: Resolver,
        on_refused: Callable[[], None] = lambda: None,
        on_banner: Callable[[str], None] = lambda _: None,
        eager: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_banner` hears what the host says before authentication, also of a try that fails then. `eager`: whether somebody
        waits for the link."""
        self._eager = eager
        self._config = config
        self._resolver = resolver
        self._on_refused = on_refused
        self._on_banner = on_banner
        self._host_keys = HostKeys(config.known_hosts, config.host_key, config.name)
        self._survey = Survey(config, with_keys=True)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[SshLink]:
        """One link. Raises LinkError with the cause."""
        witness = Witness()

        def another() -> Witness:
            nonlocal witness
            witness = Witness()
            return witness

        async with AsyncExitStack() as jumps:
            try:
                conn = await self._connect(another, lambda: witness.last_received > 0, jumps)
            except TimeoutError:
                raise LinkError(
                    Cause(Code.CONNECT_TIMEOUT, "it accepted the connection and then said nothing.")
                ) from None
            except (OSError, asyncssh.Error, ValueError) as error:
                raise LinkError(cause_of(error, witness)) from error
            finally:
                if witness.banner:
                    self._on_banner(witness.banner)
            link = SshLink(conn, witness, self._config, self._on_refused)
            try:
                await link.prove()
                yield link
            finally:
                await link.abort()

    async def _connect(
        self, another: Callable[[], Witness], heard: Callable[[], bool], jumps: AsyncExitStack
    ) -> asyncssh.SSHClientConnection:
        target = await self._survey.target()
        way = await way_through(target, jumps)
        if not target.direct:
            return await self._shake(target, way, another(), None)
        return await reach(
            partial(dial, target.options.host, target.options.port, self._resolver),
            lambda sock: self._shake(target, way, another(), sock),
            heard,
            self._eager,
            discard=lambda conn: conn.abort(),
        )

    async def _shake(
        self, target: Target, way: dict[str, Any], witness: Witness, sock: socket.socket | None
    ) -> asyncssh.SSHClientConnection:
        """From TCP to logged in. Closes `sock` unless it succeeds."""
        config, options = self._config, target.options
        witness.authorities = target.known.authorities
        witness.judge = partial(self._host_keys.judge, target.name)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE) as deadline:

                def judged() -> None:
                    _put_off(deadline, LOGIN_SILENCE)
                    witness.on_heard = lambda: _put_off(
                        deadline, LOGIN_DEADLINE if witness.signing else LOGIN_SILENCE
                    )
                    witness.on_signing = lambda: _put_off(deadline, LOGIN_DEADLINE)

                witness.on_host_key = judged
                return await asyncssh.connect(
                    **way,
                    username=config.user or (),
                    host_key_alias=config.host_key_alias or (),
                    sock=sock,
                    client_factory=witness.client,
                    # The witness judges host keys and authorities; asyncssh only gets what it must not even ask about.
                    known_hosts=lambda _host, _addr, _port: ([], [], list(target.known.revoked)),
                    x509_trusted_certs=None,  # nothing that known_hosts does not name is trusted
                    x509_trusted_cert_paths=None,
                    server_host_key_algs=target.algorithms,
                    client_keys=target.client_keys,
                    ignore_encrypted=True,  # left to the agent
                    agent_path=target.agent.socket,
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
        except BaseException as error:
            if sock is not None:
                sock.close()
            if (
                isinstance(error, OSError)
                and options.proxy_command
                and error.filename == options.proxy_command[0]
            ):
                cause = Cause(
                    Code.CONFIG_ERROR,
                    f"ProxyCommand {error.filename}: {error.strerror}.",
                    "Name the program with its whole path (a service has not the PATH of your shell), or install it; "
                    f"then run `comfytunnel reconnect {config.name}`.",
                )
                raise LinkError(cause) from error
            raise
        finally:
            # Each rekeying shows the host key again, and there is no deadline any more to be put off.
            witness.on_host_key = witness.on_heard = witness.on_signing = lambda: None


def _put_off(deadline: asyncio.Timeout, seconds: float) -> None:
    if not deadline.expired():  # a byte may come between the end of the time and the end of the wait
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)


class SshLink:
    """See link.Link. Made and ended by SshOpener only."""

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        witness: Witness,
        config: TunnelConfig,
        on_refused: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._witness = witness
        self._waiting = Waiting(asyncio.get_running_loop().time)
        self._channels = Channels(
            conn, config.remote, config.spares, witness.why_ended, on_refused, self._waiting
        )
        host_key = conn.get_server_host_key()
        direct = conn.get_extra_info("socket") is not None
        local, peer = conn.get_extra_info("sockname"), conn.get_extra_info("peername")
        self.facts = Facts(
            host=config.host,
            port=conn.get_extra_info("port") or 0,
            user=conn.get_extra_info("username") or "",
            host_key=host_key.get_fingerprint() if host_key else None,
            server_version=str(conn.get_extra_info("server_version") or "")[:255],
            banner=witness.banner or None,
            local_address=str(local[0]) if direct and local else None,
            peer_address=str(peer[0]) if direct and peer else None,
        )

    @property
    def rtt(self) -> float | None:
        return self._channels.rtt

    @property
    def heard(self) -> float:
        return self._witness.last_received

    @property
    def spoke(self) -> float:
        return self._witness.last_bytes

    @property
    def full(self) -> bool:
        return self._channels.full

    async def prove(self) -> None:
        """The first channel: raises LinkError if forwarding is denied, or if nothing comes for LOGIN_SILENCE."""
        try:
            async with asyncio.timeout(LOGIN_DEADLINE), asyncio.timeout(LOGIN_SILENCE) as silence:
                self._witness.on_heard = lambda: _put_off(silence, LOGIN_SILENCE)
                await self._channels.probe(first=True)
        except TimeoutError:
            raise LinkError(Cause(Code.CONNECT_TIMEOUT, "it let us in and then opened no channel.")) from None
        finally:
            self._witness.on_heard = lambda: None

    async def open(self, sink: Sink) -> Channel:
        return await self._channels.open(sink)

    async def proof(self) -> None:
        heard = self._witness.listen()
        ended = asyncio.ensure_future(self._witness.ended.wait())
        signs: list[asyncio.Future[Any]] = [heard, ended]
        self._waiting.spoke(heard)
        self._channels.question()
        try:
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            if not heard.done():
                raise LinkError(self._witness.why_ended())
        finally:
            self._waiting.done(heard)
            ended.cancel()
            heard.cancel()

    async def silence(self, after: float, patience: float) -> None:
        loop, waiting = asyncio.get_running_loop(), self._waiting
        while True:
            heard, since, now = self._witness.last_received, waiting.since(), loop.time()
            left = heard + after - now
            if since is not None:
                left = min(left, max(heard, since) + patience - now)
            if left <= 0:
                return
            if since is not None:
                await asyncio.sleep(left)  # each byte puts it off; so do a caller's, and neither need wake us
            else:
                waiting.begun.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await waiting.begun.wait()

    async def ask(self, deadline: float) -> float | None:
        heard = self._witness.listen()
        probe = self._channels.start_probe()
        ended = asyncio.ensure_future(self._witness.ended.wait())
        # Not the probe itself: what answers it is bytes, and one that fails without any is no sign of life.
        signs: list[asyncio.Future[Any]] = [heard, ended]
        try:
            await self._sign(signs, deadline)
            if ended.done():
                raise LinkError(self._witness.why_ended())
            # The confirmation is itself bytes that were heard: it is a moment behind them, or it is not there yet.
            await asyncio.wait([probe], timeout=_CONFIRM_GRACE)
            answered = probe.done() and not probe.cancelled() and probe.exception() is None
            return probe.result() if answered else None
        finally:
            ended.cancel()
            heard.cancel()

    async def _sign(self, signs: list[asyncio.Future[Any]], deadline: float) -> None:
        """Wait for one of `signs`; TimeoutError if none comes for `deadline` seconds after the line has taken our last bytes.

        A question stands behind what is being uploaded, and sshd says nothing before half a window has come: on 2 Mbit/s that is
        4 s. As long as the other end acknowledges bytes that were on their way, the line delivers."""
        loop = asyncio.get_running_loop()
        sock = self._conn.get_extra_info("socket")
        before, until = outgoing(sock), loop.time() + deadline
        while (left := until - loop.time()) > 0:
            look = min(left, deadline / _LOOKS)
            done, _ = await asyncio.wait(signs, timeout=look, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            now = outgoing(sock)
            if now.moved_since(before):
                until = loop.time() + deadline
            before = now
        raise TimeoutError

    async def ended(self) -> Cause:
        await self._witness.ended.wait()
        return self._witness.why_ended()

    async def abort(self) -> None:
        """End the link now; unsent bytes die with it."""
        self._channels.reset()
        await end(self._conn)
