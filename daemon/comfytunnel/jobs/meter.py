"""How far a running job is: progress events in, one complete snapshot out. Pure and in memory only.

A node counts as done when it was cached, finished or left for the next one, so a gap in the websocket leaves the count too low and
never too high; the overall fraction never goes back while a job runs.
"""

from __future__ import annotations

from comfytunnel.comfy.progress import (
    Cached,
    Event,
    Finished,
    NodeDone,
    Nodes,
    NodeStarted,
    PreviewFrame,
    Step,
)
from comfytunnel.jobs.model import LiveProgress, Preview
from comfytunnel.workflow.graph import Graph

MAX_PREVIEW = 16 * 1024**2
"""Bytes of a preview picture that is kept; 8 MB occur. A larger one is some node's output."""


class Meter:
    """One job's. `feed` events that are about this job."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._done: set[str] = set()
        self._current: str | None = None
        self._step = self._steps = 0
        self._highest = 0.0
        self._message: str | None = None
        self.preview: Preview | None = None

    def feed(self, event: Event) -> None:
        match event:
            case Cached(nodes=nodes):
                self._finish(*nodes)
            case NodeStarted(node=node):
                self._enter(node)
            case NodeDone(node=node):
                self._finish(node)
            case Step(node=node, step=step, steps=steps):
                if node is not None:
                    self._enter(node)
                self._step, self._steps = step, steps
            case Nodes(finished=finished, running=running):
                self._finish(*finished)
                for node, step, steps in running[:1]:
                    self._enter(node)
                    if steps > 1:
                        self._step, self._steps = step, steps
            case PreviewFrame(node=node, content_type=content_type, data=data) if len(data) <= MAX_PREVIEW:
                self.preview = Preview(node or self._current or "", content_type, data)
            case Finished():
                self._finish(*self._graph.nodes)

    def fetching(self, done: int, total: int) -> None:
        """The graph has run; `done` of `total` outputs are here."""
        self._finish(*self._graph.nodes)
        self._message = f"fetching output {done + 1} of {total}" if done < total else None

    @property
    def snapshot(self) -> LiveProgress:
        total = len(self._graph)
        part = self._step / self._steps if self._steps and self._current is not None else 0.0
        value = min((len(self._done) + min(part, 0.99)) / total, 1.0) if total else 0.0
        self._highest = max(self._highest, value)
        node = self._graph.nodes.get(self._current) if self._current is not None else None
        stepping = node is not None and self._steps > 1
        message = self._message
        if message is None and node is not None:
            message = f"{node.title} {self._step}/{self._steps}" if stepping else node.title
        return LiveProgress(
            value=self._highest,
            nodes_done=len(self._done),
            nodes_total=total,
            current_node=self._current if node else None,
            current_node_class=node.class_type if node else None,
            current_node_title=node.title if node else None,
            step=self._step if stepping else None,
            steps=self._steps if stepping else None,
            message=message,
        )

    def _enter(self, node: str) -> None:
        if node not in self._graph.nodes or node == self._current or node in self._done:
            return
        if self._current is not None:
            self._done.add(self._current)
        self._current = node
        self._step = self._steps = 0

    def _finish(self, *nodes: str) -> None:
        self._done.update(node for node in nodes if node in self._graph.nodes)
        if self._current in self._done:
            self._current = None
            self._step = self._steps = 0
