"""The doctor: takes the road of one tunnel step by step, from the config to the disk, and says where it is broken first.

The rooms know how to look, here the looks are put in a row. A live link answers for the road up to itself, since even a TCP connection
without a login counts as one at a relay. Without a link the road is really taken up to the host key; whether a login works, the
driver's last try says: nobody logs in for the doctor's sake. Nothing is changed but a small file for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from comfytunnel import wire
from comfytunnel.comfy.client import Client
from comfytunnel.config import TunnelConfig
from comfytunnel.doctor.chain import Broken, Chain, Skipped, Words
from comfytunnel.doctor.comfyui import ask_comfyui, hear_websocket
from comfytunnel.doctor.house import House, look_at_config, try_disk
from comfytunnel.doctor.lasttry import LastTry
from comfytunnel.feed import Feed
from comfytunnel.tunnel.dial import CONNECT_DEADLINE, Resolver, dial
from comfytunnel.tunnel.driver import View
from comfytunnel.tunnel.greeting import greeting
from comfytunnel.tunnel.hostkeys import HostKeys, fingerprint
from comfytunnel.tunnel.link import Link, LinkError
from comfytunnel.tunnel.look import host_key
from comfytunnel.tunnel.offer import Offer, offer
from comfytunnel.tunnel.state import Cause, Code, Phase
from comfytunnel.tunnel.target import Survey, Target
from comfytunnel.words import Step

STEPS = get_args(Step)
SETTLE = 4.0  # seconds for a link that is just being made or doubted: its end is worth more than a second try beside it
ANSWER_DEADLINE = 5.0  # seconds for the live link, which takes a round trip or two


@dataclass(frozen=True, slots=True)
class Patient:
    """One tunnel. `status` says how it is now; `doorway` what keeps its port from being bound."""

    config: TunnelConfig
    view: Feed[View]
    resolver: Resolver
    client: Client
    status: Callable[[], wire.Tunnel]
    doorway: Callable[[], Cause | None]


async def examine(house: House, patient: Patient | None) -> wire.Report:
    """The report of one tunnel, or of a house without any. Takes WHOLE_DEADLINE at most, and a moment."""
    chain = Chain()
    if patient is None:
        await chain.step("config", lambda: look_at_config(house, None, None))
        for name in STEPS[1:-1]:
            await chain.step(name, _no_tunnel, "config")
        await chain.step("disk", lambda: try_disk(house))
        return wire.Report(broken=chain.broken, steps=chain.checks)
    with contextlib.closing(_Road(house, patient, chain)) as road:
        await road.take()
    now = patient.status()
    return wire.Report(
        tunnel=patient.config.name,
        phase=now.phase,
        broken=chain.broken,
        steps=chain.checks,
        server_version=road.greeting or now.ssh.server_version,
        banner=now.ssh.banner,
        agent=road.agent,
    )


class _Road:
    """One tunnel's road, and what is known of it on the way."""

    def __init__(self, house: House, patient: Patient, chain: Chain) -> None:
        self._house = house
        self._patient = patient
        self._chain = chain
        self._config = patient.config
        self._last = LastTry(patient.view, patient.status)
        self._target: Target | None = None
        self._sock: socket.socket | None = None
        self._offer: Offer | None = None
        self.greeting: str | None = None

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    @property
    def agent(self) -> wire.Agent | None:
        if self._target is None:
            return None
        asked = self._target.agent.socket is not None and self._offer is not None and not self._offer.trouble
        keys = self._offer.held if asked and self._offer else None
        return wire.Agent(self._target.agent.socket, self._target.agent.source, keys)

    @property
    def _link(self) -> Link | None:
        return self._patient.view.value.link

    async def take(self) -> None:
        step = self._chain.step
        await self._settled()
        await step("config", self._look_at_config)
        await step("key", self._keys)
        if self._link is None:
            for name, check, needs in (
                ("dns", self._dns, ()),
                ("tcp", self._tcp, ("dns",)),
                ("banner", self._greeting, ("tcp",)),
                ("host_key", self._host_key, ("banner",)),
            ):
                await step(name, partial(self._unless_indirect, name, check), *needs)
        else:
            for name in ("dns", "tcp", "banner", "host_key"):
                await step(name, partial(self._from_link, name))
        alive = self._link is not None  # it may have come up while we were on our way
        await step("authentication", self._authentication, *(() if alive else ("key", "host_key")))
        await step("channel", self._channel, "authentication")
        await step("comfyui", self._comfyui, "channel")
        await step("websocket", self._websocket, "comfyui")
        await step("disk", lambda: try_disk(self._house))

    async def _settled(self) -> None:
        """Wait a moment for a link that is just being made, or asked whether it lives."""
        open_question = (Phase.CONNECTING, Phase.DOUBTFUL)
        lasts = asyncio.get_running_loop().time() - self._patient.view.value.tunnel.since
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE - lasts):
                await self._patient.view.until(lambda view: view.tunnel.phase not in open_question)

    # --- this machine -----------------------------------------------------------------------------------------------

    async def _look_at_config(self) -> Words:
        self._target = await Survey(self._config, with_keys=False).target()
        said, hint = await look_at_config(self._house, self._config, self._target)
        if not hint:  # what is in use is what the file says: the last try counts for it, a ProxyCommand that is not there
            self._last.raise_blame("config")
        return said, hint

    async def _keys(self) -> Words:
        target = await Survey(self._config, with_keys=True).target()
        found = self._offer = await offer(self._config, target)
        agent = target.agent
        if found.trouble:
            lost = f"the agent at {agent.socket} ({agent.source}) cannot be asked: {found.trouble}"
            remedy = "Is it running? Name its socket as `agent` in the config, or restart it."
        else:
            lost, remedy = "", ""
        if not found.keys:
            nothing = f"{lost}; " if lost else "" if agent.socket else "there is no agent; "
            detail = f"No key would be offered: {nothing}no private key was found in files."
            raise Broken(detail, remedy or "Make one with ssh-keygen, or name yours in `identity_file`.")
        return (f"{found.keys}; {lost}", remedy) if lost else found.keys

    # --- the road, tried --------------------------------------------------------------------------------------------

    async def _unless_indirect(self, name: str, check: Callable[[Target], Awaitable[str]]) -> str:
        if self._target is None:
            raise Skipped("needs config")
        if self._target.direct:
            return await check(self._target)
        self._last.raise_blame(name)
        raise Skipped(
            "a jump host or a command leads there, and would have to be logged in to or started for this"
        )

    async def _dns(self, target: Target) -> str:
        host, port = target.options.host, target.options.port
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                found = await self._patient.resolver.resolve(host, port)
        except TimeoutError:
            raise LinkError(Cause(Code.DNS_FAILED, f"{host}, {CONNECT_DEADLINE:.0f} s.")) from None
        except socket.gaierror as error:
            raise LinkError(Cause(Code.DNS_FAILED, f"{host}: {error.strerror or error}.")) from error
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        return host if addresses == [host] else f"{host} is {', '.join(addresses[:4])}"

    async def _tcp(self, target: Target) -> str:
        self._sock = await dial(target.options.host, target.options.port, self._patient.resolver)
        return f"connected to {_place(self._sock.getpeername())} from {_place(self._sock.getsockname())}"

    async def _greeting(self, _: Target) -> str:
        assert self._sock is not None
        self.greeting = await greeting(self._sock, CONNECT_DEADLINE)
        return self.greeting

    async def _host_key(self, target: Target) -> str:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                key = await host_key(target, self._sock)
        except TimeoutError:
            raise LinkError(
                Cause(Code.CONNECT_TIMEOUT, "it began to speak and then showed no key.")
            ) from None
        policy, known = self._config.host_key, self._config.known_hosts
        verdict = target.known.verdict(key)
        if target.known.authorities:
            return f"{fingerprint(key)}; an authority in {known} vouches for this host, which a login checks"
        if verdict == "trusted":
            return f"{fingerprint(key)}, as {known} has it for {target.name}"
        if verdict == "unknown" and policy == "accept-new":
            return f"{fingerprint(key)}; {target.name} is not in {known} yet, the first login records it"
        # No policy but accept-new records anything, and this is not the time for it.
        cause = HostKeys(known, "ask" if policy == "accept-new" else policy, self._config.name).judge(
            target.name, key
        )
        if cause is not None:
            raise LinkError(cause)
        return f"{fingerprint(key)}, as {known} has it for {target.name} since a moment ago"

    # --- the road, as the link or the driver knows it ---------------------------------------------------------------

    async def _from_link(self, name: str) -> str:
        """A live link is proof of the road up to it, and another connection would be one login more for the relay."""
        link = self._link
        if link is None:
            raise Skipped("the link went away while the doctor looked", "Run `comfytunnel doctor` again.")
        facts = link.facts
        self.greeting = facts.server_version
        at = f" at {facts.peer_address}" if facts.peer_address not in (None, facts.host) else ""
        return {
            "dns": f"the live link leads to {facts.host}{at}",
            "tcp": f"connected to port {facts.port} from {facts.local_address or 'behind a jump host or a command'}",
            "banner": facts.server_version or "the server has a version that it does not tell",
            "host_key": f"{facts.host_key or 'a certificate'}, checked when the live link was made",
        }[name]

    async def _authentication(self) -> str:
        link = self._link
        if link is not None:
            return f"{link.facts.user} is logged in over the live link"
        self._last.raise_blame(
            "authentication", "key"
        )  # the key that we saw above may be one that the agent does not sign with
        tunnel = self._patient.view.value.tunnel
        if tunnel.cause is not None and tunnel.cause.code is Code.FORWARD_DENIED:
            return "the host let us in at the last try"
        if tunnel.phase is Phase.DOWN:
            raise Skipped(
                "the tunnel is down because it was told so", f"Run `comfytunnel up {self._config.name}`."
            )
        if tunnel.phase in (Phase.CONNECTING, Phase.DOUBTFUL):
            raise Skipped(
                "it is being tried right now",
                "An agent may be asking you; or run `comfytunnel doctor` again.",
            )
        before = f" The last try: {tunnel.cause.message}" if tunnel.cause else ""
        again = f"Run `comfytunnel reconnect {self._config.name}` to try now."
        raise Skipped(f"not tried for the doctor's sake; {self._last.next()}.{before}", again)

    async def _channel(self) -> str:
        link = self._link
        if link is None:
            self._last.raise_blame("channel")
            raise Skipped("needs a link")
        try:
            rtt = await link.ask(ANSWER_DEADLINE)
        except TimeoutError:
            raise Broken(
                f"The live link gave no sign of life for {ANSWER_DEADLINE:.0f} s.",
                f"It is replaced by itself when it stays silent; `comfytunnel reconnect {self._config.name}` does it now.",
            ) from None
        except LinkError as error:  # whoever waited for an answer has given it up before us
            raise Broken(
                f"The live link ended while it was asked: {error.cause.message}",
                "It is replaced by itself: run `comfytunnel doctor` again.",
            ) from error
        return "the link delivers" if rtt is None else f"the link answered in {rtt * 1000:.0f} ms"

    # --- what lies behind it ----------------------------------------------------------------------------------------

    async def _comfyui(self) -> str:
        if self._link is None:
            raise Skipped("needs a link")
        taken = self._patient.doorway()
        if taken is not None:  # what answers on the port is another program
            raise LinkError(taken)
        return await ask_comfyui(self._patient.client, str(self._config.remote))

    async def _websocket(self) -> str:
        if self._link is None:
            raise Skipped("needs a link")
        return await hear_websocket(self._patient.client)


async def _no_tunnel() -> str:
    raise Skipped("no tunnel is configured", "Run: comfytunnel setup 'ssh -p ...'")


def _place(address: Sequence[object]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
