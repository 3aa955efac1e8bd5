"""The walks are not blind: with a program that is broken on purpose some of them fail."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

import pytest

from comfytunnel.jobs import verdict
from comfytunnel.jobs.run import Run
from tests.walks.walking import walk

# A walk that fails closes nothing; what it leaves is collected when it is, and that is not what is asked here.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TWICE = r"was run \d times"

BREAKS: dict[str, tuple[object, str, str, Sequence[int], str]] = {
    "does not wait for the settle time": (Run._resolve, "self.settings.settle", "0.0", range(150, 280), TWICE),
    "submits again without looking": (Run._submit, "        self._place.doubted()\n        return\n", "        after = not_given(self.job, self._now())\n", range(60), TWICE),
    "does not count a loss": (verdict.lost, "losses = job.losses + 1", "losses = job.losses", range(60), TWICE),
    "believes one look": (verdict.decide, "if settled else None", "if True else None", range(60), "lost_unproven|" + TWICE),
}  # fmt: skip
"""The function, what is broken in it, the walks of which one at least must fail (it is found within the first few dozens), and what that one says."""


@pytest.mark.parametrize("name", BREAKS)
def test_a_walk_notices_a_program_that(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path
) -> None:
    """The code of one function is replaced, so that all who call it get the broken one."""
    function, sound, broken, seeds, said = BREAKS[name]
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function))
    assert sound in source, "it has been rewritten: break it in its new words"
    scope = dict(function.__globals__)
    exec(compile(source.replace(sound, broken), "<broken>", "exec"), scope)
    monkeypatch.setattr(function, "__code__", scope[function.__name__].__code__)
    with pytest.raises(AssertionError, match=said):
        _walk(seeds, tmp_path, template)


def _walk(seeds: Sequence[int], tmp_path: Path, template: Path) -> None:
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(folder, template, seed, late=5.0)
        shutil.rmtree(folder)
