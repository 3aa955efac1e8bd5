"""Websocket frames: what is known becomes an event, what is broken becomes nothing, and never an exception."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.comfy.progress import (
    Cached,
    Event,
    Finished,
    NodeDone,
    Nodes,
    NodeStarted,
    PreviewFrame,
    QueueChanged,
    Started,
    Step,
    parse,
)


@pytest.mark.parametrize(
    ("kind", "data", "event"),
    [
        ("status", {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "x"}, QueueChanged(3)),
        ("status", {"status": {"exec_info": {"queue_remaining": "many"}}}, QueueChanged(None)),
        ("execution_start", {"prompt_id": "p", "timestamp": 1}, Started("p")),
        ("execution_cached", {"prompt_id": "p", "nodes": ["1", 2, "3"]}, Cached("p", ("1", "3"))),
        ("executing", {"prompt_id": "p", "node": "4"}, NodeStarted("p", "4")),
        ("executing", {"node": "4"}, NodeStarted(None, "4")),
        ("executing", {"prompt_id": "p", "node": None}, Finished("p")),
        ("executed", {"prompt_id": "p", "node": "9", "output": {}}, NodeDone("p", "9")),
        ("progress", {"prompt_id": "p", "node": "4", "value": 3, "max": 20}, Step("p", "4", 3, 20)),
        ("progress", {"value": 30, "max": 20}, Step(None, None, 20, 20)),
        ("progress", {"prompt_id": "p", "node": "4", "value": 3, "max": 0}, None),
        ("execution_success", {"prompt_id": "p"}, Finished("p")),
        ("execution_error", {"prompt_id": "p"}, Finished("p")),
        ("execution_interrupted", {"prompt_id": "p"}, Finished("p")),
        (
            "progress_state",
            {
                "prompt_id": "p",
                "nodes": {
                    "1": {"state": "finished", "value": 1, "max": 1, "real_node_id": "1"},
                    "2": {"state": "running", "value": 2.0, "max": 8.0},
                    "3": "odd",
                    "4.0.1": {"state": "finished", "real_node_id": "4"},
                },
            },
            Nodes("p", ("1",), (("2", 2, 8),)),
        ),
        ("crystools.monitor", {"cpu": 5}, None),
        (7, {}, None),
    ],
)
def test_text_frames(kind: Any, data: Any, event: Event | None) -> None:
    assert parse(json.dumps({"type": kind, "data": data})) == event


def test_binary_frames() -> None:
    about = json.dumps({"prompt_id": "p", "node_id": "4", "image_type": "image/png"}).encode()
    assert parse(struct.pack(">II", 1, 1) + b"jpeg") == PreviewFrame(None, None, "image/jpeg", b"jpeg")
    assert parse(struct.pack(">II", 4, len(about)) + about + b"png") == PreviewFrame(
        "p", "4", "image/png", b"png"
    )
    assert parse(struct.pack(">II", 1, 9) + b"?") is None
    assert parse(struct.pack(">II", 4, 2**31) + b"{}") is None
    assert parse(struct.pack(">II", 3, 1) + b"text") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = [
    "status",
    "executing",
    "executed",
    "progress",
    "progress_state",
    "execution_start",
    "execution_cached",
]
DATA = st.dictionaries(st.sampled_from(["prompt_id", "node", "nodes", "value", "max", "status"]), JSON)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60)))
def test_any_bytes_are_survived(frame: str | bytes) -> None:
    parse(frame)


@given(st.sampled_from(KINDS), st.one_of(DATA, JSON))
def test_any_types_are_survived(kind: str, data: Any) -> None:
    parse(json.dumps({"type": kind, "data": data}))


@given(st.dictionaries(st.sampled_from(["image_type", "node_id", "prompt_id"]), JSON), st.binary(max_size=8))
def test_any_preview_metadata_is_survived(about: Any, picture: bytes) -> None:
    head = json.dumps(about).encode()
    parse(struct.pack(">II", 4, len(head)) + head + picture)
