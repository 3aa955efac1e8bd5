"""`--input NODE.INPUT=FILE` of `run` and `submit`: the file is uploaded, and the workflow means it from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from comfytunnel.client import Client
from comfytunnel.errors import UsageError

Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NODE.INPUT=FILE", help="Upload FILE and use it there; again for more."),
]


def with_files(client: Client, workflow: dict[str, Any], given: list[str] | None) -> dict[str, Any]:
    """Set each of `given` in the workflow, after all of them have been looked at. UsageError says what does not fit."""
    wanted = [_read(workflow, text) for text in given or []]
    for inputs, name, path in wanted:
        asset = client.upload(path)
        inputs[name] = {
            "__type": "core/ASSET",
            "info": {"id": asset.id, "hash": asset.hash, "file_path": asset.file_path},
        }
    return workflow


def _read(workflow: dict[str, Any], text: str) -> tuple[dict[str, Any], str, Path]:
    """The inputs of the node, the name of the input, the file. A node's id may hold dots, an input's name may not."""
    where, equals, file = text.partition("=")
    node_id, dot, name = where.rpartition(".")
    if not (equals and dot and node_id and name and file):
        raise UsageError(
            f"--input {text!r} does not fit.", hint="Write it as NODE.INPUT=FILE: 10.image=photo.png"
        )
    node = workflow.get(node_id)
    inputs = node.setdefault("inputs", {}) if isinstance(node, dict) else None
    if not isinstance(inputs, dict):
        known = ", ".join(list(workflow)[:20])
        raise UsageError(f"--input {text!r}: the workflow has no node {node_id!r}.", hint=f"It has {known}.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"--input {text!r}: there is no file {path}.")
    return inputs, name, path
