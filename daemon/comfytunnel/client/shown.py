"""What a notebook shows of a job and of an output: a table of words that are escaped, and pictures.

The far side is not trusted: bytes are shown only as what their first bytes say they are, as PNG, JPEG, GIF or WebP, never as HTML or SVG, and
only up to a size; nothing is decoded here. All else is told by name and size.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Callable

from comfytunnel import wire
from comfytunnel.printable import printable

PICTURES_MOST = 16
BYTES_MOST = (
    8 * 2**20
)  # bytes of all pictures of one job together; a notebook's file keeps them half as large again
WORDS_MOST = 2000  # characters of one text

Fetch = Callable[[wire.Output, int], bytes | None]
"""Returns the bytes of an output if they are that many at the most; None if they are more, or cannot be had now."""

_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def picture_type(data: bytes) -> str | None:
    """Return what kind of picture the bytes begin like; None for anything that a browser is not to be given."""
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def bundle_of_output(output: wire.Output, fetch: Fetch) -> dict[str, str]:
    """Return what Jupyter takes from `_repr_mimebundle_`: base64 by media type, or HTML."""
    data = _picture(output, fetch, BYTES_MOST)
    words = {"text/plain": line_of_output(output)}
    if data is None:
        return words
    kind = picture_type(data)
    if kind in {"image/png", "image/jpeg"}:
        return {**words, kind: b64encode(data).decode()}
    return {**words, "text/html": _img(data, output)}


def html_of_job(job: wire.Job, fetch: Fetch) -> str:
    """Return the job in a few lines, with its pictures."""
    left, shown, lines = BYTES_MOST, list[str](), list[str]()
    for output in job.outputs:
        data = _picture(output, fetch, left) if len(shown) < PICTURES_MOST else None
        if data is None:
            lines.append(f"<li>{_escaped(line_of_output(output))}</li>")
        else:
            left -= len(data)
            shown.append(_img(data, output))
    told = [f"<b>{_escaped(job.status)}</b> <code>{_escaped(job.id)}</code>"]
    if job.error is not None:
        told.append(_escaped(f"{job.error.code}: {job.error.message}"))
    elif job.status not in wire.TERMINAL and job.comfytunnel is not None and job.comfytunnel.waits_for:
        told.append(_escaped(f"waits: {job.comfytunnel.waits_for.message}"))
    rest = f"<ul>{''.join(lines)}</ul>" if lines else ""
    return f"<div><p>{'<br>'.join(told)}</p>{''.join(shown)}{rest}</div>"


def line_of_output(output: wire.Output) -> str:
    return f"{printable(output.name)} ({printable(output.content_type)}, {output.size_bytes:,} bytes)"


def line_of_job(job: wire.Job) -> str:
    many = f", {len(job.outputs)} output{'s' if len(job.outputs) != 1 else ''}" if job.outputs else ""
    why = f", {printable(job.error.message)[:200]}" if job.error is not None else ""
    return f"<Job {printable(job.id)} {printable(job.status)}{many}{why}>"


def _picture(output: wire.Output, fetch: Fetch, most: int) -> bytes | None:
    if output.type != "image" or output.size_bytes > most:
        return None
    data = fetch(output, most)
    return data if data is not None and picture_type(data) is not None else None


def _img(data: bytes, output: wire.Output) -> str:
    source = f"data:{picture_type(data)};base64,{b64encode(data).decode()}"
    name = _escaped(output.name)
    return f'<img src="{source}" alt="{name}" title="{name}" style="max-width: 512px; max-height: 512px">'


def _escaped(text: str) -> str:
    return html.escape(printable(text)[:WORDS_MOST])
