"""The parts of an ssh command line: what each option means to a tunnel, and what a host, a user, a port, a forward may be.

The letters, and which of them take an argument, are those of OpenSSH's getopt string; keywords are in small letters. sshline.py
reads whole lines by these tables. Nothing here looks at more than one part at a time.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass

from comfytunnel.errors import UsageError

EXAMPLE = "For example: ssh -p 13273 root@ssh2.vast.ai -L 18188:localhost:18188"

# No command, no terminal, no input, no agent, no X11: a tunnel of ours is never otherwise, so these go without saying.
ALWAYS_SO = set("NTnax")
ALWAYS_SO_OPTIONS = {
    *(("batchmode", "yes"), ("sessiontype", "none"), ("stdinnull", "yes")),
    *(("forwardagent", "no"), ("forwardx11", "no"), ("requesttty", "no")),
}
TAKES_ARGUMENT = set("bcemwBDEIOPQRSW") | set("FJLilop")
# letters, keywords of -o, and why they are left out
REASONS = (
    ("A", "forwardagent", "agent forwarding is never done, the instance is untrusted"),
    ("XY", "forwardx11 forwardx11trusted", "X11 forwarding is never done, the instance is untrusted"),
    ("R", "remoteforward", "remote forwards are not offered, the instance is untrusted"),
    ("D", "dynamicforward", "dynamic forwards are not offered"),
    ("W", "", "a tunnel listens on a port, it does not use standard input"),
    ("w", "tunnel tunneldevice", "tunnel devices are not offered"),
    ("g", "gatewayports", "everything is bound to loopback, other machines cannot use it"),
    ("f", "forkafterauthentication", "the daemon runs in the background by itself"),
    (
        "MSO",
        "controlmaster controlpath controlpersist",
        "connections are not shared with other ssh processes",
    ),
    ("46", "addressfamily", "both address families are tried"),
    (
        "bB",
        "bindaddress bindinterface",
        "the kernel chooses the way, so that the tunnel can follow a new network",
    ),
    ("C", "compression", "compression is not offered, pictures do not compress"),
    ("cm", "ciphers macs kexalgorithms", "algorithms are chosen for speed among those that are safe"),
    ("12", "protocol", "only SSH version 2 exists today"),
    ("kK", "gssapiauthentication gssapidelegatecredentials", "GSSAPI is not offered"),
    ("I", "pkcs11provider", "PKCS#11 is not offered; a key on a token works through an agent"),
    ("ts", "requesttty remotecommand sessiontype", "no command is ever run on the instance"),
    ("e", "escapechar", "there is no terminal that could have an escape character"),
    ("vqyE", "loglevel", "[log] decides what is logged and where"),
    ("GVQ", "", "it asks ssh a question, a tunnel has no use for it"),
    ("P", "tag", "tags are not supported"),
    ("", "passwordauthentication kbdinteractiveauthentication", "only keys are used"),
    ("", "batchmode numberofpasswordprompts", "the daemon never asks on a terminal"),
    ("", "connecttimeout", "the daemon has a deadline of its own for a connection"),
    ("", "connectionattempts exitonforwardfailure", "what fails is reported and tried again, for ever"),
    ("", "serveralivecountmax tcpkeepalive", "the daemon has a deadline of its own for a silent connection"),
)
WHY_LETTER = {letter: why for letters, _, why in REASONS for letter in letters}
WHY_OPTION = {option: why for _, options, why in REASONS for option in options.split()}

# letters that are kept, and the keyword of -o that says the same
SUPPORTED = {
    "F": "-F",
    "J": "proxyjump",
    "L": "localforward",
    "i": "identityfile",
    "l": "user",
    "p": "port",
}
# keywords that are kept, and where
KEPT_OPTIONS = {
    "-F": "config_file",
    "hostkeyalias": "host_key_alias",
    "hostname": "hostname",
    "identityagent": "identity_agent",
    "identityfile": "identity_files",
    "localforward": "forwards",
    "port": "port",
    "proxycommand": "proxy_command",
    "proxyjump": "proxy_jump",
    "serveraliveinterval": "keepalive_interval",
    "stricthostkeychecking": "host_key",
    "user": "user",
    "userknownhostsfile": "known_hosts",
}

_UNSAFE = re.compile(r"""[\s'"`$\\;&<>|(){}/]""")
_PATTERN = re.compile(r"[*?!,#@\[\]]")  # would be more than one name in a line of known_hosts


@dataclass(frozen=True, slots=True)
class Forward:
    """One -L. On each side either a port or the path of a Unix socket; `listen_host` None means ssh's default, localhost."""

    listen_host: str | None
    listen_port: int | None
    listen_path: str | None
    remote_host: str | None
    remote_port: int | None
    remote_path: str | None

    def __str__(self) -> str:
        host = "" if self.listen_host is None else f"{_bracket(self.listen_host)}:"
        here = self.listen_path or f"{host}{self.listen_port}"
        there = self.remote_path or f"{_bracket(self.remote_host or '')}:{self.remote_port}"
        return f"{here}:{there}"


def parse_forward(spec: str) -> Forward:
    """Read the argument of -L: [bind:]port:host:hostport, [bind:]port:/socket, /socket:host:hostport, /socket:/socket."""
    fields = _split_forward(spec)
    match fields:
        case [here, there] if _is_path(there):
            listen, remote = ["", here], there
        case [here, host, port] if _is_path(here):
            return Forward(None, None, here, *_target(spec, host, port), None)
        case [bind, port, there] if _is_path(there):
            listen, remote = [bind or "*", port], there
        case [port, host, hostport]:
            return Forward(None, parse_port(port, f"-L {spec}"), None, *_target(spec, host, hostport), None)
        case [bind, port, host, hostport]:
            return Forward(
                bind or "*", parse_port(port, f"-L {spec}"), None, *_target(spec, host, hostport), None
            )
        case _:
            raise _bad_forward(spec)
    if not listen[0] and _is_path(listen[1]):
        return Forward(None, None, listen[1], None, None, remote)
    return Forward(listen[0] or None, parse_port(listen[1], f"-L {spec}"), None, None, None, remote)


def check_host(host: str) -> str:
    """Return a host name or address that is safe to hand on, else UsageError: no leading dash, blanks, control characters, or signs
    that a shell or known_hosts would give a meaning."""
    if (
        not host
        or host.startswith("-")
        or not host.isprintable()
        or _UNSAFE.search(host)
        or _PATTERN.search(host)
    ):
        raise UsageError(f"{host!r} cannot be the name of a host.", hint=EXAMPLE)
    if not host.isascii() and not _is_international(host):
        raise UsageError(
            f"{host!r} cannot be the name of a host: not all of it are letters and digits.",
            hint="Type it anew, with plain - and quotes.",
        )
    if ":" in host and not _is_ipv6(host):
        name, _, port = host.rpartition(":")
        raise UsageError(
            f"{host!r} cannot be the name of a host.", hint=f"A port goes before it: -p {port} {name}"
        )
    return host


def check_jump(hops: str) -> str:
    """Return a ProxyJump value whose hops cannot be taken for options, else UsageError."""
    for hop in hops.split(","):
        user, at, place = hop.strip().removeprefix("ssh://").rpartition("@")
        if at:
            check_user(user)
        match = re.fullmatch(r"\[?([^\]]*?)\]?(?::(\d+))?/?", place)
        check_host(match[1] if match else place)
    return hops


def check_user(user: str) -> str:
    """Return a user name that is safe to hand on, else UsageError."""
    if ":" in user:  # not shown: what follows may well be a password
        raise UsageError(
            f"The user {user.partition(':')[0]!r} is followed by a colon, as if by a password.",
            hint="Only keys are used: write user@host, and -i KEY where it is not the usual one.",
        )
    if not user or user.startswith("-") or not user.isprintable() or _UNSAFE.search(user):
        raise UsageError(f"{user!r} cannot be the name of a user.", hint=EXAMPLE)
    return user


def _split_forward(spec: str) -> list[str]:
    fields = re.findall(r"(?:^|:)(?:\[([^\]]*)\](?=:|$)|([^:]*))", spec)
    return [bracketed or plain for bracketed, plain in fields]


def _is_path(text: str) -> bool:
    return text.startswith("/")


def _target(spec: str, host: str, port: str) -> tuple[str, int]:
    try:
        return check_host(host), parse_port(port, f"-L {spec}")
    except UsageError as error:
        raise UsageError(f"-L {spec}: {error.message}", hint=_bad_forward(spec).hint) from None


def parse_port(text: str, where: str) -> int:
    """Return a port from 1 to 65535, else UsageError; `where` is what the person wrote."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise UsageError(f"{where}: {text!r} is not a port.", hint="A port is a number from 1 to 65535.")
    return int(text)


def _bad_forward(spec: str) -> UsageError:
    return UsageError(
        f"-L {spec} is not a forward that ssh knows.",
        hint="It is [bind:]port:host:hostport, as 18188:localhost:18188.",
    )


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _is_international(host: str) -> bool:
    """Return whether a name beyond ASCII can be looked up: letters, marks and digits that IDNA knows, between ASCII signs."""
    if any(not char.isascii() and unicodedata.category(char)[0] not in "LMN" for char in host):
        return False
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
