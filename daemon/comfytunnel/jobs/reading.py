"""ComfyUI's words about one prompt -> the words of the jobs room. Pure."""

from __future__ import annotations

from typing import Any

from comfytunnel.comfy.shapes import History, NodeFailure, Outcome, read_rejection
from comfytunnel.jobs import outputs
from comfytunnel.jobs.model import Failure
from comfytunnel.jobs.verdict import Look, Seen


def judged(entry: History) -> Look:
    """A prompt that stands in the history."""
    if entry.outcome is Outcome.SUCCESS:
        wanted = outputs.wanted_from(entry)
        return Look(Seen.SUCCEEDED, entry.prompt_id, wanted=wanted, finished=entry.finished)
    if entry.outcome is Outcome.INTERRUPTED:
        return Look(Seen.INTERRUPTED, entry.prompt_id)
    assert entry.failure is not None
    return Look(Seen.FAILED, entry.prompt_id, _failure("node_execution_error", entry.failure))


def rejected(body: Any) -> Failure:
    """The body of a 400 to POST /prompt."""
    return _failure("invalid_workflow", read_rejection(body))


def _failure(code: str, said: NodeFailure) -> Failure:
    return Failure(code, said.message, said.node_id, said.class_type, said.traceback)
