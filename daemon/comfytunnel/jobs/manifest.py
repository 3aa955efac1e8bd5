"""What stands beside a job's outputs: how they were made and what they must be, as one JSON file for each job.

Its name is one that no output can get (names.py), so it is written whole and put in place at once, over an earlier one of the same job. Pure but for
`write`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from comfytunnel import __version__
from comfytunnel.jobs import names
from comfytunnel.jobs.landing import Landing
from comfytunnel.jobs.model import Job, Output

FORMAT = 1
SEEDS = frozenset({"seed", "noise_seed"})
"""Inputs of ComfyUI's own samplers, and of most others, that hold a seed."""


def name(job_id: str) -> str:
    return f"{names.MANIFEST}{job_id}.json"


def part(job_id: str) -> str:
    """What it is called while it is being written."""
    return f".comfytunnel-{job_id}.json.part"


def contents(
    job: Job, workflow: Mapping[str, Any], outputs: Sequence[Output], comfyui: str | None, now: datetime
) -> bytes:
    """The manifest as JSON. `comfyui`: the version of the server that ran the job, None if it is not known; `now`: when the job ends."""
    told = {
        "manifest": FORMAT,
        "job_id": job.id,
        "label": job.label,
        "tunnel": job.place,
        "retry_of": job.retry_of,
        "versions": {"comfytunnel": __version__, "comfyui": comfyui},
        "times": {
            "created_at": job.created_at,
            "submitted_at": job.submitted_at,
            "started_at": job.started_at,
            "completed_at": now,
        },
        "executions": job.executions,
        "seeds": seeds(workflow),
        "outputs": [
            {
                "name": output.name,
                "node_id": output.node_id,
                "type": output.kind,
                "size_bytes": output.size,
                "sha256": output.sha256,
                "blake3": output.blake3,
                "cached": output.cached,
            }
            for output in outputs
        ],
        "workflow": workflow,
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"


def seeds(workflow: Mapping[str, Any]) -> dict[str, int]:
    """Every seed that stands in the workflow, by "node.input"."""
    return {
        f"{node_id}.{key}": value
        for node_id, node in workflow.items()
        for key, value in node["inputs"].items()
        if key in SEEDS and type(value) is int
    }


def write(folder: Path, job_id: str, data: bytes) -> None:
    """Synchronous. Raises OSError."""
    landing = Landing(folder, part(job_id))
    try:
        landing.open(len(data))
        landing.write(data)
        landing.replace(name(job_id))
    finally:
        landing.drop()
