"""What `run` and `submit` change in a workflow before it goes: values (`--set`), files (`--input`), seeds, repeats and variations.

All that was typed is looked at before the first file is uploaded: a slip costs nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfytunnel.cli import exits
from comfytunnel.client import Client
from comfytunnel.errors import UsageError
from comfytunnel.workflow.select import Target, find, find_file, put, read_assignment, read_value
from comfytunnel.workflow.vary import MAX_SEED, Variant, read_seed, read_variation, seeds, variants


@dataclass(frozen=True)
class Changes:
    """What was asked for, as it was typed."""

    sets: Sequence[str] = ()
    files: Sequence[str] = ()
    seed: str | None = None
    repeat: int = 1
    vary: Sequence[str] = ()


def changed(
    client: Client, workflow: dict[str, Any], asked: Changes, kept: Collection[Target]
) -> Iterator[Variant]:
    """Return each workflow to submit. `kept`: inputs that were set before. UsageError says what does not fit; then nothing has been uploaded."""
    kept = set(kept)
    for text in asked.sets:
        given = read_assignment("--set", text, "NODE.INPUT=VALUE")
        target = find(workflow, given.where, new=given.exact)
        put(workflow, target, read_value(workflow, target, given))
        kept.add(target)
    files = [_file(workflow, text) for text in asked.files]
    variations = [
        read_variation(workflow, read_assignment("--vary", text, "NODE.INPUT=A,B,...")) for text in asked.vary
    ]
    seed = None if asked.seed is None else read_seed(asked.seed)
    found = variants(
        workflow,
        variations,
        seed=seed,
        repeat=asked.repeat,
        kept=kept,
        draw=lambda: secrets.randbelow(MAX_SEED),
    )
    if asked.repeat > 1 and seed is None and not seeds(workflow):
        exits.say(f"note: no seed was found in the workflow, so that its {asked.repeat} runs are alike")
    for target, path in files:
        asset = client.upload(path)
        info = {"id": asset.id, "hash": asset.hash, "file_path": asset.file_path}
        put(workflow, target, {"__type": "core/ASSET", "info": info})
    return found


def _file(workflow: dict[str, Any], text: str) -> tuple[Target, Path]:
    where, equals, file = text.partition("=")
    if not (equals and where and file):
        raise UsageError(
            f"--input {text!r} does not fit.", hint="Write it as NODE.INPUT=FILE: 10.image=photo.png"
        )
    try:
        target = find_file(workflow, where)
    except UsageError as error:
        raise UsageError(f"--input {text!r}: {error.message}", hint=error.hint) from error
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"--input {text!r}: there is no file {path}.")
    return target, path
