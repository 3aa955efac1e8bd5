"""NODE.INPUT finds the input that was meant or says which may have been; a value has the type of the one that stands there."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.errors import UsageError
from comfytunnel.workflow.select import Assignment, Target, find, find_file, read_assignment, read_value


def node(class_type: str, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return found if title is None else found | {"_meta": {"title": title}}


GRAPH = {
    "3": node("KSampler", "Refiner", seed=1, steps=20, cfg=8.0, model=["4", 0]),
    "4": node("CheckpointLoaderSimple", "v1.5 loader", ckpt_name="sd15.safetensors"),
    "6": node("CLIPTextEncode", "Prompt", text="a cat"),
    "7": node("CLIPTextEncode", "Negative", text="a dog"),
    "8": node("Toggle", "refiner", on=True, steps=1),
    "5:9": node("Resize", "6", **{"mode.width": 512}, size=[1, 2]),
    "10": node("LoadImage", image="x.png"),
}


@pytest.mark.parametrize(
    ("where", "node_id", "name"),
    [
        ("3.steps", "3", "steps"),
        ("Refiner.steps", "3", "steps"),
        ("KSampler.cfg", "3", "cfg"),
        ("ksampler.CFG", "3", "cfg"),
        ("v1.5 loader.ckpt_name", "4", "ckpt_name"),
        ("5:9.mode.width", "5:9", "mode.width"),
        ("6.text", "6", "text"),  # the id, though another node has it for a title
        ("prompt.text", "6", "text"),
        ("toggle.on", "8", "on"),
    ],
)
def test_an_input_is_found_by_id_title_or_class(where: str, node_id: str, name: str) -> None:
    assert find(GRAPH, where) == Target(node_id, name)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("CLIPTextEncode.text", ["6 (Prompt)", "7 (Negative)", "its id"]),
        ("REFINER.steps", ["3 (Refiner)", "8 (refiner)"]),
        ("3.stpes", ["no input 'stpes'", "'steps'"]),
        ("Refinr.steps", ["no node 'Refinr'", "'Refiner'"]),
        ("KSamplr.steps", ["'KSampler'"]),
        ("12.x", ["no node '12'", "3 (Refiner)"]),
        ("3", ["NODE.INPUT"]),
    ],
)
def test_what_is_ambiguous_or_misspelt_is_told_with_what_may_have_been_meant(
    where: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as told:
        find(GRAPH, where)
    assert all(word in str(told.value) for word in words), str(told.value)


def test_a_file_goes_to_the_only_input_that_a_loader_has_for_one() -> None:
    assert find_file(GRAPH, "10") == find_file(GRAPH, "LoadImage") == Target("10", "image")
    with pytest.raises(UsageError, match=r"NODE\.INPUT"):
        find_file(GRAPH, "6")


def typed(where: str, text: str, *, exact: bool = False) -> Any:
    return read_value(GRAPH, find(GRAPH, where, new=exact), Assignment(where, text, exact))


@pytest.mark.parametrize(
    ("where", "text", "value"),
    [
        ("3.steps", "30", 30),
        ("3.steps", "7.5", 7.5),  # what a browser wrote as 8 may be a float
        ("3.cfg", "7", 7),
        ("3.cfg", "1e-2", 0.01),
        ("6.text", "3", "3"),
        ("6.text", "", ""),
        ("8.on", "No", False),
        ("5:9.size", "[3]", [3]),
    ],
)
def test_a_value_has_the_type_of_the_one_that_stands_there(where: str, text: str, value: Any) -> None:
    found = typed(where, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("where", "text"),
    [("3.steps", "many"), ("3.cfg", "nan"), ("3.cfg", "1_0.0"), ("8.on", "maybe"), ("5:9.size", "[NaN]")],
)
def test_a_text_that_is_no_such_value_is_refused(where: str, text: str) -> None:
    with pytest.raises(UsageError, match="takes"):
        typed(where, text)


def test_a_link_and_a_new_input_are_only_set_deliberately() -> None:
    """With := the value is JSON and may stand anywhere; with = the error says so."""
    with pytest.raises(UsageError, match=r"node 4 \(v1.5 loader\), output 0.*4\.ckpt_name=.*3\.model:="):
        typed("3.model", "x")
    assert typed("3.model", '["7", 0]', exact=True) == ["7", 0]
    with pytest.raises(UsageError, match=r"3\.denoise:="):
        find(GRAPH, "3.denoise")
    assert find(GRAPH, "3.denoise", new=True) == Target("3", "denoise")
    with pytest.raises(UsageError, match="JSON"):
        typed("6.text", "bare", exact=True)


def test_an_option_is_split_where_node_and_input_end() -> None:
    assert read_assignment("--set", "a=b.c=d=e", "") == Assignment("a=b.c", "d=e")
    assert read_assignment("--set", "6.text:=1", "") == Assignment("6.text", "1", True)
    for text in ("6.text", "6=1", "=1", ".=1"):
        with pytest.raises(UsageError, match="NODE"):
            read_assignment("--set", text, "NODE.INPUT=VALUE")


names = st.text("ab.:=\x1b '\"[", max_size=6)


@given(
    st.dictionaries(
        names, st.builds(lambda c, t, i: node(c, t, **i), names, names, st.dictionaries(names, names))
    ),
    names,
    names,
)
def test_whatever_names_there_are_the_answer_is_an_input_or_an_error(
    graph: dict[str, Any], one: str, other: str
) -> None:
    with contextlib.suppress(UsageError):
        found = find(graph, f"{one}.{other}")
        assert found.input in graph[found.node_id]["inputs"]
