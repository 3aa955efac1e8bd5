"""How long each node of a running job takes: progress events in, times out. Pure; the clock is handed in, in seconds.

Measured here, from what ComfyUI says over the websocket while it works: a node counts from the moment that it is named as the one which runs until another
one is, so what lies between two messages is the network's and not the node's. What was not heard (the link was away, the daemon restarted) is not guessed: a node
whose beginning or end was missed says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from comfytunnel.comfy.progress import Cached, Event, Finished, NodeDone, Nodes, NodeStarted, Started, Step
from comfytunnel.jobs.model import NodeTime
from comfytunnel.workflow.graph import Graph

MOST = 200
"""Nodes of a job whose times are kept: those that took longest."""
TEXT_MOST = 120
"""Characters of a class or a title that are kept."""


@dataclass(slots=True)
class _Node:
    began: float | None = None
    seconds: float = 0.0
    ran: bool = False
    steps: int = 0
    cached: bool = False
    whole: bool = True


class Stopwatch:
    """One job's. `feed` events that are about this job; `session`: which of the listener's sockets an event came through."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: dict[str, _Node] = {}
        self._current: str | None = None
        self._session: int | None = None

    def feed(self, event: Event, at: float, session: int = 0) -> None:
        if session != self._session:
            self._interrupted(at)
            self._session = session
        match event:
            case Started():
                self._nodes.clear()  # it runs once more: ComfyUI had lost it
                self._current = None
            case Cached(nodes=nodes):
                for node in nodes:
                    if (its := self._node(node)) is not None and not its.ran:
                        its.cached = True
            case NodeStarted(node=node, prompt_id=prompt):
                self._enter(node, at, whole=prompt is not None)  # without it: sent after a reconnect
            case Step(node=node, steps=steps):
                if node is not None:
                    self._enter(node, at, whole=True)
                if self._current is not None:
                    self._nodes[self._current].steps = steps
            case NodeDone(node=node) if node == self._current:
                self._leave(at)
            case Nodes(finished=finished, running=running):
                if self._current in finished:
                    self._leave(at)
                for node, _, steps in running[:1]:
                    self._enter(node, at, whole=True)
                    if self._current is not None and steps > 1:
                        self._nodes[self._current].steps = steps
            case Finished():
                self._leave(at)

    def times(self, at: float) -> tuple[NodeTime, ...]:
        """Those of the nodes that were heard of until now, in the order in which they began; at most MOST, without the quickest."""
        heard = {key: its for key, its in self._nodes.items() if its.ran or its.cached}
        seconds = {
            key: its.seconds + (0.0 if its.began is None else max(0.0, at - its.began))
            for key, its in heard.items()
        }
        kept = set(sorted(seconds, key=lambda key: -seconds[key])[:MOST])
        return tuple(self._time(key, its, seconds[key]) for key, its in heard.items() if key in kept)

    def _time(self, key: str, its: _Node, seconds: float) -> NodeTime:
        node = self._graph.nodes[key]
        return NodeTime(
            node_id=key[:TEXT_MOST],
            class_type=node.class_type[:TEXT_MOST],
            title=node.title[:TEXT_MOST],
            seconds=round(seconds, 3),
            steps=its.steps if its.steps > 1 else None,
            cached=its.cached and not its.ran,
            whole=its.whole and its.began is None,
        )

    def _node(self, key: str) -> _Node | None:
        if key not in self._graph.nodes:
            return None
        return self._nodes.setdefault(key, _Node())

    def _enter(self, key: str, at: float, *, whole: bool) -> None:
        if key == self._current or key not in self._graph.nodes:
            return
        self._leave(at)
        its = self._nodes.pop(key, _Node())
        if not its.ran:
            its.whole = whole
        its.began, its.ran = at, True
        self._nodes[key] = its  # in the order of the beginnings
        self._current = key

    def _leave(self, at: float) -> None:
        if self._current is None:
            return
        its = self._nodes[self._current]
        if its.began is not None:
            its.seconds += max(0.0, at - its.began)
        its.began, self._current = None, None

    def _interrupted(self, at: float) -> None:
        """Another socket: what ran meanwhile was not heard."""
        if self._current is not None:
            self._nodes[self._current].whole = False
            self._leave(at)
