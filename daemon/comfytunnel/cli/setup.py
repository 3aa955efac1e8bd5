"""`comfytunnel setup 'ssh -p ...'`: shows what would change, asks, and writes the config so that nothing is ever lost.

setupplan.py decides what to write; here it is shown, agreed to, backed up and put in place. All that a person sees goes through
`say`, all questions through `ask` (None: no terminal, so nothing may be asked). Nothing is written that `config.parse` would refuse.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from comfytunnel import config, sshline
from comfytunnel.cli.setupfile import put, read
from comfytunnel.cli.setupplan import Plan, new_text, plan, said_before
from comfytunnel.errors import ConfigError, Error, UsageError
from comfytunnel.sshline import LeftOut

_ERRNO = re.compile(r"\[Errno -?\d+\] ")  # how Python begins the words of the system
STOPPED = "Stopped; nothing was written."
LOOK_SECONDS = 20.0  # for the host key; a little more than a slow relay needs to answer


@dataclass(frozen=True, slots=True)
class HostKeyLook:
    """The key that the far side shows, beside known_hosts. `detail` says why it could not be seen;
    `may_be_starting`: that is what an instance does that is not ready yet."""

    fingerprint: str
    algorithm: str
    status: Literal["known", "new", "changed", "unreachable"]
    detail: str = ""
    may_be_starting: bool = False


Look = Callable[[config.TunnelConfig], Awaitable[HostKeyLook]]


@dataclass(frozen=True, slots=True)
class SetupResult:
    """What was done. `taken_up`: a running daemon uses it by now; None where nothing was written."""

    path: Path
    tunnel: str
    changed: bool
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()
    diff: str = ""
    backup: Path | None = None
    host_key: HostKeyLook | None = None
    taken_up: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        key = self.host_key
        return {
            "config": str(self.path),
            "tunnel": self.tunnel,
            "changed": self.changed,
            "left_out": [{"text": item.text, "why": item.why} for item in self.left_out],
            "notes": list(self.notes),
            "diff": self.diff,
            "backup": str(self.backup) if self.backup else None,
            "host_key": key
            and {
                "status": key.status,
                "algorithm": key.algorithm,
                "fingerprint": key.fingerprint,
                "detail": key.detail,
            },
            "taken_up": self.taken_up,
        }


def run_setup(
    line: str,
    *,
    config_path: Path,
    name: str | None = None,
    listen: str | None = None,
    remote: str | None = None,
    keep_forward: bool = False,
    yes: bool = False,
    json: bool = False,
    ask: Callable[[str], bool] | None = None,
    say: Callable[[str], None],
    look: Look,
    tell_daemon: Callable[[Path], str | None],
) -> SetupResult:
    """Write the tunnel that the ssh command line describes into the config.

    `yes` agrees to everything that is shown. With `json` nothing is said and nothing asked. `look` connects to the host for its
    key (given LOOK_SECONDS, in a loop of its own), `tell_daemon` has a running daemon take this config up, and returns the path of the
    config that the daemon reads, or None if none runs.
    UsageError: the line cannot be used, or a question would have to be asked and nobody is there; ConfigError: the result would
    not be a config; RefusedError, StateError: the folder or the file cannot be written. In each case nothing has been written.
    Ctrl-C before the file is written is an Error, too: everything but the look runs outside a loop, so it ends a question at once.
    """
    if json:
        say, ask = _silent, None
    asked = sshline.parse(line)
    old = read(config_path)
    base = _sound(old, config_path, yes, ask, say)
    tables: dict[str, Any] = tomllib.loads(base or "").get("tunnels", {})
    tunnel = _choose(name, tables)
    made = plan(
        asked,
        tables.get(tunnel),
        listen=listen,
        remote=remote,
        keep_forward=keep_forward,
        folder=Path.cwd(),
    )
    _agree_to_command(made, tables.get(tunnel), yes, ask, say)
    text = new_text(base, tunnel, made.values)
    parsed = config.parse(text, config_path)
    new = parsed.tunnels[tunnel]
    made.notes += [
        f"The key {file} does not exist (yet)." for file in new.identity_files if not _exists(file)
    ]
    for item in made.left_out:
        say(f"Left out  {_visible(str(item))}")
    for note in made.notes:
        say(_visible(note))
    left_out, notes = tuple(made.left_out), tuple(made.notes)
    if base is not None and tunnel in tables and config.parse(base, config_path).tunnels[tunnel] == new:
        key = _look(look, new)
        _say_key(key, new, say)
        say(f"Nothing to do: tunnel {tunnel} in {config_path} says this already.")
        return SetupResult(config_path, tunnel, False, left_out, notes, host_key=key)
    if old is not None and not yes and ask is None:
        raise UsageError(
            f"{config_path} exists and there is no terminal to ask whether it may be changed; nothing was written.",
            hint="Say --yes to agree.",
        )
    key = _look(look, new)
    _say_key(key, new, say)
    diff = _diff(old or "", text, config_path)
    say(diff)
    if old is not None and not (yes or (ask and ask(f"Write this to {config_path}?"))):
        say("Nothing was written.")
        return SetupResult(config_path, tunnel, False, left_out, notes, diff, host_key=key)
    backup = put(config_path, old, text, datetime.now().astimezone())
    before = "the broken file that it replaces" if old is not None and base is None else "what was there"
    say(f"Wrote {config_path}" + (f", {before} is in {backup}." if backup else "."))
    reads = tell_daemon(config_path)
    taken_up = reads is not None and _same(Path(reads), config_path)
    if taken_up:
        say("The running daemon has taken it up.")
    elif reads is None:
        say(
            "No daemon is running; it will be used at the next start: comfytunnel install (a service), or comfytunnel daemon"
        )
    else:
        say(f"The running daemon reads another file, {_visible(reads)}, and has not taken it up.")
        say(f"  For that file: COMFYTUNNEL_CONFIG={_visible(shlex.quote(reads))} comfytunnel setup ...")
    return SetupResult(config_path, tunnel, True, left_out, notes, diff, backup, key, taken_up)


def _silent(_text: str) -> None:
    """Say nothing."""


def _sound(
    old: str | None, path: Path, yes: bool, ask: Callable[[str], bool] | None, say: Callable[[str], None]
) -> str | None:
    """Return the text to edit, None to begin anew: there is no file, or it is broken and may be set aside."""
    if old is None:
        return None
    try:
        config.parse(old, path)
    except ConfigError as error:
        if [problem.path for problem in error.problems] == ["tunnels"] and not tomllib.loads(old).get(
            "tunnels"
        ):
            return old  # sound, only without a tunnel yet
        say(f"{path} cannot be used as it is:")
        for problem in error.problems:
            say(f"  {_visible(str(problem))}")
        say(f"A new file would replace it, and it would be kept beside that as {path.name}.bak-TIME.")
        if yes or (ask and ask("Keep it as a backup and write a new one?")):
            return None
        raise UsageError(
            f"{error.message} Nothing was written.", hint="Mend it, or let it be set aside with --yes."
        ) from None
    return old


def _choose(name: str | None, tables: dict[str, Any]) -> str:
    if name is not None:
        return config.check_name(name)
    if len(tables) == 1:
        return next(iter(tables))
    if not tables or "default" in tables:
        return "default"
    raise UsageError(
        f"There are several tunnels: {', '.join(tables)}.", hint="Say which with --name, or a new name."
    )


def _agree_to_command(
    made: Plan,
    table: dict[str, Any] | None,
    yes: bool,
    ask: Callable[[str], bool] | None,
    say: Callable[[str], None],
) -> None:
    """A ProxyCommand is a program that runs here, at every connection: it is kept only if the person has seen it."""
    command, before = made.values.get("proxy_command"), said_before(table or {})
    if command is None or command == before.get("proxy_command"):
        return
    say(f"The command line starts a program on this machine at every connection: {_visible(command)}")
    if yes or (ask and ask("Keep this ProxyCommand?")):
        return
    del made.values["proxy_command"]
    made.values |= {key: before[key] for key in ("proxy_jump", "proxy_command") if key in before}
    why = (
        "it starts a program on this machine, and you did not agree"
        if ask
        else "nobody could be asked; say --yes"
    )
    made.left_out.append(LeftOut(f"ProxyCommand {command}", why))


def _look(look: Look, tunnel: config.TunnelConfig) -> HostKeyLook:
    async def looking() -> HostKeyLook:
        async with asyncio.timeout(LOOK_SECONDS):
            return await look(tunnel)

    try:
        return asyncio.run(looking())
    except KeyboardInterrupt:
        raise Error(STOPPED) from None
    except TimeoutError:
        return HostKeyLook("", "", "unreachable", f"no answer in {LOOK_SECONDS:.0f} s", may_be_starting=True)


def _say_key(key: HostKeyLook, tunnel: config.TunnelConfig, say: Callable[[str], None]) -> None:
    shown = _visible(f"{key.algorithm} {key.fingerprint}")
    match key.status:
        case "known":
            say(f"Host key of {tunnel.host}: {shown} (known)")
        case "new" if tunnel.host_key == "accept-new":
            say(f"Host key of {tunnel.host}: {shown} (first use: it is recorded when the tunnel connects)")
        case "new":
            say(f"Host key of {tunnel.host}: {shown} (unknown; host_key = {tunnel.host_key!r}:")
            say(f"  the tunnel waits for `comfytunnel trust {tunnel.name}`: compare the fingerprint then)")
        case "changed":
            say(f"Host key of {tunnel.host}: {shown} is NOT the one in {tunnel.known_hosts}.")
            say(
                "  On Vast.ai a port often belonged to another instance before; anywhere else it can be an attack."
            )
            say(f"  If you expect it: `comfytunnel trust {tunnel.name}`, as soon as the daemon runs.")
        case "unreachable":
            why = _ERRNO.sub("", _visible(key.detail)).rstrip(". ")
            starting = " The instance may still be starting." if key.may_be_starting else ""
            say(f"Host key of {tunnel.host}: not seen, {why[:1].lower()}{why[1:]}.{starting}")
    if key.status != "unreachable" and key.detail:
        say(f"  {_visible(key.detail)}")


def _exists(file: Path) -> bool:
    return os.access(file.expanduser(), os.F_OK)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _diff(old: str, new: str, path: Path) -> str:
    """Return a unified diff that is safe to print: control characters escaped, the token hidden."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), f"{path} (new)", lineterm="")
    hidden = (re.sub(r"^([ +-]\s*token\s*=).*", r"\1 (hidden)", line) for line in lines)
    return "\n".join(_visible(line) for line in hidden)


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in text)
