"""Names from the far side -> names that are safe on this machine. Pure.

ComfyUI names its outputs, and ComfyUI is not trusted: what comes out of here is one visible, ordinary file name, never a path, on every
system that we run on. Subfolders are dropped: all files of a day lie side by side in one folder.
"""

from __future__ import annotations

import re
import unicodedata

from comfytunnel.words import OutputKind

NAME_BYTES = 200
"""UTF-8 bytes of a name; file systems allow 255, and " (12345)" must still fit."""
SUFFIX_BYTES = 16
"""A longer "extension" is part of a sentence, not an extension."""
FALLBACK = "output"
MANIFEST = "comfytunnel-"
"""What the files begin with that we write beside the outputs (manifest.py)."""

_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?\Z")
_DROPPED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_FORBIDDEN = re.compile(r'[<>:"|?*]')

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".exr": "image/x-exr",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".srt": "text/plain",
    ".json": "application/json",
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".zip": "application/zip",
}
"""Our own table: the system's differs from machine to machine, and the server's word is not taken."""


def safe_name(filename: str) -> str:
    """A visible file name for `filename`: its last component, NFC, without control, formatting and reserved characters, leading
    dots and dashes, at most NAME_BYTES long. Names of Windows devices and of our own files get an underscore. Never empty."""
    text = unicodedata.normalize("NFC", filename[-4096:])
    text = "".join(c for c in text if unicodedata.category(c) not in _DROPPED)
    text = re.split(r"[/\\]", text)[-1]
    text = _FORBIDDEN.sub("_", text)
    text = _trim(text)
    if _RESERVED.match(text) or text.casefold().startswith(MANIFEST):
        text = f"_{text}"
    text = _shortened(text)
    return text or FALLBACK


def _trim(text: str) -> str:
    """No leading dot (hidden), dash (an option) or space; no trailing dot or space."""
    return re.sub(r"\A[\s.\-]+|[\s.]+\Z", "", text)


def _shortened(text: str) -> str:
    stem, suffix = split(text)
    room = NAME_BYTES - len(suffix.encode())
    while len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore")
    return _trim(unicodedata.normalize("NFC", stem + suffix))


def split(name: str) -> tuple[str, str]:
    """Stem and extension (with its dot, "" if there is none that is short enough)."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem or not suffix or len(suffix.encode()) >= SUFFIX_BYTES:
        return name, ""
    return stem, f".{suffix}"


def numbered(name: str, number: int) -> str:
    """`name` for the first, then "name (2)", "name (3)" before the extension."""
    if number == 1:
        return name
    stem, suffix = split(name)
    return f"{stem} ({number}){suffix}"


def content_type(name: str) -> str:
    return TYPES.get(split(name)[1].lower(), "application/octet-stream")


_MEDIA: tuple[OutputKind, ...] = ("image", "video", "audio", "text")


def kind(name: str, group: str) -> OutputKind:
    """What the file is, by its extension; `group` is ComfyUI's key ("latents")."""
    main = content_type(name).partition("/")[0]
    for media in _MEDIA:
        if main == media:
            return media
    return "latent" if group == "latents" or split(name)[1].lower() == ".latent" else "file"
