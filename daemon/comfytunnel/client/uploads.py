"""A file on its way to the daemon as a form, read while it is sent: the client's half of POST /api/v2/assets. It knows no socket.

Here, on the user's side, is where paths are opened; the daemon never opens one that a request names.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from comfytunnel.errors import UsageError
from comfytunnel.multipart import Envelope, envelope

CHUNK = 1 << 20  # bytes that are read at a time


@contextlib.contextmanager
def form(
    path: Path, name: str | None, content_type: str | None
) -> Iterator[tuple[Iterator[bytes], dict[str, str]]]:
    """The body and the headers of the upload of `path`, called `name` (default: its own name). UsageError if it is no file that
    can be read."""
    called = path.name if name is None else name
    kind = content_type or mimetypes.guess_type(called)[0] or "application/octet-stream"
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read: {error.strerror}.") from error
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not a file.")
        wrapped = envelope([("content_type", kind), ("file_path", called)], "file", path.name, found.st_size)
        yield _body(file, wrapped, found.st_size, path), wrapped.headers


def _body(file: BinaryIO, wrapped: Envelope, size: int, path: Path) -> Iterator[bytes]:
    """As many bytes as were announced; UsageError when the file changes meanwhile, which ends the connection and the upload."""
    yield wrapped.before
    while size > 0:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise UsageError(f"The file {path} became shorter while it was read.", hint="Try again.")
        size -= len(chunk)
        yield chunk
    yield wrapped.after
