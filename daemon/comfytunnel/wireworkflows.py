"""The JSON of workflows: those that have a name, what a person may set in one, and what may be asked of them.

Part of wire.py, which passes every name on: readers import them from there. Nothing here does I/O.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec

from comfytunnel.wirecause import Cause
from comfytunnel.wirejobs import JobRequestExtra
from comfytunnel.words import ParameterKind, one_of


class Target(msgspec.Struct, frozen=True):
    """An input of a node in a workflow."""

    node_id: str
    input: str


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may set in a workflow: one value, which goes to every target.

    `name` is unique in the workflow and stays the same from call to call; `label` is for people. `default`: what stands in the workflow (of an image its file's name there). `min`, `max`, `step`: of a number, null where
    none is known; `choices`: of a choice. `multiline`: of a text. `hidden`: a form need not show it; it may be set all the same.
    """

    name: str
    kind: Annotated[str, one_of(*get_args(ParameterKind))]
    label: str
    targets: list[Target]
    default: Any = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: list[Any] | None = None
    multiline: bool = False
    hidden: bool = False


class WorkflowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A named workflow. `problem`: why it cannot be used as it is; null if it can."""

    name: str
    title: str
    description: str = ""
    parameters: list[Parameter] = []
    problem: Cause | None = None


class WorkflowList(msgspec.Struct, frozen=True):
    workflows: list[WorkflowInfo]


class Workflow(WorkflowInfo, frozen=True, kw_only=True):
    """A workflow with its graph in API format, null if that cannot be read. `name` and `title` are empty for one that has no name."""

    workflow: dict[str, Any] | None = None


class ConvertRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workflow in the format of ComfyUI's page. `tunnel`: whose ComfyUI knows its nodes; null: any that does."""

    workflow: dict[str, Any]
    tunnel: str | None = None


class ParametersRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workflow without a name, in API format or in that of ComfyUI's page. `tunnel`: whose ComfyUI tells of its nodes; null: any that does."""

    workflow: dict[str, Any]
    tunnel: str | None = None


class ConvertedWorkflow(msgspec.Struct, frozen=True):
    """The same workflow in API format."""

    workflow: dict[str, Any]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`workflow`: the name of one, or a graph in API format or that of ComfyUI's page. `params`: values by the names of its parameters; a seed that is left out or null is drawn.
    `images`: by the names of parameters of that kind, the id of an asset or a data: URL. `wait`: seconds that the answer may take."""

    workflow: str | dict[str, Any]
    params: dict[str, Any] = {}
    images: dict[str, str] = {}
    wait: Annotated[float, msgspec.Meta(ge=0, le=300)] = 0
    comfytunnel: JobRequestExtra = JobRequestExtra()
