"""The live view on terminals of any width, drawn without one; on a terminal it is seen in test_run.py."""

from __future__ import annotations

import io
import itertools
import re

import msgspec
import pytest
from rich.console import Console

from comfytunnel import wire
from comfytunnel.cli.bars import BarView
from tests.cli.test_run import waiting_job


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("many", [1, 2])
def test_a_long_title_gives_way_to_the_figures(
    monkeypatch: pytest.MonkeyPatch, width: int, many: int
) -> None:
    """A node may be called anything: how far a job is and how long it takes yet can be read all the same."""
    monkeypatch.setenv("COLUMNS", str(width))
    jobs = [msgspec.structs.replace(waiting_job(), id=f"{number}bcdef00") for number in range(many)]
    seconds = itertools.count()
    view = BarView(jobs, now=lambda: float(next(seconds)))
    view.show(jobs[0].id, wire.StatusEvent("running", None, None))
    for step in (5, 10):
        view.show(jobs[0].id, wire.Progress(0.5, 1, 3, "2", "K", step, 20, f"{'A title, ' * 20}{step}/20"))
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as shown:
        console.print(view.draw())
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert re.search(r" 0:0\d$", lines[0]), lines
    for words in ("50%", " left", "A tit", "…"):
        assert words in "\n".join(lines), lines
