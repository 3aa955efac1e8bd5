"""Pictures as bytes: the PNG that lies on disk with the workflow in it, and what goes over the websocket.

Which name a file gets is said in folders.py, what a frame carries beside the picture in engine.py.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo


def save(
    image: Image.Image, path: Path, told: Iterable[tuple[str, Any]], *, padding: int, level: int
) -> None:
    """Write a PNG that carries `told`, as ComfyUI's carry their workflow, and `padding` bytes of noise; `level` of compression, 0 to 9."""
    info = PngInfo()
    for key, value in told:
        info.add_text(key, json.dumps(value))
    if padding:
        info.add(b"paDd", os.urandom(padding))
    image.save(path, pnginfo=info, compress_level=level)


def png(image: Image.Image) -> bytes:
    """What SaveImageWebsocket sends."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, longest: int = 512) -> bytes:
    """A preview frame's picture: JPEG, at most `longest` pixels a side."""
    small = ImageOps.contain(image, (longest, longest)) if max(image.size) > longest else image
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()
