"""Which private keys are offered: named files are checked before anything is sent, so that a bad one has its own cause.

Without named files asyncssh does what ssh would try: IdentityFile of ssh_config, the default names, the agent. An encrypted
file needs the agent: the daemon has nobody to ask for a passphrase, and keeps none. What was offered is told in the words that a
person can compare with a console: fingerprint, and where the key is from.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code

# asyncssh has one error for all that is wrong with a key, and tells this case by its text itself.
_ENCRYPTED = "Passphrase must be specified"

OFFERS_SHOWN = 6  # as many as sshd lets pass by default (MaxAuthTries)
COMMENT_LIMIT = 60  # characters; an agent's comments may be anything


def check(files: Sequence[Path], *, has_agent: bool) -> list[str]:
    """The paths that asyncssh may load, in order; encrypted ones are left to the agent. Blocks on the disk.

    Raises LinkError (key_unreadable) for a file that is missing, that others may read, that is no key, or that is encrypted
    while there is no agent.
    """
    return [str(path) for path in files if not _is_encrypted(path, has_agent=has_agent)]


def there(names: Sequence[str]) -> list[str]:
    """Of the files that ssh_config names, those that exist, or whose public half does: ssh passes over the others without a word."""
    return [name for name in names if any(Path(f"{name}{end}").expanduser().exists() for end in ("", ".pub"))]


def _is_encrypted(path: Path, *, has_agent: bool) -> bool:
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not _is_credential(path):
            raise _unreadable(
                f"others may read {path} (mode {stat.S_IMODE(mode):04o}), so ssh and we refuse it.",
                f"chmod 600 {path}",
            )
        asyncssh.read_private_key(path)
    except OSError as error:
        raise _unreadable(f"{path}: {error.strerror}.", "Name the right file in `identity_file`.") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        if _ENCRYPTED in str(error):
            if has_agent:
                return True
            raise _unreadable(
                f"{path} is encrypted and there is no agent.",
                "Load it with ssh-add and give the agent's socket as `agent`, or make a key without a passphrase.",
            ) from error
        raise _unreadable(f"{path} is not a private key: {error}.", "Name the file without .pub.") from error
    return False


def _is_credential(path: Path) -> bool:
    """Whether systemd handed us this file (LoadCredential=): it is ours alone, and its mode shows the mask of an access list."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and path.parent == Path(str(folder))


def _unreadable(detail: str, advice: str) -> LinkError:
    return LinkError(Cause(Code.KEY_UNREADABLE, detail, advice))


def offered(pairs: Sequence[asyncssh.SSHKeyPair]) -> str:
    """The keys in the order in which they were offered, OFFERS_SHOWN at most: "SHA256:... (path or agent's comment), ..."."""
    shown = list(dict.fromkeys(map(_words, pairs)))  # an RSA certificate is offered under several algorithms
    more = [f"and {len(shown) - OFFERS_SHOWN} more"] if len(shown) > OFFERS_SHOWN else []
    return ", ".join(shown[:OFFERS_SHOWN] + more)


def public_half(pair: asyncssh.SSHKeyPair) -> str:
    """Where a person finds the public half of a key, in words. Looks for a file."""
    if pair.get_key_type() == "agent":
        return "`ssh-add -L` shows it"
    path = _origin(pair)
    if not path:
        return "the .pub file beside `identity_file`"
    public = path if path.endswith(".pub") else f"{path}.pub"
    return public if Path(public).exists() else f"`ssh-keygen -y -f {path}` prints it"


def _words(pair: asyncssh.SSHKeyPair) -> str:
    digest = base64.b64encode(hashlib.sha256(pair.key_public_data).digest()).decode().rstrip("=")
    comment = pair.get_comment(errors="replace") or ""
    if pair.get_key_type() == "agent":
        return f"SHA256:{digest} (agent{f', {comment[:COMMENT_LIMIT]}' if comment else ''})"
    return f"SHA256:{digest} ({_origin(pair) or comment[:COMMENT_LIMIT]})"


def _origin(pair: asyncssh.SSHKeyPair) -> str:
    """The path of the file that a key is from."""
    pair.set_comment(None)  # a comment hides the path; nobody else reads it
    return pair.get_comment(errors="replace") or ""
