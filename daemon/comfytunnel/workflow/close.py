"""Which of the names that are there somebody may have meant. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LIKENESS = 0.8
"""Of 1, as difflib counts. Below it there are other words rather than misspelt ones: "KSampler" and "SamplerLCM" have 0.67."""
MAX_WORD = 200
"""Characters; a longer word is nobody's name, and comparing takes the product of both lengths."""
MAX_NAMES = 20_000

_OTHER = re.compile(r"[^a-z0-9]")


def close_matches(word: str, among: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """The closest first. Case, spaces and punctuation do not count, nor does the folder of a file: "Load Image" is "LoadImage", and "XL.safetensors"
    is "sdxl/xl.safetensors"."""
    if not word or len(word) > MAX_WORD:
        return ()
    bare: dict[str, list[str]] = {}
    for _, name in zip(range(MAX_NAMES), among, strict=False):
        if len(name) <= MAX_WORD:
            bare.setdefault(_bare(name), []).append(name)
    wanted = _bare(word)
    found = bare.get(wanted, [])
    if not found:
        alike = difflib.get_close_matches(wanted, bare, most, LIKENESS)
        found = [name for each in alike for name in bare[each]]
    return tuple(found[:most])


def _bare(name: str) -> str:
    last = re.split(r"[/\\]", name)[-1] or name
    return _OTHER.sub("", last.lower()) or last
