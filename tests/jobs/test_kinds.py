"""Which of a history's entries are outputs: files under any key, and texts."""

from __future__ import annotations

import pytest

from comfytunnel.comfy.shapes import read_history
from comfytunnel.jobs.outputs import wanted_from


@pytest.mark.parametrize(
    ("group", "filename", "kind"),
    [
        ("images", "a.png", "image"),
        ("gifs", "a.mp4", "video"),
        ("audio", "a.flac", "audio"),
        ("3d", "a.glb", "file"),
        ("latents", "a.latent", "latent"),
        ("whatever", "a.bin", "file"),
    ],
)
def test_a_file_is_an_output_whatever_its_key(group: str, filename: str, kind: str) -> None:
    outputs = {"9": {group: [{"filename": filename, "subfolder": "s", "type": "output"}], "animated": [True]}}
    entry = read_history({"x": {"outputs": outputs, "status": {"status_str": "success"}}})["x"]
    assert [(wanted.filename, wanted.kind) for wanted in wanted_from(entry)] == [(filename, kind)]


def test_a_text_is_an_output() -> None:
    entry = read_history({"x": {"outputs": {"9": {"text": ["hello", 7, "there"]}}}})["x"]
    assert [(wanted.kind, wanted.text) for wanted in wanted_from(entry)] == [("text", "hello\nthere")]
