"""Where the config, the state and the control socket lie, and whether a folder is private enough to be used.

Three variables override the places: COMFYTUNNEL_CONFIG, COMFYTUNNEL_STATE_DIR, COMFYTUNNEL_SOCKET; a fourth, COMFYTUNNEL_UNIT, names the
service, so that a second one can live beside the first. A folder is made here 0700 or
left as it is; the mode and the owner of one that exists are looked at and never changed.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from comfytunnel.errors import RefusedError, StateError, UsageError

APP = "comfytunnel"
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107  # bytes; sun_path less its closing zero byte
OWN_FOLDER = (
    "Choose a folder of your own: COMFYTUNNEL_SOCKET=FOLDER/control.sock, COMFYTUNNEL_STATE_DIR=FOLDER."
)
_UNIT = re.compile(r"[A-Za-z0-9_-]{1,64}")


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return $COMFYTUNNEL_CONFIG, else config.toml in the user's config folder."""
    given = environ.get("COMFYTUNNEL_CONFIG")
    if given:
        return _absolute(given)
    base = _xdg(environ, "XDG_CONFIG_HOME")
    return (base / APP if base else Path(platformdirs.user_config_dir(APP))) / "config.toml"


def workflows_dir(config: Path) -> Path:
    """Return the folder of the workflows that have a name: beside the config file."""
    return config.parent / "workflows"


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return $COMFYTUNNEL_STATE_DIR, else the user's state folder: the job store, the outputs' index, local secrets."""
    given = environ.get("COMFYTUNNEL_STATE_DIR")
    if given:
        return _absolute(given)
    base = _xdg(environ, "XDG_STATE_HOME")
    return base / APP if base else Path(platformdirs.user_state_dir(APP))


def socket_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return $COMFYTUNNEL_SOCKET, else comfytunnel/control.sock in the run-time folder.

    Without XDG_RUNTIME_DIR (macOS, cron, su) it is `run/control.sock` in the state folder: that is the user's alone and outlives
    the cleaning of /tmp. On macOS the state folder's name is long but fits: 70 bytes and the length of the user's name.
    """
    given = environ.get("COMFYTUNNEL_SOCKET")
    if given:
        return _absolute(given)
    base = _xdg(environ, "XDG_RUNTIME_DIR")
    return (base / APP if base else state_dir(environ) / "run") / "control.sock"


def unit_name(environ: Mapping[str, str] = os.environ) -> str:
    """Return $COMFYTUNNEL_UNIT, else comfytunnel: what the service manager knows us by. UsageError for what is no plain name."""
    name = environ.get("COMFYTUNNEL_UNIT") or APP
    if not _UNIT.fullmatch(name):
        raise UsageError(
            f"COMFYTUNNEL_UNIT={name!r} is no name for a service.", hint="Use letters, digits, - and _."
        )
    return name


def has_service(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether systemd knows our unit for this user: its file lies in one of the folders of systemd.unit(5)."""
    home = Path("~").expanduser()
    folders = [
        _xdg(environ, "XDG_CONFIG_HOME") or home / ".config",
        _xdg(environ, "XDG_DATA_HOME") or home / ".local" / "share",
        *(Path(folder) for folder in ("/etc", "/usr/local/lib", "/usr/lib")),
    ]
    unit = f"{unit_name(environ)}.service"
    return any(os.access(folder / "systemd" / "user" / unit, os.F_OK) for folder in folders)


def check_socket_path(path: Path) -> None:
    """Raise UsageError when the kernel could not bind a socket at this path."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise UsageError(
            f"The path of the socket is {length} bytes long and this system takes {SOCKET_PATH_LIMIT}: {path}",
            hint="Set COMFYTUNNEL_SOCKET to a shorter path, in the daemon's and in your own environment.",
        )


def make_private_folder(path: Path) -> Path:
    """Make the folder (and its missing parents) 0700 and return it; one that exists is checked and never changed.

    RefusedError when others may write it or another user owns it, even if it is sticky: in a sticky folder anyone can put a socket
    of that name first. StateError when it cannot be made.
    """
    try:
        for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateError(
            f"The folder {path} cannot be made: {error.strerror}.",
            hint="Check the permissions of the folder above it.",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a folder.", hint="Move it away, or choose another place.")
    if found.st_uid != os.geteuid():
        raise RefusedError(
            f"The folder {path} belongs to another user (uid {found.st_uid}).",
            hint=OWN_FOLDER,
        )
    if found.st_mode & 0o022:
        shared = (
            found.st_mode & stat.S_ISVTX
        )  # meant for everybody, as /tmp is: to close it would break other programs
        raise RefusedError(
            f"Others may write the folder {path} (mode {stat.S_IMODE(found.st_mode):04o}).",
            hint=OWN_FOLDER if shared else f"Run: chmod go-w {path}",
        )
    return path


def _absolute(given: str) -> Path:
    return Path(given).expanduser().absolute()


def _xdg(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the folder an XDG variable names; a relative one counts as unset, as the XDG specification asks."""
    given = environ.get(name, "")
    return Path(given) if Path(given).is_absolute() else None
