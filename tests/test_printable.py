"""Text of the far side on a terminal: nothing in it may be obeyed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.printable import printable


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain", "plain"),
        ("grün 漢字 🙂", "grün 漢字 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq payload \x1b\\after", "after"),
        ("\x1b]0;never ends", ""),
        ("\x1b]0;broken off\x1b[31mred", "red"),
        ("a\rb\x08\x7f\x00c", "abc"),
        ("exe.\u202egnp", "exe.gnp"),
        ("one\ntwo\tthree", "one two three"),
        ("\x1bc", ""),
        ("\ud800", ""),
    ],
)
def test_escapes_and_controls_vanish(given_text: str, shown: str) -> None:
    assert printable(given_text) == shown


def test_lines_stay_where_they_mean_something() -> None:
    assert printable("a\r\nb\n\tc\x1b[2J", lines=True) == "a\nb\n\tc"


@pytest.mark.timeout(5)
@pytest.mark.parametrize("part", ["\x9d", "\x1b]", "\x1bP", "\x9b", "\x1b[", "\x1b[0;", "\x9b0 ", "\x1b "])
@pytest.mark.parametrize("end", ["", "\x1b", "\x1b["])
def test_a_long_text_takes_no_longer_than_it_is_long(part: str, end: str) -> None:
    """A server may send it before its host key is judged. Linear: 0.2 s; quadratic: minutes."""
    assert printable(part * 200_000 + end).strip("0; ") == ""


@given(st.text())
def test_no_control_character_ever_passes(text: str) -> None:
    shown = printable(text)
    assert not [char for char in shown if unicodedata.category(char) in {"Cc", "Cs"}]
    assert printable(shown) == shown
