"""Pictures in a terminal: whether it can show them, what it is sent, and what is never sent."""

from __future__ import annotations

import base64
import io
import re
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from comfytunnel.cli.pictures import picture, way
from comfytunnel.cli.sixel import sixels
from comfytunnel.errors import UsageError
from tests.api.conftest import Api
from tests.cli.conftest import Cli, on_terminal

CELLS, CELL = (20, 10), (10, 20)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = Image.new("RGB", (640, 480), (200, 30, 30))
    image.paste((10, 200, 40), (100, 100, 400, 300))
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("environ", "answer", "found"),
    [
        ({"TERM": "xterm-kitty"}, b"", "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, b"", "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, b"", "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, b"", "iterm"),
        ({"TERM": "xterm"}, b"\x1b[?62;4;6c", "sixel"),
        ({"TERM": "xterm"}, b"\x1b[?64;1;44c", "never"),
        ({"TERM": "xterm"}, b"\x1b[?4c", "never"),  # a VT132, not a sixel terminal
        ({"TERM": "xterm"}, b"ls\n", "never"),
        ({"TERM": "tmux-256color", "TMUX": "/x", "KITTY_WINDOW_ID": "1"}, b"\x1b[?62;4c", "never"),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, b"\x1b[?62;4c", "never"),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, b"", "never"),
        ({}, b"\x1b[?62;4c", "never"),
        ({"TERM": "xterm", "COMFYTUNNEL_PICTURES": "kitty"}, b"", "kitty"),
        ({"TERM": "xterm-kitty", "COMFYTUNNEL_PICTURES": "never"}, b"", "never"),
    ],
)
def test_a_terminal_is_believed_what_it_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], answer: bytes, found: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert way(None, lambda: answer, environ) == found


def test_a_pipe_gets_no_picture_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert way("kitty", lambda: b"\x1b[?62;4c", {"TERM": "xterm-kitty"}) == "never"
    with pytest.raises(UsageError, match="kity"):
        way("kity", environ={"TERM": "xterm"})


def test_sixels_are_the_picture() -> None:
    """Decoded again, as a terminal does it: each pixel has the colour that it had, as far as a hundred levels tell."""
    image = Image.new("RGB", (33, 20), (255, 0, 0))
    image.paste((0, 0, 255), (5, 3, 30, 11))
    image.putpixel((32, 19), (0, 255, 0))
    text = sixels(image)
    assert text.startswith('\x1bPq"1;1;33;20')
    assert decoded(text, 33, 20) == [image.getpixel((x, y)) for y in range(20) for x in range(33)]


def decoded(text: str, width: int, height: int) -> list[object]:
    pixels: dict[tuple[int, int], object] = {}
    palette: dict[int, object] = {}
    x = top = 0
    colour: object = None
    body = text.removeprefix(f'\x1bPq"1;1;{width};{height}').removesuffix("\x1b\\")
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+.|[$-]|[?-~]", body):
        if token[0] == "#" and ";" in token:
            number, _, *levels = map(int, token[1:].split(";"))
            palette[number] = tuple(round(level * 255 / 100) for level in levels)
        elif token[0] == "#":
            colour = palette[int(token[1:])]
        elif token == "$":
            x = 0
        elif token == "-":
            x, top = 0, top + 6
        else:
            times = int(token[1:-1]) if token[0] == "!" else 1
            rows = [top + bit for bit in range(6) if (ord(token[-1]) - 63) >> bit & 1]
            pixels.update({(column, row): colour for column in range(x, x + times) for row in rows})
            x += times
    return [pixels[x, y] for y in range(height) for x in range(width)]


def test_kitty_gets_chunks_of_a_small_png(photo: Path) -> None:
    text = picture(photo, "kitty", CELLS, CELL)
    assert text is not None
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{head};{data}\x1b\\" for head, data in chunks) == text, "nothing but that"
    assert chunks[0][0].startswith("a=T,f=100,q=2,c=20,r=8,")
    assert all(len(data) <= 4096 for _, data in chunks)
    assert [head[-1] for head, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    drawn = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks))))
    assert drawn.size == (200, 150)


def test_iterm_gets_a_file_and_its_size(photo: Path) -> None:
    text = picture(photo, "iterm", CELLS, CELL)
    assert text is not None
    head, _, data = text.removeprefix("\x1b]1337;File=").removesuffix("\x07").partition(":")
    assert f"size={len(base64.b64decode(data))};width=20;height=8" in head


def test_a_small_picture_is_not_made_larger(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "dot.png")
    text = picture(tmp_path / "dot.png", "sixel", CELLS, CELL)
    assert text is not None
    assert '"1;1;16;16' in text


def test_what_is_no_picture_within_the_limits_is_left_out(tmp_path: Path) -> None:
    """A bomb, half a file, another kind of file, a folder, nothing: no error, no warning, no bytes."""
    (tmp_path / "text.png").write_text("\x1b]0;owned\x07")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "run.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("text.png", "bomb.png", "half.png", "run.eps", "", "absent.png"):
            assert picture(tmp_path / name, "sixel", CELLS, CELL) is None, name


async def a_job_with(api: Api, path: Path) -> str:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    await api.scheduler.output(job_id, path)
    await api.scheduler.succeed(job_id)
    return job_id


async def test_a_terminal_that_says_that_it_can_gets_the_picture(api: Api, cli: Cli, photo: Path) -> None:
    """After `jobs wait` and `jobs show`; the terminal's answer is not echoed, and typing works as before."""
    job_id = await a_job_with(api, photo)
    for command in ("wait", "show"):
        async with on_terminal(cli, "jobs", command, job_id, whole=True) as (terminal, process):
            await terminal.until("\x1b[c")
            terminal.type("\x1b[?62;4;22c")
            shown = await terminal.rest()
            assert await process.wait() == 0
        assert str(photo) in shown
        assert '\x1bPq"1;1;' in shown
        assert "62;4;22c" not in shown


async def test_one_that_says_nothing_gets_the_path_alone(api: Api, cli: Cli, photo: Path) -> None:
    job_id = await a_job_with(api, photo)
    async with on_terminal(cli, "jobs", "wait", job_id, whole=True) as (terminal, process):
        assert str(photo) in await terminal.rest()
        assert await process.wait() == 0
    assert "\x1bPq" not in terminal.shown
    async with on_terminal(cli, "jobs", "show", job_id, "--pictures", "never", whole=True) as (terminal, _):
        assert "\x1b" not in await terminal.rest(), "nor is it asked"
    assert "\x1b" not in (await cli("jobs", "show", job_id, "--pictures", "kitty")).out
    assert "Did you mean `kitty`?" in (await cli("jobs", "wait", job_id, "--pictures", "kity")).err
