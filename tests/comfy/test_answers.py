"""What a server says about queue and history, however large or odd, becomes small values that are safe to keep and to show."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from comfytunnel.comfy import answers, shapes
from comfytunnel.comfy.errors import NotComfyUI
from comfytunnel.comfy.progress import Started, parse
from comfytunnel.comfy.shapes import History, Outcome, Queue

GRAPH = {"1": {"class_type": "X", "inputs": {"text": "x" * 100}}}


def read_queue(answer: Any) -> Queue:
    return shapes.read_queue(answers.queue(json.dumps(answer).encode()))


def read_entry(entry: Any) -> History:
    raw = json.dumps({"j": entry}).encode()
    return shapes.read_history(answers.history(raw, only="j"))["j"]


@pytest.mark.parametrize("odd", [None, math.nan, "\udcff"], ids=["strict", "NaN", "surrogate"])
def test_queue_and_history_read_the_same_in_the_fast_and_in_the_patient_way(odd: object) -> None:
    """NaN and lone surrogates, which Python writes, are what only the patient way reads."""
    row = [3, "a", {**GRAPH, "odd": odd}, {shapes.JOB_KEY: "ours", "extra_pnginfo": {"workflow": odd}}, ["9"]]
    found = read_queue({"queue_running": [[1, "b", GRAPH, {}, []]], "queue_pending": [row, [2, "c"]]})
    assert [(item.number, item.prompt_id, item.job) for item in found.running] == [(1, "b", None)]
    assert [(item.number, item.prompt_id, item.job) for item in found.pending] == [
        (2, "c", None),
        (3, "a", "ours"),
    ]
    messages = [
        ["execution_start", {"prompt_id": "j", "timestamp": 5}],
        ["execution_cached", {"nodes": ["9"]}],
        ["execution_error", {"exception_message": "no", "node_id": 5, "current_inputs": {"x": [odd]}}],
    ]
    images = [{"filename": "a.png", "subfolder": "", "type": "output"}, {"filename": 5}, 7]
    entry = read_entry(
        {
            "prompt": row,
            "status": {"status_str": "error", "completed": False, "messages": messages},
            "outputs": {"9": {"images": images, "animated": [True], "odd": 5}, "8": 5},
        }
    )
    assert (entry.outcome, entry.job) == (Outcome.ERROR, "ours")
    assert entry.failure is not None
    assert (entry.failure.message, entry.failure.node_id) == ("no", None)
    assert [(output.filename, output.cached) for output in entry.outputs] == [("a.png", True)]


def test_everybodys_workflows_are_not_read() -> None:
    """A queue of 40 MB: workflows with pictures in them. They are more than would be decoded without knowing what it is."""
    row = [1, "a", {"x": "x" * 10_000_000}, {shapes.JOB_KEY: "ours", "extra_pnginfo": {}}]
    assert [item.job for item in read_queue({"queue_running": [row] * 4, "queue_pending": []}).running] == [
        "ours"
    ] * 4


@pytest.mark.parametrize(
    "raw",
    [
        b'{"queue_running": [' + b"[]," * 2_000_000 + b'[]], "queue_pending": []}',
        b'{"x": NaN, "queue_running": [' + b"[]," * 2_000_000 + b'[]], "queue_pending": []}',
        b'{"queue_running": ' + b"[" * 5_000_000,
        b'{"queue_running": [' + b'[1,"a"],' * 200_000 + b'[1,"a"]], "queue_pending": []}',
        b'{"queue_running": [' + b'[1,"a",{"1":["2",0]}],' * 1_000_000 + b'[1,"a"]], "queue_pending": []}',
    ],
    ids=["lists", "NaN", "deep", "prompts", "large"],
)
def test_megabytes_of_something_else_are_not_decoded(raw: bytes) -> None:
    with pytest.raises((NotComfyUI, ValueError)):
        shapes.read_queue(answers.queue(raw))


def test_large_groups_of_outputs_are_read_as_text_or_not_at_all() -> None:
    """Nodes put pictures into the history as base64; files are never so many megabytes of names."""
    large = "x" * 5_000_000
    entry = read_entry(
        {
            "outputs": {
                "1": {"text": [large], "preview": [{"data": large}]},
                "2": {"images": [{"filename": "a.png"}]},
            },
            "status": {
                "status_str": "error",
                "messages": [
                    ["execution_error", {"exception_message": "no", "current_inputs": {"x": [large]}}]
                ],
            },
        }
    )
    assert [len(output.text or "") for output in entry.outputs] == [shapes.TEXT_CHARS, 0]
    assert entry.outputs[1].filename == "a.png"
    assert entry.failure is not None
    assert entry.failure.message == "no"


def test_the_texts_of_one_prompt_are_capped_together_and_so_is_the_number_of_outputs() -> None:
    texts = read_entry({"outputs": {str(n): {"text": ["\u00e4" * 900_000]} for n in range(8)}}).outputs
    kept = [len((output.text or "").encode()) for output in texts]
    assert (sum(kept), len(kept)) == (shapes.TEXTS_BYTES, 3)
    many = read_entry({"outputs": {"1": {"images": [{"filename": "a"}] * 100_000}}})
    assert len(many.outputs) == shapes.MAX_OUTPUTS


@pytest.mark.parametrize("odd", ["\ud800", "x/../../queue?", "\0", "", "a b", "x" * 201, 5, None])
def test_an_id_that_can_be_none_is_taken_as_none(odd: Any) -> None:
    """It would become part of a path and of the database."""
    assert shapes.prompt_id(odd) is None
    if isinstance(odd, str):
        [item] = read_queue(
            {"queue_running": [[1, odd, {}, {shapes.JOB_KEY: "ours"}]], "queue_pending": []}
        ).running
        assert (item.prompt_id, item.job) == (None, "ours")
        assert shapes.read_history(answers.history(json.dumps({odd: {}}).encode())) == {}
        assert parse(json.dumps({"type": "execution_start", "data": {"prompt_id": odd}})) is None
    assert parse('{"type": "execution_start", "data": {"prompt_id": "a-B_9"}}') == Started("a-B_9")


def test_what_stands_in_the_middle_of_a_sentence_is_one_line() -> None:
    answer = {"system": {"comfyui_version": "0.33\n\x1b[2JAll is well.\n"}, "devices": []}
    assert shapes.read_version(answer) == "0.33 All is well."
    failure = shapes.read_failure({"node_id": "5\n6", "node_type": "A\tB\n", "exception_message": "a\nb"})
    assert (failure.node_id, failure.class_type, failure.message) == ("5 6", "A B", "a\nb")


@pytest.mark.parametrize(
    ("message", "details", "said"),
    [
        ("Node 'X' not found.", "Node ID '#9'", "Node 'X' not found: Node ID '#9'"),
        ("Prompt has no outputs", "", "Prompt has no outputs"),
        ("Bad.", "", "Bad."),
        ("Why?", "because", "Why? because"),
    ],
)
def test_a_rejection_is_told_in_one_sentence(message: str, details: str, said: str) -> None:
    """ComfyUI ends its sentence before it says the detail."""
    body = {"error": {"type": "x", "message": message, "details": details}, "node_errors": {}}
    assert shapes.read_rejection(body).message == said


def test_a_rejection_names_the_first_node_in_the_same_sentence() -> None:
    errors = [{"type": "x", "message": "Value not in list", "details": "ckpt: 'a'"}]
    nodes = {"4": {"errors": errors, "class_type": "Loader"}}
    body = {"error": {"message": "Prompt outputs failed validation.", "details": ""}, "node_errors": nodes}
    assert shapes.read_rejection(body).message == (
        "Prompt outputs failed validation: node 4 (Loader): Value not in list (ckpt: 'a')"
    )
