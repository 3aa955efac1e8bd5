"""A workflow is held against what ComfyUI told of its classes: what is surely wrong is refused, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.nodeinfo import OPAQUE, NodeInfo, read_node
from comfytunnel.workflow.validate import Known, Verdict, judge

Graph = dict[str, Any]


def entry(
    outputs: list[Any], required: dict[str, Any], optional: dict[str, Any] | None = None, **more: Any
) -> NodeInfo:
    told = {"input": {"required": required, "optional": optional or {}}, "output": outputs}
    return read_node(
        "X", msgspec.json.encode({"python_module": "nodes", "output_node": False, **told, **more})
    )


CUSTOM = "custom_nodes.somebodys"
CLASSES = {
    "Load": entry(["MODEL", "CLIP"], {"ckpt_name": [["sd15.safetensors", "sdxl/xl_base.safetensors"], {}]}),
    "Sample": entry(
        ["LATENT"],
        {
            "model": ["MODEL"],
            "steps": ["INT", {"min": 1, "max": 100}],
            "sampler": ["COMBO", {"options": ["euler", "dpmpp_2m"]}],
        },
        {"cfg": ["FLOAT", {"min": 0.0}], "text": ["STRING"], "flags": [["a", "b"], {"multiselect": True}]},
    ),
    "Save": entry([], {"what": ["LATENT,IMAGE"]}, output_node=True),
    "Any": entry(["*"], {"x": ["*"]}),
    "Picture": entry(["IMAGE"], {"image": [["a.png"], {"image_upload": True}]}),
    "Grow": entry(["IMAGE"], {"parts": ["COMFY_AUTOGROW_V3", {"template": {}}]}),
    "Theirs": entry(
        ["IMAGE"],
        {"n": ["INT", {"max": 5}], "model": ["MODEL"], "which": [["a"], {}]},
        python_module=CUSTOM,
    ),
    "Past": OPAQUE,
}


def good() -> Graph:
    return {
        "1": {"class_type": "Load", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "2": {"class_type": "Sample", "inputs": {"model": ["1", 0], "steps": 20, "sampler": "euler"}},
        "3": {"class_type": "Save", "inputs": {"what": ["2", 0]}},
    }


def verdict(graph: Graph, *, stale: bool = False, ours: frozenset[tuple[str, str]] = frozenset()) -> Verdict:
    return judge(graph, Known(CLASSES.get, lambda: list(CLASSES), stale), ours)


def changed(node_id: str, **inputs: Any) -> Graph:
    graph = good()
    graph[node_id]["inputs"] |= inputs
    return graph


def without(node_id: str, name: str) -> Graph:
    graph = good()
    del graph[node_id]["inputs"][name]
    return graph


def of_class(node_id: str, class_type: str) -> Graph:
    graph = good()
    graph[node_id]["class_type"] = class_type
    return graph


def test_a_right_workflow_has_no_problems() -> None:
    assert verdict(good()) == Verdict(refused=False)


WRONG = [
    (of_class("2", "Sampel"), "2", "missing_node_type", None),
    (without("2", "model"), "2", "required_input_missing", "model"),
    ({**good(), "2": {"class_type": "Sample"}}, "2", "required_input_missing", None),
    (changed("2", model=["1"]), "2", "bad_linked_input", "model"),
    (changed("2", model=["9", 0]), "2", "bad_linked_input", "model"),
    (changed("2", model=[1, 0]), "2", "bad_linked_input", "model"),
    (changed("2", model=[["1"], 0]), "2", "bad_linked_input", "model"),
    (changed("2", model=["1", 2]), "2", "bad_linked_input", "model"),
    (changed("2", model=["1", -3]), "2", "bad_linked_input", "model"),
    (changed("2", model=["1", "0"]), "2", "bad_linked_input", "model"),
    (changed("2", model=["1", 1]), "2", "return_type_mismatch", "model"),
    (changed("3", what=["1", 0]), "3", "return_type_mismatch", "what"),
    (changed("2", steps="many"), "2", "invalid_input_type", "steps"),
    (changed("2", steps=None), "2", "invalid_input_type", "steps"),
    (changed("2", steps=1e400), "2", "invalid_input_type", "steps"),
    (changed("2", steps=0), "2", "value_smaller_than_min", "steps"),
    (changed("2", steps="101"), "2", "value_bigger_than_max", "steps"),
    (changed("2", cfg=-0.5), "2", "value_smaller_than_min", "cfg"),
    (changed("2", sampler="eular"), "2", "value_not_in_list", "sampler"),
    (changed("1", ckpt_name=""), "1", "value_not_in_list", "ckpt_name"),
    (changed("2", flags={"__value__": ["a", "c"]}), "2", "value_not_in_list", "flags"),
]


@pytest.mark.parametrize(("graph", "node", "reason", "field"), WRONG, ids=[f"{n}-{row[2]}" for n, row in enumerate(WRONG)])  # fmt: skip
def test_what_comfyui_surely_refuses_is_refused(
    graph: Graph, node: str, reason: str, field: str | None
) -> None:
    found = verdict(graph)
    assert found.refused
    assert [(each.node_id, each.reason, each.field) for each in found.problems] == [(node, reason, field)]
    assert f"Node {node} (" in str(found.problems[0])


@pytest.mark.parametrize(
    "graph",
    [
        changed("2", steps="7"),
        changed("2", steps=7.9),
        changed("2", steps=True),
        changed("2", steps={"__value__": 7}),
        changed("2", model="a literal where a link should be"),
        changed("2", model=["1", -2]),
        changed("2", text=5, cfg="1.5"),
        changed("2", text=None),
        changed("2", unheard_of=["99", 0]),
        changed("2", flags={"__value__": ["a", "b"]}),
        {**good(), "4": {"class_type": "Any", "inputs": {"x": ["2", 0]}}, "3": {"class_type": "Save", "inputs": {"what": ["4", 0]}}},
        {**good(), "4": {"class_type": "Grow", "inputs": {}}, "3": {"class_type": "Save", "inputs": {"what": ["4", 0]}}},
        {**good(), "4": {"class_type": "Sample", "inputs": {"model": ["99", 0]}}},
        {**good(), "4": {"class_type": "Past", "inputs": {"x": ["99", 7]}}},
        {"1": {"class_type": "Past", "inputs": {}}},
    ],
)  # fmt: skip
def test_what_comfyui_takes_is_taken_without_a_word(graph: Graph) -> None:
    """Conversions as Python makes them, literals and unions, parts that no output needs, classes of which nothing is known."""
    assert verdict(graph) == Verdict(refused=False)


def test_without_an_output_nothing_can_run() -> None:
    graph = good()
    del graph["3"]
    found = verdict(graph)
    assert (found.refused, found.problems[0].reason, found.problems[0].node_id) == (
        True,
        "prompt_no_outputs",
        None,
    )


def test_a_cycle_is_refused_and_shown() -> None:
    graph = good()
    graph["1"] = {"class_type": "Any", "inputs": {"x": ["2", 0]}}
    found = verdict(graph)
    assert found.refused
    assert {each.node_id for each in found.problems if each.reason == "dependency_cycle"} == {"1", "2"}
    assert "2 (Sample) -> 1 (Any) -> 2 (Sample)" in found.problems[0].message


def test_one_good_output_is_enough_and_the_others_are_named() -> None:
    graph = {**good(), "4": {"class_type": "Save", "inputs": {"what": ["1", 0]}}}
    found = verdict(graph)
    assert (found.refused, found.skipped) == (False, ("4",))
    assert found.problems[0].reason == "return_type_mismatch"


def test_a_class_that_is_missing_refuses_even_where_nothing_needs_it() -> None:
    graph = {**good(), "4": {"class_type": "Nobodys", "inputs": {}}}
    assert verdict(graph).refused


@pytest.mark.parametrize(
    "inputs",
    [{"n": 6, "which": "a"}, {"n": 1, "which": "z"}, {"n": 1, "which": "a", "model": ["1", 1]}],
)
def test_a_custom_node_may_have_a_judgement_of_its_own(inputs: Graph) -> None:
    """Limits, choices and types of other people's nodes may not count: told, and not refused."""
    graph = {**good(), "4": {"class_type": "Theirs", "inputs": {"model": ["1", 0], **inputs}}, "3": {"class_type": "Save", "inputs": {"what": ["4", 0]}}}  # fmt: skip
    found = verdict(graph)
    assert (found.refused, found.skipped, len(found.problems)) == (False, (), 1)


def test_a_node_that_takes_files_looks_for_them_itself() -> None:
    graph = {**good(), "1": {"class_type": "Picture", "inputs": {"image": "sub/else.png"}}}
    graph["3"]["inputs"]["what"] = ["1", 0]
    assert not verdict(graph).refused


def test_a_file_of_ours_is_no_wrong_value() -> None:
    graph = changed("1", ckpt_name={"__type": "core/ASSET", "info": {"id": "x"}})
    assert verdict(graph).refused
    assert verdict(graph, ours=frozenset({("1", "ckpt_name")})) == Verdict(refused=False)


@pytest.mark.parametrize(
    ("graph", "refused"),
    [
        (of_class("2", "Sampel"), True),
        (of_class("2", "NodeOfTomorrow"), False),
        (changed("1", ckpt_name="new.safetensors"), False),
        (changed("2", steps=0), True),
        (without("2", "model"), True),
    ],
)
def test_what_may_have_been_installed_since_is_told_and_not_refused(graph: Graph, refused: bool) -> None:
    found = verdict(graph, stale=True)
    assert (found.refused, len(found.problems)) == (refused, 1)
    assert verdict(graph).refused


def test_a_graph_thousands_deep_is_judged() -> None:
    graph: Graph = {"0": {"class_type": "Load", "inputs": {"ckpt_name": "sd15.safetensors"}}}
    for number in range(1, 5000):
        graph[str(number)] = {"class_type": "Any", "inputs": {"x": [str(number - 1), 0]}}
    graph["end"] = {"class_type": "Save", "inputs": {"what": ["4999", 0]}}
    assert verdict(graph) == Verdict(refused=False)
    graph["0"]["inputs"] = {}
    assert verdict(graph).refused


def test_values_nested_for_ever_are_judged() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"x": deep}
    assert verdict(changed("2", sampler=deep)).refused
    assert verdict(changed("2", text=deep)).refused


def test_escapes_of_the_far_side_are_not_passed_on() -> None:
    nasty = entry([], {"pick\x1b[31m": [["va\x1b]0;x\x07lue"], {}]}, output_node=True)
    known = Known({"Nasty": nasty}.get, lambda: ["Nasty", "Na\x1b[2Jsty2"])
    found = judge({"1": {"class_type": "Nasty", "inputs": {"pick\x1b[31m": "valu"}}}, known)
    said = str(found.problems[0]) + "".join(found.problems[0].close)
    assert "Value not in list: pick: 'valu'" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"input": 5}', b'{"input": {"required": []}}', b'{"input": {"required": {"x": ["INT"]}}', b'"\xff"', b"[" * 100_000],
)  # fmt: skip
def test_an_entry_that_is_none_says_nothing(raw: bytes) -> None:
    assert read_node("X", raw) == OPAQUE


@pytest.mark.parametrize(
    "spec",
    [None, 5, [], [5], [None, {}], ["INT", 5], ["INT", {"min": "a", "max": [], "options": 3}], [["a", {}, 1]], ["COMBO", {}], ["COMBO", {"options": {}}]],
)  # fmt: skip
def test_odd_inputs_of_an_entry_break_nothing(spec: Any) -> None:
    known = Known({"X": entry(["IMAGE"], {"x": spec}, output_node=True)}.get, list)
    values: tuple[Any, ...] = (1, "a", None, [], {})
    for value in values:
        judge({"1": {"class_type": "X", "inputs": {"x": value}}}, known)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Load Image", ("LoadImage",)),
        ("loadimage", ("LoadImage",)),
        ("LaodImage", ("LoadImage",)),
        ("xl_base.safetensors", ("sdxl/xl-base.safetensors",)),
        ("SDXL\\xl-base.safetensors", ("sdxl/xl-base.safetensors",)),
        ("somethingelse", ()),
        ("", ()),
        ("x" * 1000, ()),
    ],
)
def test_close_matches(word: str, expected: tuple[str, ...]) -> None:
    assert close_matches(word, ["LoadImage", "SaveImage", "sdxl/xl-base.safetensors", ""]) == expected
