"""Which ComfyUI takes a job that asks for none: the one with the fewest prompts ahead, then the one that has the job's models loaded, then
the one that has its inputs. Pure: what is known of the places goes in, a name comes out. Nothing is asked here; choosing.py does that.

A place without room counts, too, because a job behind strangers would wait longer than behind the jobs of a shorter place. It can win by a
shorter queue alone, and a place that stands idle has the shortest of all: so no place is idle while a job waits for a busy one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfytunnel.jobs.model import Input

MODEL_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
"""What a text in a graph ends in if it names a model, whatever the node calls that input (ckpt_name, unet_name, lora_name, ...)."""
MAX_MODELS = 200
"""Models of one graph that are looked at."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a job makes one place better than another. `inputs`: BLAKE3 hash -> bytes."""

    models: frozenset[str] = frozenset()
    inputs: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A place that serves and could go on. `ahead`: prompts that run or wait there, whoever's; None: it does not say. `room`: it could take
    a job now. `loaded`: the models of the last job there; `there`: hashes of inputs that it has."""

    name: str
    ahead: int | None
    room: bool = True
    loaded: frozenset[str] = frozenset()
    there: frozenset[str] = frozenset()


def best(offers: Sequence[Offer], wish: Wish) -> str | None:
    """The name of the place that takes the job, None without any. Of equals the first."""
    if not offers:
        return None
    return min(offers, key=lambda offer: _cost(offer, wish)).name


def _cost(offer: Offer, wish: Wish) -> tuple[bool, int, bool, int, int]:
    loaded = len(wish.models & offer.loaded)
    there = sum(size for digest, size in (wish.inputs or {}).items() if digest in offer.there)
    return offer.ahead is None, offer.ahead or 0, not offer.room, -loaded, -there


def wish_of(workflow: Mapping[str, Any], inputs: Iterable[Input] = ()) -> Wish:
    """What is known of a job from its graph and its files."""
    return Wish(frozenset(_models(workflow)), {item.blake3: item.size for item in inputs})


def _models(workflow: Mapping[str, Any]) -> Iterator[str]:
    left = MAX_MODELS
    for node in workflow.values():
        values = node.get("inputs") if isinstance(node, dict) else None
        for value in values.values() if isinstance(values, dict) else ():
            if isinstance(value, str) and left and len(value) <= 400 and value.lower().endswith(MODEL_FILES):
                left -= 1
                yield value
