"""The nouns of one tunnel: phases, causes, events, effects, and the record that the machine moves. Values only.

"Asked" is a command of the user (Want, Reconnect), "happened" is an event of the world, "announced" is the record that
readers see. What the user wants (`wanted`) is kept apart from what is (`phase`). Seconds are those of a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from comfytunnel.words import Phase as Phase


class Verdict(StrEnum):
    RETRY = "retry"
    RETRY_SLOWLY = "retry slowly"  # each try bothers somebody: an agent that asks, a server that counts
    HALT = "halt"


class Code(StrEnum):
    """Stable names of causes, as on the wire."""

    NO_ROUTE = "no_route"
    DNS_FAILED = "dns_failed"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_RESET = "connect_reset"
    CONNECTION_LOST = "connection_lost"
    AUTH_DENIED = "auth_denied"
    KEY_UNREADABLE = "key_unreadable"
    HOST_KEY_CHANGED = "host_key_changed"
    HOST_KEY_UNKNOWN = "host_key_unknown"
    FORWARD_DENIED = "forward_denied"
    PORT_IN_USE = "port_in_use"
    PROTOCOL_ERROR = "protocol_error"
    CONFIG_ERROR = "config_error"
    DOWN_ON_PURPOSE = "down_on_purpose"
    REMOTE_REFUSED = "remote_refused"


@dataclass(frozen=True, slots=True)
class Meaning:
    verdict: Verdict
    sentence: str
    hint: str


MEANINGS: dict[Code, Meaning] = {
    Code.NO_ROUTE: Meaning(Verdict.RETRY, "This machine has no route to the host.", "Is the network on?"),
    Code.DNS_FAILED: Meaning(
        Verdict.RETRY,
        "The host's name could not be resolved.",
        "Offline, behind a login page of the network, or a typing error in `host`.",
    ),
    Code.CONNECT_REFUSED: Meaning(
        Verdict.RETRY,
        "The host refused the connection.",
        "The instance is stopped, or its port has changed: copy the ssh command from the console to "
        "`comfytunnel setup`.",
    ),
    Code.CONNECT_TIMEOUT: Meaning(
        Verdict.RETRY,
        "The host did not answer in time.",
        "A firewall on the way, or an instance that no longer exists.",
    ),
    Code.CONNECT_RESET: Meaning(
        Verdict.RETRY,
        "The host closed the connection before the handshake was done.",
        "The relay is busy or does not know the port; this usually passes.",
    ),
    Code.CONNECTION_LOST: Meaning(Verdict.RETRY, "The connection was lost.", ""),
    Code.AUTH_DENIED: Meaning(
        Verdict.RETRY_SLOWLY,
        "The host did not accept our key.",
        "Normal in the first minute of an instance. If it stays: enter the public key (the .pub file beside `identity_file`) "
        "at the provider's console, or name the right one in `identity_file`.",
    ),
    Code.KEY_UNREADABLE: Meaning(
        Verdict.RETRY_SLOWLY,
        "The private key cannot be used.",
        "Check the path and the mode (chmod 600) of `identity_file`, or load the key into the agent.",
    ),
    Code.HOST_KEY_CHANGED: Meaning(
        Verdict.HALT,
        "The host's key is not the one that known_hosts holds.",
        "Expected after a new instance took over the port; otherwise somebody may be in between. "
        "`comfytunnel trust` shows both and asks.",
    ),
    Code.HOST_KEY_UNKNOWN: Meaning(
        Verdict.HALT,
        "The host's key is not in known_hosts, and the config does not let us record it.",
        '`comfytunnel trust` shows it and asks, or set host_key = "accept-new".',
    ),
    Code.FORWARD_DENIED: Meaning(
        Verdict.RETRY_SLOWLY,
        "The SSH server does not allow the forward.",
        "Check `remote`; the server's administrator must permit TCP forwarding to it.",
    ),
    Code.PORT_IN_USE: Meaning(
        Verdict.RETRY,
        "The local port is taken by another program.",
        "Stop it, I take over by myself.",
    ),
    Code.PROTOCOL_ERROR: Meaning(
        Verdict.RETRY_SLOWLY,
        "What answered does not speak SSH as we understand it.",
        "Check host and port: this may be another service.",
    ),
    Code.CONFIG_ERROR: Meaning(
        Verdict.HALT,
        "The configuration of this tunnel cannot be used.",
        "Run `comfytunnel config check`.",
    ),
    Code.DOWN_ON_PURPOSE: Meaning(
        Verdict.HALT, "The tunnel is down because it was told so.", "Run `comfytunnel up`."
    ),
    Code.REMOTE_REFUSED: Meaning(
        Verdict.RETRY,
        "The tunnel is up, but nothing listens on the remote port.",
        "ComfyUI may still be starting; see `comfytunnel status`.",
    ),
}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the tunnel is not up. `detail` holds what only this occurrence knows and may come from the far side;
    `advice` replaces the table's hint where this occurrence allows a better one."""

    code: Code
    detail: str = ""
    advice: str = ""

    @property
    def verdict(self) -> Verdict:
        return MEANINGS[self.code].verdict

    @property
    def message(self) -> str:
        sentence = MEANINGS[self.code].sentence
        return f"{sentence.rstrip('.')}: {self.detail}" if self.detail else sentence

    @property
    def hint(self) -> str:
        return self.advice or MEANINGS[self.code].hint


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """Asked: the user wants the tunnel up, or down."""

    up: bool


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Asked: a fresh link, now."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which local address the kernel would use towards the first hop. `known` false: we cannot tell (ProxyCommand,
    a name that does not resolve yet), which counts as a route."""

    address: str | None = None
    known: bool = False

    @property
    def usable(self) -> bool:
        return self.address is not None or not self.known


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """Happened: a fresh snapshot. `orphaned`: the local address of the live link exists no more."""

    route: Route
    orphaned: bool = False


@dataclass(frozen=True, slots=True)
class Woke:
    """Happened: the machine slept for so many seconds, as far as we know."""

    slept: float


@dataclass(frozen=True, slots=True)
class AboutToSleep:
    """Happened: the machine will sleep. `streaming`: some caller has data in flight."""

    streaming: bool


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """Happened: the endpoint, the key or the host key policy is another one."""


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """Happened: known_hosts is another one."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Happened: somebody waits for the link (a held caller, a queued job), or nobody does any more."""

    waiting: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """Happened: link number `link` carries channels; its round trip in seconds, if measured."""

    link: int
    rtt: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Happened: link number `link` could not be opened, or has ended."""

    link: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Answered:
    """Happened: the link gave a sign of life after question `ask`. `rtt` only if it was a direct answer."""

    ask: int
    rtt: float | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Happened: total silence for the whole deadline of question `ask`."""

    ask: int


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Happened: timer `ask` ran out."""

    ask: int


Event = (
    Want
    | Reconnect
    | RouteChanged
    | Woke
    | AboutToSleep
    | ConfigChanged
    | TrustChanged
    | Demand
    | Opened
    | Lost
    | Answered
    | Unanswered
    | Elapsed
)

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Open link number `link`. The driver answers with exactly one Opened or Lost, and one Lost after an Opened."""

    link: int


@dataclass(frozen=True, slots=True)
class DropLink:
    """Abort the link, opened or not, and forget the question. Nothing more is heard of it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Once the link has been silent for `after` seconds, or for `patience` seconds while a caller waits for an answer, ask it;
    give it `deadline` seconds for any sign of life."""

    ask: int
    after: float
    patience: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Timer:
    """Say Elapsed(ask) after `seconds`. It replaces the timer before it."""

    ask: int
    seconds: float


Effect = OpenLink | DropLink | Ask | Timer

# --- the record -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Everything that decisions depend on, and all that is announced. Only machine.step() makes new ones."""

    phase: Phase = Phase.DOWN
    since: float = 0.0  # when the phase was entered
    until: float | None = None  # waiting, offline: when the next try begins
    wanted: bool = False
    route: Route = Route()
    waiting: bool = False  # somebody waits: see Demand
    failures: int = 0  # tries that failed in a row, since the world last changed
    link: int = 0  # number of the newest link
    ask: int = 0  # number of the newest question or timer
    opened_at: float = 0.0  # when the newest link came up
    rtt: float | None = None
    cause: Cause | None = None
