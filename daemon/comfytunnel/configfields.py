"""What each key of the config file takes: one reader per key, from the TOML value to our type, or UsageError.

The tables at the end are the whole vocabulary of the file; their bounds are the only ones. No key knows of another here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from comfytunnel import sshline
from comfytunnel.decoding import convert
from comfytunnel.endpoints import Tcp, absolute_path, both_loopbacks, parse_endpoint, parse_listen
from comfytunnel.errors import UsageError
from comfytunnel.sshparts import check_host, check_jump, check_user

Reader = Callable[[Any], Any]

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    bool: "true or false",
    list[str]: "a list of texts",
}


def _as(kind: Any, value: Any) -> Any:
    try:
        return convert(value, kind)
    except msgspec.ValidationError:
        raise UsageError(f"must be {_KINDS[kind]}, not {shown(value)}.") from None


def shown(value: Any) -> str:
    """Write a value as a person would in TOML, on one line and not too long."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        both = value == both_loopbacks(value[0].port) if value and isinstance(value[0], Tcp) else False
        text = f"localhost:{value[0].port}" if both else ", ".join(str(item) for item in value)
    else:
        text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else repr(key)


def _text(value: Any) -> str:
    text: str = _as(str, value)
    if not text or not text.isprintable():
        raise UsageError(f"{text!r} must be a text on one line, and not empty.")
    return text


def _path(value: Any) -> Path:
    return absolute_path(_text(value))


def identity(value: Any) -> tuple[Path, ...]:
    return tuple(_path(item) for item in (_as(list[str], value) if isinstance(value, list) else [value]))


def agent(value: Any) -> str:
    return str(value) if value in ("", "none") else str(_path(value))


def _number(kind: type[int] | type[float], low: int, high: int, unit: str) -> Reader:
    def read(value: Any) -> Any:
        number = _as(kind, value)
        if not low <= number <= high:
            raise UsageError(f"must be from {low} to {high} {unit}, not {number}.")
        return number

    return read


def _choice(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise UsageError(f"must be one of {', '.join(choices)}, not {shown(value)}.")
        return str(value)

    return read


def _checked(check: Callable[[str], Any]) -> Reader:
    return lambda value: check(_text(value))


def _each(check: Callable[[str], str]) -> Callable[[Any], tuple[str, ...]]:
    return lambda value: tuple(check(_text(item)) for item in _as(list[str], value))


def _allowed_host(text: str) -> str:
    if not re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", text.lower()):
        raise UsageError(
            f"{text!r} is not a host.", hint="Write it as in the Host header: my-box.lan or my-box.lan:18188"
        )
    return text.lower()


def _allowed_origin(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", text.lower()):
        hint = "Write scheme, host and port, no path: http://localhost:5173. `null` and `*` are not origins."
        raise UsageError(f"{text!r} is not an origin.", hint=hint)
    return text.lower()


def _web_listen(text: str) -> tuple[Tcp, ...]:
    endpoints = tuple(endpoint for endpoint in parse_listen(text) if isinstance(endpoint, Tcp))
    if not endpoints:
        raise UsageError(
            "must be a port, browsers cannot use a Unix socket.", hint="For example: localhost:8000"
        )
    return endpoints


def _token(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(
            "must be a text of ASCII without blanks."
        )  # it goes into an HTTP header; never shown
    return value


TUNNEL_FIELDS: Mapping[str, Reader] = {
    "ssh": _checked(sshline.parse),
    "host": _checked(check_host),
    "port": _number(int, 1, 65_535, "(a port)"),
    "user": _checked(check_user),
    "identity_file": identity,
    "agent": agent,
    "ssh_config": lambda value: None if value == "" else _path(value),
    "known_hosts": _path,
    "host_key": _choice("accept-new", "ask", "strict"),
    "host_key_alias": _checked(check_host),
    "proxy_jump": _checked(check_jump),
    "proxy_command": _text,
    "listen": _checked(parse_listen),
    "remote": _checked(parse_endpoint),
    "keepalive_interval": _number(float, 1, 600, "seconds"),
    "hold": _number(float, 0, 600, "seconds"),
    "spares": _number(int, 0, 16, "channels"),
    "allowed_hosts": _each(_allowed_host),
    "allowed_origins": _each(_allowed_origin),
    "allow_other_users": lambda value: _as(bool, value),
}
SECTIONS: Mapping[str, Mapping[str, Reader]] = {
    "jobs": {
        "output_dir": _path,
        "max_ahead": _number(int, 0, 16, "jobs"),
        "max_waiting": _number(int, 0, 1_000_000, "jobs"),
        "time_to_start": _number(float, 0, 31_536_000, "seconds"),
        "time_to_run": _number(float, 0, 31_536_000, "seconds"),
        "move_after": _number(float, 0, 31_536_000, "seconds"),
        "forward_partner_key": lambda value: _as(bool, value),
        "max_upload_mb": _number(int, 1, 1_000_000, "megabytes"),
        "keep_jobs_days": _number(float, 0, 36_500, "days"),
        "keep_jobs_mb": _number(float, 0, 1_000_000, "megabytes"),
        "keep_outputs_days": _number(float, 0, 36_500, "days"),
        "keep_outputs_gb": _number(float, 0, 1_000_000, "gigabytes"),
    },
    "web": {"listen": _checked(_web_listen), "token": _token},
    "log": {
        "level": _choice("debug", "info", "warning", "error"),
        "format": _choice("auto", "console", "json"),
    },
}
