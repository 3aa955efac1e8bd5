"""Which texts of a workflow are its prompts: followed from where positive and negative meet back to the nodes that hold the texts. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from comfytunnel.workflow.tracing import Spot, Tracer

POSITIVE, NEGATIVE = "prompt", "negative_prompt"

TEXTS = frozenset(
    {
        "text",
        "text_g",
        "text_l",
        "clip_g",
        "clip_l",
        "t5xxl",
        "llama",
        "text_positive",
        "text_negative",
        "tags",
        "lyrics",
    }
)
"""What encoders call their texts, besides names that end in "prompt"."""
PARTS = ("string", "text", "prompt", "value", "source")
"""What the names of the inputs begin with that nodes put texts together from."""
DUAL = {"cond1": POSITIVE, "cond2": POSITIVE}
"""Inputs of DualCFGGuider."""
ELSE = frozenset(
    {
        "model",
        "vae",
        "clip",
        "clip_vision",
        "clip_vision_output",
        "control_net",
        "image",
        "mask",
        "pixels",
        "latent",
        "latent_image",
        "samples",
        "noise",
    }
)
"""Inputs through which no prompt comes."""


class Prompts:
    """`found`: where texts stand, with their role, in the order of the graph's nodes."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.found: dict[Spot, str] = {}
        self._seen: set[tuple[str, str]] = set()
        for node_id in tracer.used:
            for name, giver in tracer.links(node_id):
                role = self._role(node_id, name)
                if role is not None:
                    self._follow(giver, role)
            for name, value in tracer.inputs(node_id).items():
                role = {"positive": POSITIVE, "negative": NEGATIVE}.get(name.lower())
                if role is not None and isinstance(value, str):
                    self._take((node_id, name), role)
        for node_id in tracer.used:
            for name in self._texts(node_id):
                if "prompt" in name.lower() or any(each == "clip" for each, _ in tracer.links(node_id)):
                    role = NEGATIVE if "negative" in name.lower() else POSITIVE
                    for spot in self._leaves((node_id, name)):
                        self.found.setdefault(spot, role)

    def _role(self, node_id: str, name: str) -> str | None:
        if name == "positive":
            return POSITIVE
        if name == "negative":
            return NEGATIVE
        if "guider" in self._tracer.class_of(node_id).lower():
            return POSITIVE if name == "conditioning" else DUAL.get(name)
        return None

    def _follow(self, node_id: str, role: str) -> None:
        """Upstream through whatever changes or combines conditionings, up to the nodes that encode texts."""
        todo = [node_id]
        while todo:
            node_id = todo.pop()
            if (node_id, role) in self._seen:
                continue
            self._seen.add((node_id, role))
            names = self._texts(node_id)
            if names:
                for name in names:
                    other = NEGATIVE if "negative" in name.lower() else role
                    for spot in self._leaves((node_id, name)):
                        self._take(spot, other)
                continue
            links = dict(self._tracer.links(node_id))
            wanted = "positive" if role == POSITIVE else "negative"
            ways = (
                [wanted] if wanted in links else [name for name in links if name.lower().startswith("cond")]
            )
            todo += [
                links[name] for name in reversed(ways or [name for name in links if name.lower() not in ELSE])
            ]

    def _take(self, spot: Spot, role: str) -> None:
        """A text that serves both is the positive one: the negative is often made of it, as nothing (ConditioningZeroOut)."""
        if self.found.get(spot) != POSITIVE:
            self.found[spot] = role

    def _texts(self, node_id: str) -> list[str]:
        info = self._tracer.info(node_id)
        found = []
        for name, value in self._tracer.inputs(node_id).items():
            spec = info.inputs.get(name) if info is not None else None
            low = name.lower()
            named = low in TEXTS or (low.endswith("prompt") and "system" not in low)
            if (
                named
                and (spec is None or spec.kind == "STRING")
                and (isinstance(value, str) or self._tracer.giver(value))
            ):
                found.append(name)
        return found

    def _leaves(self, spot: Spot) -> Iterator[Spot]:
        """Where the texts stand that an input is given: there, or in the nodes that hold or join them."""
        todo, seen = [spot], set[Spot]()
        while todo:
            node_id, name = spot = todo.pop()
            if spot in seen:
                continue
            seen.add(spot)
            value = self._tracer.inputs(node_id).get(name)
            giver = self._tracer.giver(value)
            if isinstance(value, str):
                if "system" not in self._tracer.title(node_id).lower():
                    yield spot  # else it tells a language model how to write a prompt
            elif giver is not None:
                parts = self._tracer.branches(giver) or [
                    each for each in self._tracer.inputs(giver) if each.lower().startswith(PARTS)
                ]
                todo += [(giver, each) for each in reversed(parts)]
