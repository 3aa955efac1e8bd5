"""What a client may say of a file: its type, its name, its tags, how long it is kept, its hash. Checked here, once; pure.

The name is a label: it is shown, and compared with the texts of a workflow. It never becomes a path on this machine.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import msgspec

from comfytunnel.errors import UsageError
from comfytunnel.jobs.references import MAX_NAME

_HASH = re.compile(r"blake3:([0-9a-f]{64})")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner says of a file. Read with `about`."""

    content_type: str | None = None
    file_path: str | None = None
    tags: tuple[str, ...] = ()
    expires_at: datetime | None = None


def too_large(most: int) -> UsageError:
    return UsageError(
        f"The file is larger than {most / 1e6:g} MB, the most that is kept.",
        hint="Set [jobs] max_upload_mb higher. ComfyUI takes 100 MB unless it was started with a larger --max-upload-size.",
        code="file_too_large",
    )


def digest_of(given: str) -> str | None:
    """The hex digest in "blake3:<hex>", None if it is not that."""
    found = _HASH.fullmatch(given)
    return found[1] if found else None


def about(
    content_type: str | None,
    file_path: str | None,
    tags: tuple[str, ...],
    expires_in: int | None,
    now: datetime,
) -> About:
    """Check what a client says of a file; UsageError says what does not fit, with its `path`."""
    kind = None if content_type is None else content_type.partition(";")[0].strip().lower()
    if kind is not None and not _TYPE.fullmatch(kind):
        raise _unfit("content_type", "must be a media type, such as image/png")
    if file_path is not None:
        parts = re.split(r"[/\\]", file_path)
        if not 0 < len(file_path) <= MAX_NAME or not file_path.isprintable():
            raise _unfit("file_path", f"must be a printable text of 1 to {MAX_NAME} characters")
        if parts[0] == "" or ".." in parts:
            raise _unfit("file_path", "must be a name such as photo.png: not absolute, and without `..`")
    if len(tags) > 64 or any(not tag.isprintable() or not 0 < len(tag) <= 100 for tag in tags):
        raise _unfit("tags", "must be at most 64 printable texts of 1 to 100 characters")
    if expires_in is not None and not 60 <= expires_in <= 604_800:
        raise _unfit("expires_in", "must be from 60 to 604800 seconds")
    until = None if expires_in is None else now + timedelta(seconds=expires_in)
    return About(content_type=kind, file_path=file_path, tags=tags, expires_at=until)


def _unfit(field: str, why: str) -> UsageError:
    return UsageError(f"{field} {why}.", details={"path": f"$.{field}"})
