"""What one SSH connection tells us while it lives, and what its errors mean: asyncssh's exceptions become causes here and nowhere else.

A witness hears bytes, the banner, the host key and the end, and decides nothing; whether a host key may be trusted it asks `judge`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import asyncssh

from comfytunnel.tunnel.dial import acknowledger, code_of
from comfytunnel.tunnel.keys import offered, public_half
from comfytunnel.tunnel.link import TEXT_LIMIT, LinkError
from comfytunnel.tunnel.state import Cause, Code

_BANNER_LIMIT = 4096  # characters kept of what the relay says before authentication
_GREETING_LIMIT = 100  # bytes kept of what it says first: "SSH-2.0-...", or why it does not


class Witness:
    """What one connection tells us while it lives: bytes, the banner, the host key, the end. asyncssh's SSHClient."""

    def __init__(self) -> None:
        self.connected = False
        self.last_received = 0.0  # bytes, or the far side's own end of the connection
        self.last_bytes = 0.0
        self.banner = ""
        self.greeting = b""
        self.refusal: Cause | None = None
        self.offers: list[asyncssh.SSHKeyPair] = []  # in the order in which they were offered
        self.unsigned: list[asyncssh.SSHKeyPair] = []  # the host would take them, the agent does not sign
        self.asked_for_keys = False  # the server takes keys, and has asked at least once
        self.ended = asyncio.Event()
        self.judge: Callable[[asyncssh.SSHKey], Cause | None] = lambda _key: Cause(Code.PROTOCOL_ERROR)
        self.authorities: Collection[asyncssh.SSHKey] = ()  # those that may certify the host
        self.on_host_key: Callable[[], None] = lambda: None
        self.on_heard: Callable[[], None] = lambda: None
        self.on_signing: Callable[[], None] = lambda: None  # the agent is asked, and may ask a person
        self.signing = False
        self._error: Exception | None = None
        self._ears: set[asyncio.Future[None]] = set()

    def listen(self) -> asyncio.Future[None]:
        """A future that is done when the next byte arrives. It is the caller's alone, who may cancel it."""
        ear: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ears.add(ear)
        ear.add_done_callback(self._ears.discard)
        return ear

    def watch(self, pair: asyncssh.SSHAgentKeyPair) -> None:
        """Hear of it when the agent is asked to sign, and if it does not: the host had agreed to the key then, and would be blamed."""
        sign = pair.sign_async

        async def signing(data: bytes) -> bytes:
            self.signing = True
            self.on_signing()
            try:
                return await sign(data)
            except ValueError:
                self.unsigned.append(pair)
                raise
            finally:
                self.signing = False
                self.on_heard()  # from here on it is the host's turn again

        setattr(pair, "sign_async", signing)  # noqa: B010 - mypy allows no assignment to a method

    def why_ended(self) -> Cause:
        return cause_of(self._error, self, alive=True)

    def client(self) -> asyncssh.SSHClient:
        witness = self
        loop = asyncio.get_running_loop()

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                witness.connected = True
                received = conn.data_received
                acknowledge = acknowledger(conn.get_extra_info("socket"))

                def heard(data: bytes, datatype: Any = None) -> None:
                    witness.last_received = witness.last_bytes = loop.time()
                    if len(witness.greeting) < _GREETING_LIMIT:
                        witness.greeting += data[: _GREETING_LIMIT - len(witness.greeting)]
                    acknowledge()
                    witness.on_heard()
                    for ear in [ear for ear in witness._ears if not ear.done()]:
                        ear.set_result(None)
                    received(data, datatype)

                # asyncssh offers no count of received bytes; every transport it has (socket, jump host, command)
                # delivers through this one method of asyncio's Protocol.
                setattr(conn, "data_received", heard)  # noqa: B010 - mypy allows no assignment to a method

                hand_out = conn.public_key_auth_requested

                async def offering() -> asyncssh.SSHKeyPair | None:
                    pair = await hand_out()
                    witness.asked_for_keys = True
                    if pair is not None:
                        witness.offers.append(pair)
                    if isinstance(pair, asyncssh.SSHAgentKeyPair):
                        witness.watch(pair)
                    return pair

                # Nor does it tell which keys it offers, of files and of the agent; each one is fetched by this method.
                setattr(conn, "public_key_auth_requested", offering)  # noqa: B010 - as above

            def connection_lost(self, exc: Exception | None) -> None:
                witness._error = exc
                if not isinstance(exc, OSError) or isinstance(exc, ConnectionError):
                    # The end is the far side's own word; any other error is only our kernel's guess.
                    witness.last_received = loop.time()
                witness.ended.set()

            def auth_banner_received(self, msg: str, lang: str) -> None:
                witness.banner = (witness.banner + msg)[:_BANNER_LIMIT]

            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                witness.on_host_key()
                witness.refusal = witness.judge(key)
                return witness.refusal is None

            def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                """A host key that comes in a certificate: asyncssh checks the rest of it."""
                witness.on_host_key()
                return key in witness.authorities

        return Client()


def cause_of(error: BaseException | None, witness: Witness, *, alive: bool = False) -> Cause:
    """What an error of asyncssh or of the kernel means. `alive`: the connection had been authenticated."""
    text = f"{str(error)[:TEXT_LIMIT]}." if error and str(error) else ""
    match error:
        case _ if witness.refusal is not None:
            return witness.refusal
        case LinkError():
            return error.cause
        case asyncssh.PermissionDenied() if witness.asked_for_keys and not witness.offers:
            return Cause(
                Code.KEY_UNREADABLE,
                f"none was found that could be offered. {_said(witness)}".strip(),
                "Name one in `identity_file`. A key with a passphrase needs an agent, and the daemon may not see yours: "
                "name its socket in `agent`.",
            )
        case asyncssh.PermissionDenied() if witness.unsigned:
            return Cause(
                Code.KEY_UNREADABLE,
                f"the host takes it, but the agent does not sign with {offered(witness.unsigned)}.",
                "Somebody said no, nobody answered, or the agent has nobody to ask. `comfytunnel reconnect` asks again at once.",
            )
        case asyncssh.PermissionDenied():
            return Cause(Code.AUTH_DENIED, _offered(witness) or text, _enter(witness))
        case asyncssh.ProtocolError(reason=reason) if "Too many authentication failures" in reason:
            return Cause(  # OpenSSH counts each key that is offered (MaxAuthTries, 6)
                Code.AUTH_DENIED,
                f"it counted too many keys. {_offered(witness)}".strip(),
                'Too many keys are offered before the right one: name it in `identity_file` and set agent = "none".',
            )
        case asyncssh.HostKeyNotVerifiable() if "revoked" in text:  # asyncssh looks before it asks our judge
            return Cause(Code.HOST_KEY_CHANGED, text, "The key is marked as revoked in known_hosts.")
        case asyncssh.HostKeyNotVerifiable() if not witness.connected:
            advice = "It is the jump host's key: connect to that host once with ssh, compare the fingerprint and accept it."
            return Cause(Code.HOST_KEY_UNKNOWN, text, advice)
        case asyncssh.HostKeyNotVerifiable():
            return Cause(Code.HOST_KEY_UNKNOWN, text)
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError():
            return Cause(Code.KEY_UNREADABLE, text)
        case asyncssh.ChannelOpenError(code=asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED):
            return Cause(Code.FORWARD_DENIED, text)
        case asyncssh.ConnectionLost():  # its own words only repeat ours
            return Cause(Code.CONNECTION_LOST) if alive else _unwelcome(witness)
        case asyncssh.ProtocolError() | asyncssh.ProtocolNotSupported() | asyncssh.KeyExchangeFailed() if (
            not alive
        ):
            return Cause(Code.PROTOCOL_ERROR, text)
        case asyncssh.Error():
            return Cause(Code.CONNECTION_LOST if alive else Code.CONNECT_RESET, text)
        case OSError() if not alive and error.filename:
            return Cause(Code.KEY_UNREADABLE, f"{error.filename}: {error.strerror}.")
        case ConnectionError() if not alive and witness.greeting:  # a reset often follows what it has said
            return _unwelcome(witness, text)
        case OSError() if not alive:
            return Cause(code_of(error), text)
        case ValueError() if not witness.connected:
            return Cause(Code.CONFIG_ERROR, text)
        case _ if not alive:
            return Cause(Code.PROTOCOL_ERROR, text)
        case _:
            return Cause(Code.CONNECTION_LOST, text)


def _unwelcome(witness: Witness, otherwise: str = "") -> Cause:
    """Why a connection was closed before its handshake was done. OpenSSH has a line for who comes too often, others speak no SSH."""
    line = witness.greeting.partition(b"\n")[0].decode("ascii", "replace").strip()
    if line.startswith("HTTP/"):
        return Cause(Code.PROTOCOL_ERROR, f"it speaks HTTP: {line}.")
    said = f"it says: {line}." if line and not line.startswith("SSH-") else ""
    return Cause(Code.CONNECT_RESET, said or _said(witness) or otherwise)


def _said(witness: Witness) -> str:
    banner = " ".join(witness.banner.split())
    return f"the host says: {banner[:TEXT_LIMIT]}" if banner else ""


def _enter(witness: Witness) -> str:
    """What to do about a refused key, if it is known which one is meant: the first is what ssh would offer first, too."""
    if not witness.offers:
        return ""
    where = public_half(witness.offers[0])
    return (
        f"Normal in the first minute of an instance. If it stays: enter the public key ({where}) at the provider's console, "
        "or name the right one in `identity_file`."
    )


def _offered(witness: Witness) -> str:
    """Which keys were refused, and what the host says to that."""
    keys = f"offered {offered(witness.offers)}." if witness.offers else ""
    return f"{keys} {_said(witness)}".strip()
