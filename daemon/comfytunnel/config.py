"""The config file: what it may say, and every mistake in it at once.

`load` reads the file, `parse` the text; both give a Config whose paths are absolute and whose endpoints are loopback, or
raise one ConfigError with all Problems, each with its dotted path. An unknown key is a mistake. Nothing is opened here but the file
itself, nothing is written, and no variable of the environment is read (but HOME, for `~`).
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from comfytunnel import sshline
from comfytunnel.configfields import SECTIONS, TUNNEL_FIELDS, Reader, agent, bare, identity, shown
from comfytunnel.endpoints import Endpoint as Endpoint
from comfytunnel.endpoints import Tcp as Tcp
from comfytunnel.endpoints import Unix as Unix
from comfytunnel.endpoints import absolute_path, both_loopbacks, forward_endpoints
from comfytunnel.errors import ConfigError, Problem, UsageError

SETUP_HINT = "Run: comfytunnel setup 'ssh -p PORT root@HOST'  (the line that Vast.ai's console shows)"
COMFYUI_PORT = 18_188  # where the Vast.ai template has ComfyUI itself; 8188 is a login page before it
COMFYUI = Tcp("localhost", COMFYUI_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelConfig:
    """One `[tunnels.NAME]`. Times are in seconds; None leaves it to the user's ssh_config, as ssh would."""

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    identity_files: tuple[Path, ...] = ()
    agent: str = ""  # a path, "none", or "" for SSH_AUTH_SOCK
    ssh_config: Path | None = field(default_factory=lambda: Path("~/.ssh/config").expanduser())
    known_hosts: Path = field(default_factory=lambda: Path("~/.ssh/known_hosts").expanduser())
    host_key: sshline.HostKeyPolicy = "accept-new"
    host_key_alias: str | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None
    listen: tuple[Endpoint, ...] = both_loopbacks(COMFYUI_PORT)
    remote: Endpoint = COMFYUI
    keepalive_interval: float = 15
    hold: float = 30
    spares: int = 2
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_other_users: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsConfig:
    """`[jobs]`. `max_ahead`: jobs that wait on the server behind the running one, `max_waiting`: in our own line. 0 is no limit, but for
    `max_ahead`. `time_to_*` in seconds."""

    output_dir: Path = field(default_factory=lambda: Path("~/Pictures/comfytunnel").expanduser())
    max_ahead: int = 1
    max_waiting: int = 0
    time_to_start: float = 0
    time_to_run: float = 0
    move_after: float = 0
    forward_partner_key: bool = False
    max_upload_mb: int = 2000
    keep_jobs_days: float = 0
    keep_jobs_mb: float = 0
    keep_outputs_days: float = 0
    keep_outputs_gb: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """`[web]`. No `listen`: there is no TCP listener."""

    listen: tuple[Tcp, ...] = ()
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file, resolved. `source` is where it was read."""

    tunnels: dict[str, TunnelConfig]
    jobs: JobsConfig
    web: WebConfig
    log: LogConfig
    source: Path


def load(path: Path) -> Config:
    """Read the file. ConfigError when it is missing, unreadable, wrong, or open to others where it must not be."""
    try:
        text = path.read_bytes().decode()
        found = path.stat()
        mode = found.st_mode
    except FileNotFoundError:
        raise ConfigError([Problem("", "there is no such file.", SETUP_HINT)], source=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            [Problem("", f"this is not UTF-8 (byte {error.start}).")], source=str(path)
        ) from None
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}.")], source=str(path)) from error
    config = parse(text, path)
    hint = f"Run: chmod 600 {path}"
    if config.web.token and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigError([Problem("web.token", "others may read this file.", hint)], source=str(path))
    if found.st_uid not in (0, os.geteuid()):  # a proxy_command in it is a program that we start
        raise ConfigError(
            [Problem("", "this file belongs to another user.", "Make a copy of your own.")], source=str(path)
        )
    if mode & stat.S_IWOTH:
        raise ConfigError([Problem("", "every user may write this file.", hint)], source=str(path))
    return config


def parse(text: str, source: Path) -> Config:
    """Read the text of a config. ConfigError with every mistake; `source` is named in it and kept in the result."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"
        message = str(error).replace("at end of document", end)
        raise ConfigError([Problem("", f"this is not TOML: {message}.")], source=str(source)) from None
    problems: list[Problem] = []
    tunnels: dict[str, TunnelConfig] = {}
    sections: dict[str, dict[str, Any]] = {"jobs": {}, "web": {}, "log": {}}
    for key, value in table.items():
        if key != "tunnels" and key not in sections:
            problems.append(_unknown(key, key, ("tunnels", *sections)))
        elif not isinstance(value, dict):
            problems.append(Problem(key, "must be a table.", f"Write [{key}] on a line of its own."))
        elif key == "tunnels":
            found = [_tunnel(name, inner, problems) for name, inner in value.items()]
            tunnels = {tunnel.name: tunnel for tunnel in found if tunnel}
        else:
            sections[key] = _fields(key, value, SECTIONS[key], problems)
    if not table.get("tunnels"):
        problems.append(Problem("tunnels", "there is no tunnel.", SETUP_HINT))
    web = WebConfig(**sections["web"])
    problems.extend(_shared_endpoints(tunnels, web))
    if problems:
        raise ConfigError(problems, source=str(source))
    return Config(
        tunnels=tunnels,
        jobs=JobsConfig(**sections["jobs"]),
        web=web,
        log=LogConfig(**sections["log"]),
        source=source,
    )


def check_name(name: str) -> str:
    """Return a name that a tunnel may have, else UsageError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
        hint = "A name has up to 32 of a-z, 0-9, _ and -, and starts with a letter or a digit."
        raise UsageError(f"{name!r} is not a name for a tunnel.", hint=hint)
    return name


def line_fields(line: sshline.SshLine) -> dict[str, Any]:
    """Return what an ssh command line says, under the names of the config file. UsageError if a tunnel cannot be so."""
    fields: dict[str, Any] = {"host": line.host, "port": line.port, "user": line.user}
    fields["proxy_jump"], fields["proxy_command"] = line.proxy_jump, line.proxy_command
    fields["host_key"], fields["host_key_alias"] = line.host_key, line.host_key_alias
    given: list[tuple[str, Any, Reader]] = [
        ("identity_file", list(line.identity_files) or None, identity),
        ("agent", line.identity_agent, agent),
        ("known_hosts", line.known_hosts, absolute_path),
        ("keepalive_interval", line.keepalive_interval, TUNNEL_FIELDS["keepalive_interval"]),
    ]
    fields.update({key: read(value) for key, value, read in given if value is not None})
    fields = {key: value for key, value in fields.items() if value is not None}
    if line.config_file is not None:
        fields["ssh_config"] = None if line.config_file == "none" else absolute_path(line.config_file)
    if len(line.forwards) > 1:
        both = " and ".join(str(forward) for forward in line.forwards)
        raise UsageError(
            f"the command holds {len(line.forwards)} forwards, {both}; a tunnel has one.",
            hint="Keep one -L here and give the other a tunnel of its own.",
        )
    for forward in line.forwards:
        fields["listen"], fields["remote"] = forward_endpoints(forward)
    return fields


def _tunnel(name: str, table: object, problems: list[Problem]) -> TunnelConfig | None:
    path, before = f"tunnels.{bare(name)}", len(problems)
    try:
        check_name(name)
    except UsageError as error:
        problems.append(Problem(path, "is not a name for a tunnel.", error.hint))
    if not isinstance(table, dict):
        problems.append(Problem(path, "must be a table.", f"Write [{path}] on a line of its own."))
        return None
    values = _fields(path, table, TUNNEL_FIELDS, problems)
    if "ssh" not in table and "host" not in table:
        problems.append(
            Problem(path, "names no host.", 'Write ssh = "ssh -p PORT root@HOST", or host, port, user.')
        )
    if "ssh" in values:
        values = _beside_line(path, values, table, problems)
    if values.get("proxy_jump") and values.get("proxy_command"):
        problems.append(
            Problem(f"{path}.proxy_jump", "stands beside proxy_command.", "One way in: keep one.")
        )
    if len(problems) > before:
        return None
    values["identity_files"] = values.pop("identity_file", ())
    return TunnelConfig(name=name, **values)


def _beside_line(
    path: str, values: dict[str, Any], table: Mapping[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """Lay the keys of the table beside those in `ssh`; two that differ are a mistake, whichever was meant."""
    twice = [key for key in ("host", "port", "user") if key in table]
    if twice:
        names = " and ".join(twice)
        hint = f"Keep ssh, or host, port and user. Without {names} the command's own are used."
        problems.append(Problem(f"{path}.ssh", f"stands beside {names}, which it says itself.", hint))
    try:
        said = line_fields(values.pop("ssh"))
    except UsageError as error:
        problems.append(Problem(f"{path}.ssh", error.message, error.hint))
        return values
    for key in [key for key in values if key in said and key not in twice and values[key] != said[key]]:
        here, there = shown(values[key]), shown(said[key])
        message = f"says {here}, and the command in ssh says {there}."
        problems.append(
            Problem(f"{path}.{key}", message, f"Take one of them away: {key}, or the option in ssh.")
        )
    return said | values


def _fields(
    path: str, table: Mapping[str, Any], readers: Mapping[str, Reader], problems: list[Problem]
) -> dict[str, Any]:
    """Convert each field on its own, so that one mistake does not hide the next."""
    values = {}
    for key, value in table.items():
        if key not in readers:
            problems.append(_unknown(f"{path}.{bare(key)}", key, tuple(readers)))
            continue
        try:
            values[key] = readers[key](value)
        except UsageError as error:
            problems.append(Problem(f"{path}.{key}", error.message, error.hint))
    return values


def _unknown(path: str, key: str, known: tuple[str, ...]) -> Problem:
    near = difflib.get_close_matches(key.lower(), known, 1)
    return Problem(
        path, "is not known.", f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
    )


def _shared_endpoints(tunnels: Mapping[str, TunnelConfig], web: WebConfig) -> list[Problem]:
    problems: list[Problem] = []
    owners: dict[Endpoint, str] = {}
    listens: dict[str, tuple[Endpoint, ...]] = {f"tunnels.{name}": t.listen for name, t in tunnels.items()}
    for path, endpoints in (listens | {"web": web.listen}).items():
        taken = [e for e in endpoints if e in owners]
        if taken:
            message = f"{taken[0]} is taken by {owners[taken[0]]} already."
            problems.append(Problem(f"{path}.listen", message, "Give each a port of its own."))
        owners.update({endpoint: path for endpoint in endpoints if endpoint not in owners})
    return problems
