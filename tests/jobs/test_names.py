"""Names from the far side become one visible, ordinary file name, whatever they were."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.jobs.names import NAME_BYTES, content_type, kind, numbered, safe_name

NASTY = st.text(
    st.sampled_from(list('ab.-_ /\\:*?"<>|~$\0\n\r\x1b\u202e\u200b\u0301\u00e9\ud800\ufeffＡ😀CONcon'))
)


@given(st.one_of(st.text(), NASTY, st.text(min_size=180, max_size=600)))
def test_a_name_is_never_a_path_hidden_reserved_or_too_long(given_name: str) -> None:
    name = safe_name(given_name)
    assert name
    assert len(name.encode()) <= NAME_BYTES
    assert PurePosixPath(name).name == PureWindowsPath(name).name == name
    assert name not in (".", "..")
    assert not name.startswith((".", "-", " "))
    assert not name.endswith((".", " "))
    assert name == unicodedata.normalize("NFC", name)
    assert not any(unicodedata.category(c).startswith("C") for c in name)
    assert not set(name) & set('<>:"/\\|?*')
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(st.one_of(st.text(), NASTY))
def test_a_safe_name_stays_as_it_is(given_name: str) -> None:
    assert safe_name(safe_name(given_name)) == safe_name(given_name)


@given(NASTY, st.integers(2, 99_999))
def test_a_numbered_name_fits_and_is_another_one(given_name: str, number: int) -> None:
    name = safe_name(given_name)
    assert numbered(name, number) != name
    assert len(numbered(name, number).encode()) <= 255
    assert content_type(numbered(name, number)) == content_type(name)


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("ComfyUI_00001_.png", "ComfyUI_00001_.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\evil.png", "evil.png"),
        ("C:\\evil.png", "evil.png"),
        ("/etc/cron.d/x", "x"),
        (".bashrc", "bashrc"),
        ("-rf.png", "rf.png"),
        ("nul", "_nul"),
        ("NUL.png", "_NUL.png"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a\x1b[2Jb.png", "a[2Jb.png"),
        ("..", "output"),
        ("", "output"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("e" * 5000 + ".png", "e" * 196 + ".png"),
    ],
)
def test_known_tricks(given_name: str, name: str) -> None:
    assert safe_name(given_name) == name


def test_kinds_follow_the_extension() -> None:
    assert [
        kind(f"x{end}", "images") for end in (".png", ".MP4", ".flac", ".txt", ".glb", ".latent", "")
    ] == [
        "image",
        "video",
        "audio",
        "text",
        "file",
        "latent",
        "file",
    ]
