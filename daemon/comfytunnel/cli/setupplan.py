"""What `comfytunnel setup` would write, and why: an ssh command line laid over what the config says already.

Pure: text and values in, text and sentences out. Nothing is read, written, asked or connected here; setup.py does that.
A tunnel keeps what is its own (hold, spares, keys, ...); the new line replaces where it goes, and whatever else it says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from comfytunnel.config import COMFYUI
from comfytunnel.configfields import TUNNEL_FIELDS
from comfytunnel.endpoints import Unix, absolute_path, parse_endpoint
from comfytunnel.errors import UsageError
from comfytunnel.sshline import LeftOut, SshLine, parse
from comfytunnel.sshparts import Forward

DEFAULT = str(COMFYUI)
# Ports of the remote side that lead to something else; the first two are measured on Vast.ai, the others are the programs' own defaults.
NOT_COMFYUI = {
    8080: "the example in Vast.ai's console, Jupyter on most instances",
    8188: "a proxy with a login page, not ComfyUI",
    22: "SSH itself",
    6006: "TensorBoard",
    8888: "Jupyter",
}
_NEW_FILE = """\
# comfytunnel's config. `comfytunnel setup 'ssh -p ...'` writes the new address of an instance into it;
# config.example.toml shows every key.
"""


@dataclass(slots=True)
class Plan:
    """The tunnel's keys as the file should have them, what was left out by name, and sentences for the person."""

    values: dict[str, Any]
    left_out: list[LeftOut]
    notes: list[str] = field(default_factory=list)


def plan(
    line: SshLine,
    table: Mapping[str, Any] | None,
    *,
    listen: str | None = None,
    remote: str | None = None,
    keep_forward: bool = False,
    folder: Path,
) -> Plan:
    """Lay `line` over the tunnel's `table` (None: a new tunnel). `folder` anchors relative paths of the command line.

    UsageError if `listen` or `remote` cannot be used, or the table's own `ssh` cannot be read.
    """
    before = said_before(table or {})
    made = Plan({}, list(line.left_out))
    for key, value in _said(line, folder).items():
        try:
            TUNNEL_FIELDS[key](value)
        except UsageError as error:
            made.left_out.append(LeftOut(f"{key} {value}", error.message.rstrip(".")))
        else:
            made.values[key] = value
    # Where the old instance was says nothing about the new one; whatever else was chosen stays.
    gone = {"host", "port", "user", "host_key_alias"}
    if {"proxy_jump", "proxy_command"} & made.values.keys():
        gone |= {"proxy_jump", "proxy_command"}
    made.values = {key: value for key, value in before.items() if key not in gone} | made.values
    asked = {key: text for key, text in (("listen", listen), ("remote", remote)) if text is not None}
    for key, text in asked.items():
        TUNNEL_FIELDS[key](text)
    _lay_forward(made, line, before, asked, keep_forward)
    return made


def said_before(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the table says, in keys; what its `ssh` says is spread out."""
    before = {key: value for key, value in table.items() if key != "ssh"}
    if "ssh" in table:
        line = parse(str(table["ssh"]))
        before = _said(line, Path("/")) | before
        for forward in line.forwards[:1]:
            before = {"listen": _listen_of(forward), "remote": _remote_of(forward)} | before
    return before


def _said(line: SshLine, folder: Path) -> dict[str, Any]:
    """Return what the command line says but for its forward, as values for the file."""
    files = [path if path.startswith("~") else str(folder / path) for path in line.identity_files]
    alive = line.keepalive_interval
    said: dict[str, Any] = {
        "host": line.host,
        "port": line.port,
        "user": line.user,
        "identity_file": (files[0] if len(files) == 1 else files) or None,
        "agent": line.identity_agent,
        "ssh_config": "" if line.config_file == "none" else line.config_file,
        "known_hosts": line.known_hosts,
        "host_key": line.host_key,
        "host_key_alias": line.host_key_alias,
        "proxy_jump": line.proxy_jump,
        "proxy_command": line.proxy_command,
        "keepalive_interval": int(alive) if alive is not None and alive == int(alive) else alive,
    }
    return {key: value for key, value in said.items() if value is not None}


def _lay_forward(
    made: Plan, line: SshLine, before: Mapping[str, Any], asked: Mapping[str, str], keep_forward: bool
) -> None:
    """Choose the one forward: what was asked for, else one that can be ComfyUI's, else what the tunnel had, else the default."""
    choice = line.forwards
    if not keep_forward:
        choice = tuple(forward for forward in choice if forward.remote_port not in NOT_COMFYUI)
    # of several the one to ComfyUI's own port, else the first: sorted() keeps the order of equals
    chosen = sorted(choice, key=lambda forward: forward.remote_port != COMFYUI.port)[:1]
    if keep_forward:
        chosen = list(line.forwards[:1])
    for forward in chosen:
        if forward.listen_host not in {None, "localhost", "127.0.0.1", "::1"}:
            made.notes.append(f"-L {forward}: bound to localhost instead, so that only you can use it.")
            forward = replace(forward, listen_host=None)
        made.values["listen"], made.values["remote"] = _listen_of(forward), _remote_of(forward)
    made.values.setdefault("listen", before.get("listen", DEFAULT))
    made.values.setdefault("remote", before.get("remote", DEFAULT))
    made.values.update(asked)
    for forward in line.forwards:
        if forward in chosen:
            continue
        what = NOT_COMFYUI.get(forward.remote_port or 0)
        if what is None or keep_forward:
            made.left_out.append(
                LeftOut(f"-L {forward}", "a tunnel has one forward; give this one its own with --name")
            )
            continue
        made.left_out.append(LeftOut(f"-L {forward}", f"port {forward.remote_port} there is {what}"))
        if not chosen:
            used = f"{made.values['listen']} -> {made.values['remote']} is used"
            used = "the tunnel keeps what it had" if before.get("remote") == made.values["remote"] else used
            why = f"ComfyUI itself listens on {COMFYUI.port} there; {used}."
            made.notes.append(f"{why} If you do want {forward}, say --keep-forward.")


def _listen_of(forward: Forward) -> str:
    if forward.listen_port is None:
        return f"unix:{forward.listen_path}"
    host = forward.listen_host or "localhost"
    return f"[{host}]:{forward.listen_port}" if ":" in host else f"{host}:{forward.listen_port}"


def _remote_of(forward: Forward) -> str:
    if forward.remote_port is None:
        return f"unix:{forward.remote_path}"
    host = forward.remote_host or "localhost"
    return f"[{host}]:{forward.remote_port}" if ":" in host else f"{host}:{forward.remote_port}"


def render_line(values: Mapping[str, Any]) -> str:
    """Write the values as an ssh command line that `sshline.parse` reads back to the same, and a shell would run."""
    words = ["ssh"]
    files = values.get("identity_file", [])
    for path in files if isinstance(files, list) else [files]:
        words += ["-i", path]
    for letter, key in (("-p", "port"), ("-J", "proxy_jump"), ("-F", "ssh_config")):
        if key in values:
            words += [letter, str(values[key]) or "none"]
    for option, key in _OPTIONS.items():
        if key in values:
            value = str(values[key])
            words += ["-o", f"{option}={_SSH_HOST_KEY.get(value, value) if key == 'host_key' else value}"]
    words.append(f"{values['user']}@{values['host']}" if "user" in values else values["host"])
    if "listen" in values:
        here, there = _for_ssh(values["listen"]).removeprefix("localhost:"), _for_ssh(values["remote"])
        words += ["-L", f"{here}:{there}"]
    return " ".join(
        word if re.fullmatch(r"~?[\w@%+=:,./\[\]-]+", word) else shlex.quote(word) for word in words
    )


_OPTIONS = {
    "IdentityAgent": "agent",
    "UserKnownHostsFile": "known_hosts",
    "StrictHostKeyChecking": "host_key",
    "HostKeyAlias": "host_key_alias",
    "ServerAliveInterval": "keepalive_interval",
    "ProxyCommand": "proxy_command",
}
_SSH_HOST_KEY = {"strict": "yes"}
_IN_LINE = {
    "host",
    "port",
    "user",
    "identity_file",
    "proxy_jump",
    "ssh_config",
    "listen",
    "remote",
    *_OPTIONS.values(),
}


def _for_ssh(endpoint: str) -> str:
    parsed = parse_endpoint(endpoint)
    return str(absolute_path(str(parsed.path))) if isinstance(parsed, Unix) else str(parsed)


def new_text(text: str | None, name: str, values: Mapping[str, Any]) -> str:
    """Return the whole new file: `text` with the tunnel's values laid in, everything else (comments too) as it was.

    A tunnel that has `ssh` keeps that form and so does a new one; a tunnel with host, port and user keeps these.
    """
    document = tomlkit.parse(f"{text.rstrip(chr(10))}\n" if text else "")
    table = document.get("tunnels", {}).get(name)
    if table is None:
        line = {key: value for key, value in values.items() if key in _IN_LINE}
        rest = {key: value for key, value in values.items() if key not in line}
        added = tomlkit.dumps({"ssh": render_line(line), **rest})
        head = _NEW_FILE if text is None else text.rstrip("\n")
        return f"{head.rstrip(chr(10))}\n\n[tunnels.{name}]\n{added}".lstrip("\n")
    _lay_into(table, values)
    return tomlkit.dumps(document)


def _lay_into(table: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    keys = (
        set(values) if "ssh" not in table else {key for key in values if key in table or key not in _IN_LINE}
    )
    if keys & {"listen", "remote"}:
        keys |= {"listen", "remote"}  # a forward is said in one place
    if "known_hosts" in values and " " in str(values["known_hosts"]):
        keys.add("known_hosts")  # ssh would read two files
    for key in [key for key in table if key != "ssh" and key not in values]:
        del table[key]
    changed = {key: values[key] for key in values if key in keys and table.get(key) != values[key]}
    for key in {"listen", "remote"} & changed.keys() - table.keys():
        if changed[key] == DEFAULT:
            del changed[key]
    # Blank lines and comments at the end belong to what follows, so new keys go before them.
    body: list[Any] = table.value.body if isinstance(table, Table) else []
    end = next((at for at in range(len(body), 0, -1) if body[at - 1][0] is not None), 0)
    below = body[end:]
    del body[end:]
    for key, value in changed.items():
        table[key] = value
    body.extend(below)
    if "ssh" in table:
        line = render_line({key: value for key, value in values.items() if key not in keys})
        if table["ssh"] != line:
            table["ssh"] = line
