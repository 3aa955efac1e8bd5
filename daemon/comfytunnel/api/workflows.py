"""Handlers of /v1/workflows: what has a name, and what a person may set in it, or in one that has none.

The folder is looked at anew for each request; what is known of the nodes comes from the scheduler, and without it the parameters are found all the
same. A graph is anybody's and may be large: it is looked through on a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer, read_json
from comfytunnel.api.context import Context, context
from comfytunnel.errors import UsageError
from comfytunnel.jobs.disk import on_thread
from comfytunnel.named import Found, described
from comfytunnel.workflow.graph import MAX_BYTES, is_ui_format, parse_api_graph
from comfytunnel.workflow.nodeinfo import NodeInfo
from comfytunnel.workflow.parameters import find_parameters


async def listing(request: web.Request) -> web.Response:
    its = context(request)
    found = await on_thread(its.workflows.all)
    nodes = await _nodes(its, *(each.graph for each in found if each.graph is not None))
    shown = await on_thread(lambda: [described(each, nodes.get) for each in found])
    return answer(wire.WorkflowList([_brief(each) for each in shown]))


async def show(request: web.Request) -> web.Response:
    its, name = context(request), request.match_info["name"]
    return answer(await _described(its, await on_thread(lambda: its.workflows.get(name))))


async def parameters(request: web.Request) -> web.Response:
    """What may be set in a workflow that somebody holds; nothing of it is kept."""
    its = context(request)
    asked = await read_json(request, wire.ParametersRequest, MAX_BYTES)
    return answer(await meant(its, asked.workflow, asked.tunnel))


async def meant(its: Context, workflow: str | dict[str, Any], tunnel: str | None) -> wire.Workflow:
    """Return the workflow that a name stands for, or a graph as one without a name (""), converted if it is in the format of ComfyUI's page; `tunnel`: where it
    shall run. NotFoundError, WorkflowError, and UsageError for a named one that cannot be used as it is."""
    if isinstance(workflow, dict):
        drawn = is_ui_format(workflow)
        graph = await its.scheduler.convert(workflow, tunnel) if drawn else workflow
        parse_api_graph(graph)
        nodes = await _nodes(its, graph, tunnel=tunnel)
        parameters = await on_thread(lambda: find_parameters(graph, nodes.get))
        return wire.Workflow(name="", title="", parameters=parameters, workflow=graph)
    shown = await _described(its, await on_thread(lambda: its.workflows.get(workflow)), tunnel)
    if shown.problem is not None:
        why = shown.problem
        text = f"The workflow {shown.name!r} cannot be used: {why.message}"
        raise UsageError(text, hint=why.hint, code=why.code, details={"path": "$.workflow"})
    return shown


async def _described(its: Context, found: Found, tunnel: str | None = None) -> wire.Workflow:
    nodes = await _nodes(its, *([found.graph] if found.graph is not None else []), tunnel=tunnel)
    return await on_thread(lambda: described(found, nodes.get))


async def _nodes(
    its: Context, *graphs: Mapping[str, Any], tunnel: str | None = None
) -> Mapping[str, NodeInfo]:
    names = {node["class_type"] for graph in graphs for node in graph.values()}
    return await its.scheduler.classes(names, tunnel)


def _brief(shown: wire.Workflow) -> wire.WorkflowInfo:
    return wire.WorkflowInfo(
        **{
            name: getattr(shown, name)
            for name in msgspec.structs.asdict(wire.WorkflowInfo(name="", title=""))
        }
    )
