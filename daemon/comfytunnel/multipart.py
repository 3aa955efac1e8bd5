"""The bytes around one file in a multipart/form-data body (RFC 7578), for whoever sends a file without holding it in memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

_UNSAFE = re.compile(r'["\r\n]')


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands before and after the file's bytes, and the two headers of the request. `size`: bytes of the file."""

    before: bytes
    after: bytes
    headers: dict[str, str]


def envelope(fields: Sequence[tuple[str, str]], name: str, filename: str, size: int) -> Envelope:
    """A form with `fields` (name, text) and, last, the file `filename` as the field `name`."""
    boundary = f"comfytunnel-{uuid4().hex}"  # 128 random bits: not to be found in a file by chance
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(key)}"\r\n\r\n{text}\r\n'
        for key, text in fields
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"; filename="{_quoted(filename)}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    before, after = "".join(parts).encode("utf-8", "replace"), f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(before) + size + len(after)),
    }
    return Envelope(before, after, headers)


def _quoted(text: str) -> str:
    """As browsers do: a quote or a line's end would end the header."""
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)
