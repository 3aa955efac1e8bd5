"""May a job be accepted, and what is a workflow of ComfyUI's page in API format? Asked of the catalog of each place where it may run; one that takes it is enough.

Refused is what the ComfyUI of every such place would surely refuse, with each node's problems; what may be wrong is told as warnings, and what
cannot be known is accepted, and validated on arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from comfytunnel.errors import WorkflowError
from comfytunnel.jobs.catalog import Catalog
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.model import NewJob
from comfytunnel.jobs.place import Place
from comfytunnel.jobs.shelf import Told
from comfytunnel.workflow.convert import classes_of, convert, unclear
from comfytunnel.workflow.graph import check_links
from comfytunnel.workflow.nodeinfo import NodeInfo, both
from comfytunnel.workflow.validate import Problem, Verdict

MAX_WARNINGS = 20
MAX_WARNING = 1000
"""Characters."""
MAX_TOLD = 100
"""Nodes whose problems stand in an answer."""

ANYWAY = 'To have it accepted all the same, send "comfytunnel": {"validate": false}: ComfyUI then judges it on arrival.'


class Judges:
    """The catalogs, one for each place that there is. `folder`: where they are kept."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._now = now
        self._catalogs: dict[str, Catalog] = {}

    def of(self, place: Place) -> Catalog:
        """The catalog of a place; another one when the place is another."""
        found = self._catalogs.get(place.name)
        if found is None or found.place is not place:
            self.forget(place.name)
            found = self._catalogs[place.name] = Catalog(place, self._folder, self._now)
        return found

    def forget(self, name: str) -> None:
        """There is no such place any more. Its file stays: it may come back."""
        found = self._catalogs.pop(name, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        for name in list(self._catalogs):
            self.forget(name)

    async def nodes(self, names: Collection[str], places: Iterable[Place]) -> dict[str, NodeInfo]:
        """What the ComfyUIs of these places told of classes; of a choice, what any of them has."""
        found: dict[str, NodeInfo] = {}
        for place in places:
            for name, info in (await self.of(place).nodes(names)).items():
                found[name] = both(found[name], info) if name in found else info
        return found

    async def warnings(self, new: NewJob, places: Iterable[Place]) -> tuple[str, ...]:
        """What the submitter should know of a workflow that is accepted. Raises WorkflowError if no place would take it."""
        ours = {(str(item.at[0]), str(item.at[1])) for item in new.inputs}
        catalogs = [self.of(place) for place in places]
        found = await asyncio.gather(*(catalog.judge(new.workflow, ours) for catalog in catalogs))
        told: list[tuple[str, ...]] = []
        refusals: list[WorkflowError] = []
        for judged in found or [None]:
            try:
                if judged is None:
                    check_links(new.workflow)
                    told.append(())
                else:
                    told.append(_told(*judged))
            except WorkflowError as error:
                refusals.append(error)
        if not told:
            raise refusals[0]
        return min(told, key=len)

    async def convert(self, workflow: dict[str, Any], places: Iterable[Place]) -> dict[str, Any]:
        """A workflow in the format of ComfyUI's page in API format, by the first place that knows all of it. Raises WorkflowError."""
        refusals: list[WorkflowError] = []
        wanted = await on_thread(lambda: classes_of(workflow))
        for place in places:
            entries = await self.of(place).entries(wanted)
            if entries is None:
                continue
            try:
                return await on_thread(partial(convert, workflow, entries))
            except WorkflowError as error:
                refusals.append(error)
        raise refusals[0] if refusals else unclear("no ComfyUI has told yet which nodes it has.")


def _told(verdict: Verdict, told: Told, stale: bool) -> tuple[str, ...]:
    """The warnings of one place. Raises WorkflowError."""
    if verdict.refused:
        raise _refusal(verdict, told, stale)
    lines = [str(problem)[:MAX_WARNING] for problem in verdict.problems]
    if verdict.skipped:
        lines.insert(0, f"ComfyUI will leave out the outputs of {', '.join(verdict.skipped)[:MAX_WARNING]}.")
    if stale and lines:
        lines.insert(0, f"Judged by what ComfyUI told at {_when(told)}; it may have changed since.")
    return tuple(lines[:MAX_WARNINGS])


def _refusal(verdict: Verdict, told: Told, stale: bool) -> WorkflowError:
    sure = [problem for problem in verdict.problems if problem.surely]
    first = sure[0]
    nodes: dict[str, list[dict[str, object]]] = {}
    for problem in sure:
        if problem.node_id is not None and (problem.node_id in nodes or len(nodes) < MAX_TOLD):
            nodes.setdefault(problem.node_id, []).append(_on_wire(problem))
    more = len({problem.node_id for problem in sure}) - 1
    text = str(first) + (f" (And {more} more node{'s' if more > 1 else ''}.)" if more else "")
    hint = f"Did you mean {first.close[0]!r}?" if first.close else "Mend it in ComfyUI, and export it again."
    if stale:
        hint += f" ComfyUI told so at {_when(told)} and may have changed since. {ANYWAY}"
    return WorkflowError(text, hint=hint, details={"node_errors": nodes} if nodes else {})


def _on_wire(problem: Problem) -> dict[str, object]:
    found: dict[str, object] = {"field": problem.field, "reason": problem.reason, "message": problem.message}
    return found | ({"close_matches": list(problem.close)} if problem.close else {})


def _when(told: Told) -> str:
    return told.at.strftime("%Y-%m-%d %H:%M UTC")
