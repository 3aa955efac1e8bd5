"""Our judgement of a workflow against ComfyUI's own: what it takes must never be refused by us, and most of what it refuses should be."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from comfytunnel.workflow.nodeinfo import OPAQUE, NodeInfo, read_node
from comfytunnel.workflow.validate import Known, judge
from tests.contract.conftest import Far
from tests.contract.wild import Wild

GRAPHS = int(os.environ.get("COMFYTUNNEL_TEST_GRAPHS", "100"))
"""Graphs of each kind for each seed."""


@pytest.mark.parametrize("seed", range(4))
async def test_what_comfyui_takes_is_never_refused(far: Far, seed: int) -> None:
    """Random graphs of all its classes, right and wrong: no verdict of ours is stricter than its own, and half of its refusals are foreseen."""
    info = await far.get("/object_info")
    replaced = set(await far.get("/node_replacements")) - info.keys()
    wild = Wild(info, seed)
    nodes = {name: read_node(name, json.dumps(entry).encode()) for name, entry in info.items()}

    def node(name: str) -> NodeInfo | None:
        return OPAQUE if name in replaced else nodes.get(name)

    known = Known(node, lambda: nodes)
    refused = foreseen = taken = 0
    for number in range(2 * GRAPHS):
        graph = wild.graph() if number % 2 else wild.odd()
        ours = judge(graph, known)
        await _keep_busy(far)
        prompt_id = str(uuid.uuid4())
        status, answer = await far.post("/prompt", {"prompt": graph, "prompt_id": prompt_id})
        assert status in (200, 400, 500), answer
        if status == 200:
            await far.post("/queue", {"delete": [prompt_id]})
            taken += 1
            told = [str(problem) for problem in ours.problems]
            assert not ours.refused, (seed, number, told, json.dumps(graph))
        else:
            refused += 1
            foreseen += ours.refused
    assert taken
    assert foreseen * 2 >= refused, (foreseen, refused)


async def _keep_busy(far: Far) -> None:
    """What is taken waits behind a job that takes seconds, and is taken back before it runs."""
    if not (await far.get("/queue"))["queue_running"]:
        await far.running(await far.submit(far.slow(200)))
