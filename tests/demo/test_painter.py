"""The stand-in's sampler: what a picture depends on."""

from __future__ import annotations

from comfytunnel.demo.painter import paint, unfinished


def test_prompt_and_seed_make_the_picture_and_nothing_else_does() -> None:
    first = paint("hills at dusk", 7, 96, 64)
    assert first.size == (96, 64)
    assert paint("hills at dusk", 7, 96, 64).tobytes() == first.tobytes()
    assert paint("hills at dusk", 8, 96, 64).tobytes() != first.tobytes()
    assert paint("hills at night", 7, 96, 64).tobytes() != first.tobytes()


def test_the_last_preview_is_the_picture() -> None:
    picture = paint("the sea", 2**64 - 1, 64, 64)
    assert unfinished(picture, 0.5).tobytes() != picture.tobytes()
    assert unfinished(picture, 1.0).tobytes() == picture.tobytes()
