"""The folders that a config lets the daemon write to: which they are, and which of them it may not write to where it runs. Writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from comfytunnel.config import Config
from comfytunnel.endpoints import Unix

AGAIN = "A service may write only where `comfytunnel install` was told: run it again."


def writable(config: Config, state_dir: Path) -> tuple[Path, ...]:
    """Links are followed, since a confinement looks at what they lead to."""
    found = [state_dir, config.jobs.output_dir]
    for tunnel in config.tunnels.values():
        found += [tunnel.known_hosts.parent, tunnel.known_hosts.resolve().parent]
        found += [each.path.parent for each in tunnel.listen if isinstance(each, Unix)]
    return tuple(dict.fromkeys(path.resolve() for path in found))


def read_only(config: Config, state_dir: Path) -> list[Path]:
    """Those that lie, or would be made, where everything is read-only to this process: outside of what its unit allows, as a rule."""
    return [path for path in writable(config, state_dir) if _read_only(path)]


def _read_only(path: Path) -> bool:
    for each in (path, *path.parents):
        try:
            return bool(os.statvfs(each).f_flag & os.ST_RDONLY)
        except FileNotFoundError:
            continue
        except OSError:  # what else is wrong with it is told by whoever writes there
            return False
    return False
