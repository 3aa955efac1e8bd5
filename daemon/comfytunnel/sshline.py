"""Reads an ssh command line as Vast.ai's console or a shell history holds it. Pure text: no file, no network, no clock.

As in ssh, the first value of an option wins and options may follow the host. Nothing is dropped in silence: what the
tunnel has no use for is named in `left_out` with a reason, and what cannot be understood is a UsageError. Only options that
ask for what is always so (-N, -T, ...) pass unmentioned.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote

from comfytunnel.errors import UsageError
from comfytunnel.sshparts import (
    ALWAYS_SO,
    ALWAYS_SO_OPTIONS,
    EXAMPLE,
    KEPT_OPTIONS,
    SUPPORTED,
    TAKES_ARGUMENT,
    WHY_LETTER,
    WHY_OPTION,
    Forward,
    check_host,
    check_jump,
    check_user,
    parse_forward,
    parse_port,
)

MAX_LINE = 16_384  # characters; a command line that a person pastes has a few hundred

HostKeyPolicy = Literal["accept-new", "ask", "strict"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of the command line that is not carried over, as it stood there, and why."""

    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.text}: {self.why}"


@dataclass(frozen=True, slots=True)
class SshLine:
    """What the command line says; None or () where it says nothing. Paths keep their `~`, times are in seconds."""

    host: str
    port: int | None = None
    user: str | None = None
    identity_files: tuple[str, ...] = ()
    identity_agent: str | None = None
    forwards: tuple[Forward, ...] = ()
    proxy_jump: str | None = None
    proxy_command: str | None = None
    keepalive_interval: float | None = None
    known_hosts: str | None = None
    host_key: HostKeyPolicy | None = None
    host_key_alias: str | None = None
    config_file: str | None = None
    left_out: tuple[LeftOut, ...] = ()


def parse(line: str) -> SshLine:
    """Read a whole command line. UsageError (with a hint) for what has no host, a bad number, open quotes or odd characters."""
    reader = _Reader()
    reader.read(_words(line, reader.left_out))
    return reader.result()


# fish, zsh and `history` put these before a command
_PROMPT = re.compile(r"\A\s*(?:- cmd:|: \d+:\d+;|\d+\*?\s)")
_PREFIXES = {"$", "%", "#", ">", "exec", "nohup", "env", "command", "time"}
_OPERATOR = set("();<>|&")
# what word processors, chats and web pages make of - and of quotes
_TYPOGRAPHIC_DASHES = set("\u2010\u2011\u2012\u2013\u2014\u2015\u2212")
_TYPOGRAPHIC_QUOTES = set("\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb")
_INTERVAL = re.compile(r"(\d{1,6})([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(slots=True)
class _Reader:
    """Goes through the words once, from left to right; the first value of each option stays."""

    host: str | None = None
    once: dict[str, str] = field(default_factory=dict)
    identity_files: list[str] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def read(self, words: Sequence[str]) -> None:
        rest, options_ended, autossh = list(words), False, _is_program(words[0]) == "autossh"
        if _is_program(words[0]):
            rest.pop(0)
        while rest:
            word = rest.pop(0)
            if word == "--" and not options_ended:
                options_ended = True
            elif word.startswith("-") and len(word) > 1 and not options_ended:
                self._cluster(word[1:], rest, autossh)
            elif self.host is None:
                self._destination(word)
            else:
                self._command([word, *rest])
                return

    def result(self) -> SshLine:
        host = self.once.pop("hostname", None)
        if self.host is None:
            raise UsageError("The command line names no host.", hint=EXAMPLE)
        if host is not None and host != self.host:
            host = check_host(host.replace("%h", self.host).replace("%%", "%"))
            self.left_out.append(LeftOut(self.host, f"-o HostName says that it is {host}"))
        port, alive = self.once.pop("port", None), self.once.pop("keepalive_interval", None)
        policy = cast("HostKeyPolicy | None", self.once.pop("host_key", None))
        return SshLine(
            host or self.host,
            port=int(port) if port else None,
            keepalive_interval=float(alive) if alive else None,
            host_key=policy,
            identity_files=tuple(dict.fromkeys(self.identity_files)),
            forwards=tuple(dict.fromkeys(self.forwards)),
            left_out=tuple(dict.fromkeys(self.left_out)),
            **self.once,
        )

    def _cluster(self, letters: str, rest: list[str], autossh: bool) -> None:
        """Read one word of options: `NTfL`, where the last letter may take the next word as its argument."""
        for at, letter in enumerate(letters):
            if letter in TAKES_ARGUMENT or (letter == "M" and autossh):
                value = letters[at + 1 :] or (rest.pop(0) if rest else None)
                if value is None:
                    raise UsageError(f"-{letter} needs a value and has none.", hint=EXAMPLE)
                self._with_argument(letter, value)
                return
            if letter in WHY_LETTER:
                self.left_out.append(LeftOut(f"-{letter}", WHY_LETTER[letter]))
            elif letter not in ALWAYS_SO:
                raise UsageError(f"ssh knows no option -{letter}.", hint=EXAMPLE)

    def _with_argument(self, letter: str, value: str) -> None:
        if letter == "o":
            self._option(value)
        elif letter in SUPPORTED:
            self._keep(SUPPORTED[letter], value, f"-{letter} {value}")
        else:
            why = "autossh's monitor is not needed" if letter == "M" else WHY_LETTER[letter]
            self.left_out.append(LeftOut(f"-{letter} {value}", why))

    def _option(self, text: str) -> None:
        match = re.fullmatch(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*?)\s*", text)
        if match is None:
            raise UsageError(f"-o {text!r} is not key=value.", hint="For example: -o ServerAliveInterval=15")
        key, value = match[1].lower(), match[2]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if key in KEPT_OPTIONS:
            self._keep(key, value, f"-o {text}")
        elif (key, value.lower()) not in ALWAYS_SO_OPTIONS:
            self.left_out.append(LeftOut(f"-o {text}", WHY_OPTION.get(key, "this option is not supported")))

    def _keep(self, key: str, value: str, text: str) -> None:
        """Note one value that we support; `key` is ssh's keyword in small letters."""
        if not value:
            raise UsageError(f"{text} needs a value and has none.", hint=EXAMPLE)
        if value.lower() == "none" and key in {
            "identityfile",
            "proxyjump",
            "proxycommand",
            "userknownhostsfile",
        }:
            self.left_out.append(LeftOut(text, "it switches off what is off anyway, or must not be"))
        elif key == "identityfile":
            self.identity_files.append(_home(value))
        elif key == "localforward":
            self.forwards.append(parse_forward(re.sub(r"\s+", ":", value)))
        elif key in {"proxyjump", "proxycommand"}:
            if key == "proxyjump":
                check_jump(value)
            both = {"proxy_jump", "proxy_command"} & self.once.keys()
            self._once(next(iter(both), KEPT_OPTIONS[key]), value, text, same=KEPT_OPTIONS[key])
        elif key == "hostkeyalias":
            self._once("host_key_alias", check_host(value), text)
        elif key == "port":
            self._once("port", str(parse_port(value, text)), text)
        elif key == "user":
            self._once("user", check_user(value), text)
        elif key == "serveraliveinterval":
            self._interval(value, text)
        elif key == "stricthostkeychecking":
            self._host_key(value.lower(), text)
        elif key == "userknownhostsfile":
            self._known_hosts(value, text)
        elif key == "identityagent" and value.lstrip("$") == "SSH_AUTH_SOCK":
            self.left_out.append(LeftOut(text, "SSH_AUTH_SOCK is used anyway"))
        else:
            self._once(KEPT_OPTIONS[key], _home(value), text)

    def _once(self, name: str, value: str, text: str, *, same: str | None = None) -> None:
        if self.once.setdefault(name, value) != value or (same or name) != name:
            self.left_out.append(
                LeftOut(text, "something before it says otherwise, and in ssh the first wins")
            )

    def _interval(self, value: str, text: str) -> None:
        parts = _INTERVAL.findall(value)
        if not parts or "".join(f"{count}{unit}" for count, unit in parts) != value or not value.isascii():
            raise UsageError(
                f"{text}: {value!r} is not a time.", hint="For example: -o ServerAliveInterval=15"
            )
        seconds = sum(int(count) * _SECONDS[unit.lower()] for count, unit in parts)
        if seconds:
            self._once("keepalive_interval", str(seconds), text)
        else:
            self.left_out.append(LeftOut(text, "keepalives are always sent"))

    def _host_key(self, value: str, text: str) -> None:
        policy = {"yes": "strict", "true": "strict", "ask": "ask", "accept-new": "accept-new"}.get(value)
        if policy is not None:
            self._once("host_key", policy, text)
        elif value in {"no", "off", "false"}:
            why = "it would switch the verification of the host key off; a new key is recorded, a changed one is refused"
            self.left_out.append(LeftOut(text, why))
        else:
            raise UsageError(
                f"{text}: ssh knows yes, ask, accept-new and no.", hint="accept-new is the usual one."
            )

    def _known_hosts(self, value: str, text: str) -> None:
        first, *more = re.findall(r'[^\s"]+', value) or [value]
        if first == "/dev/null":
            self.left_out.append(LeftOut(text, "it would switch the verification of the host key off"))
            return
        self._once("known_hosts", _home(first), text)
        self.left_out.extend(LeftOut(path, "one known_hosts file is used, the first") for path in more)

    def _destination(self, word: str) -> None:
        text = word
        if word.lower().startswith("ssh://"):
            text = word[6:].removesuffix("/")
            user, at, place = text.rpartition("@")
            match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", place)
            if match is None:
                raise UsageError(f"{word!r} is not ssh://user@host:port.", hint=EXAMPLE)
            if match[2] is not None:
                self._once("port", str(parse_port(match[2], word)), word)
            user, text = unquote(user), match[1]
        else:
            user, at, text = word.rpartition("@")
        if at:
            self._once("user", check_user(user), word)
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        self.host = check_host(text)

    def _command(self, words: list[str]) -> None:
        if words[0].lower().startswith("ssh://") or re.fullmatch(r"[\w.-]+@[\w.:\[\]-]+", words[0]):
            raise UsageError(
                f"The command line names two hosts, {self.host} and {words[0]}.",
                hint="One tunnel has one host; give each its own command line.",
            )
        self.left_out.append(LeftOut(shlex.join(words), "no command is ever run on the instance"))


def _words(line: str, left_out: list[LeftOut]) -> list[str]:
    """Split as a shell would, from `ssh` on and up to the first shell operator; names what stood before and after."""
    if len(line) > MAX_LINE:
        raise UsageError(f"The command line is longer than {MAX_LINE} characters.", hint=EXAMPLE)
    text = re.sub(r"\\\r?\n", " ", line).replace("\N{NO-BREAK SPACE}", " ")
    lexer = shlex.shlex(_PROMPT.sub("", text, count=1), posix=True, punctuation_chars="".join(_OPERATOR))
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise UsageError(f"The command line cannot be split: {error}.", hint="Is a quote missing?") from None
    for word in words:
        if not word.isprintable():
            raise UsageError(f"The command line holds control characters: {word!r}.", hint="Type it anew.")
        if word[:1] in _TYPOGRAPHIC_DASHES:
            raise UsageError(f"The line holds a typographic dash: {word!r}.", hint="Type it with -.")
        if word[:1] in _TYPOGRAPHIC_QUOTES or word[-1:] in _TYPOGRAPHIC_QUOTES:
            raise UsageError(f"The line holds typographic quotes: {word!r}.", hint="Type them as ' or \".")
    start = next((at for at, word in enumerate(words) if _is_program(word)), None)
    if start is None:
        if not words or not (words[0].lower().startswith("ssh://") or "@" in words[0]):
            raise UsageError("This is not an ssh command line.", hint=EXAMPLE)
        start = 0
    before, words = words[:start], words[start:]
    if "sshpass" in before:
        raise UsageError(
            "sshpass holds a password, and only keys are used.", hint="Leave it away and use -i KEY."
        )
    odd = (w for w in before if w not in _PREFIXES and w[-1:] not in _PREFIXES and not set(w) <= _OPERATOR)
    left_out.extend(LeftOut(word, "it stands before ssh") for word in odd)
    end = next((at for at, word in enumerate(words) if word and set(word) <= _OPERATOR), len(words))
    if words[end:] and words[end:] not in (["&"], [";"]):
        left_out.append(LeftOut(" ".join(words[end:]), "it is for the shell, not for ssh"))
    return words[:end]


def _is_program(word: str) -> str:
    """Return "ssh" or "autossh" when the word starts one of them, else an empty string."""
    name = word.rpartition("/")[2].lower().removesuffix(".exe")
    return name if name in {"ssh", "autossh"} and not word.lower().startswith("ssh://") else ""


def _home(path: str) -> str:
    """Write $HOME, which no shell will expand for us, as `~`."""
    return re.sub(r"^\$(?:HOME|\{HOME\})(?=/|$)", "~", path)
