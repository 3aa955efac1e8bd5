"""A config in the words of its file: the same keys, every value as one may write it there. The way back from configfields.py; `config show` prints it.

Values only, no I/O. What nothing is set to (None) is what the file leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfytunnel.config import Config
from comfytunnel.configfields import SECTIONS, TUNNEL_FIELDS
from comfytunnel.endpoints import Tcp, Unix, both_loopbacks

HIDDEN = {"web.token"}  # by dotted name: shown as set or not
STARS = "***"
_ATTRIBUTES = {"identity_file": "identity_files"}  # of the config value, where its name is another
_NOTHING: dict[str, Any] = {"ssh_config": ""}  # what the file says for None


def tables(config: Config) -> dict[str, dict[str, Any]]:
    """Return each table of the file ("tunnels.default", "jobs") with its keys. `ssh` stands there as the host, port and so on that it means."""
    found = {
        f"tunnels.{name}": _table(tunnel, [key for key in TUNNEL_FIELDS if key != "ssh"])
        for name, tunnel in config.tunnels.items()
    }
    for section, fields in SECTIONS.items():
        found[section] = _table(getattr(config, section), list(fields))
    for table, values in found.items():
        for key in values:
            if f"{table}.{key}" in HIDDEN and values[key]:
                values[key] = STARS
    return found


def _table(value: object, keys: list[str]) -> dict[str, Any]:
    return {key: _value(key, getattr(value, _ATTRIBUTES.get(key, key))) for key in keys}


def _value(key: str, value: Any) -> Any:
    match value:
        case None:
            return _NOTHING.get(key)
        case Path() | Tcp() | Unix():
            return str(value)
        case (Tcp() | Unix() as first, *_):
            both = isinstance(first, Tcp) and value == both_loopbacks(first.port)
            return f"localhost:{first.port}" if both and isinstance(first, Tcp) else str(first)
        case (Path(), *_):
            return [str(item) for item in value]
        case ():
            return None if key in ("listen", "identity_file") else []
        case tuple():
            return list(value)
    return value
