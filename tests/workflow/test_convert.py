"""A workflow of ComfyUI's page becomes what the page would export; what is not sure is refused, and nothing makes it fall over.

What the page exports was compared with the real one (frontend 1.49) over all templates that ComfyUI ships; the graphs here are small ones of our own.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.errors import WorkflowError
from comfytunnel.workflow.convert import classes_of, convert


def entry(module: str = "nodes", output: list[str] | None = None, **inputs: Any) -> bytes:
    optional = inputs.pop("optional", {})
    return json.dumps(
        {"input": {"required": inputs, "optional": optional}, "output": output or [], "python_module": module}
    ).encode()


MODES = [
    {"key": "scale", "inputs": {"required": {"factor": ["FLOAT", {"default": 2.0}]}}},
    {"key": "size", "inputs": {"required": {"width": ["INT", {"default": 8}], "height": ["INT", {}]}}},
]
ENTRIES = {
    "Loader": entry(output=["MODEL"], name=[["a.ckpt", "b.ckpt"]]),
    "Text": entry(output=["COND"], text=["STRING", {"multiline": True, "dynamicPrompts": True}]),
    "Sampler": entry(
        output=["LATENT"],
        model=["MODEL"],
        seed=["INT", {"control_after_generate": True}],
        steps=["INT", {"default": 20}],
        positive=["COND"],
        optional={"denoise": ["FLOAT", {"default": 1.0}], "mask": ["MASK"]},
    ),
    "Upscale": entry(output=["LATENT"], latent=["LATENT"], mode=["COMFY_DYNAMICCOMBO_V3", {"options": MODES}], sharp=["BOOLEAN"]),
    "LoadImage": entry(output=["IMAGE", "MASK"], image=[["x.png"], {"image_upload": True}]),
    "SaveImage": entry(latent=["LATENT"], filename_prefix=["STRING", {"default": "out"}]),
    "Any": entry(source=["*"]),
    "Sized": entry(output=["INT"], size=["CURVE"]),
    "Packed": entry("custom_nodes.pack", ["LATENT"], latent=["LATENT"], amount=["FLOAT"], tags=["STRING"]),
}  # fmt: skip


def slot(name: str, kind: str, link: int | None = None, *, widget: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})


def node(
    number: int, kind: str, *inputs: dict[str, Any], out: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    """`out`: for each output its type and links."""
    outputs = [{"type": each[0], "links": list(each[1:])} for each in out or []]
    return {"id": number, "type": kind, "inputs": list(inputs), "outputs": outputs, "mode": 0} | more


def ui(nodes: list[Any], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"nodes": nodes, "links": links, "version": 0.4} | more


def base(**changes: Any) -> dict[str, Any]:
    """Loader 1 -> Sampler 2 -> SaveImage 3, with a note."""
    return ui(
        [
            node(1, "Loader", out=[["MODEL", 1]], widgets_values=["b.ckpt"]),
            node(2, "Sampler", slot("model", "MODEL", 1), out=[["LATENT", 2]], title="Mine", widgets_values=[7, "randomize", 30, 0.5]),
            node(3, "SaveImage", slot("latent", "LATENT", 2), widgets_values=["pic"]),
            node(9, "Note", widgets_values=["hello"]),
        ],
        [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "LATENT"]],
    ) | changes  # fmt: skip


def inputs(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: each["inputs"] for key, each in convert(graph, ENTRIES).items()}


PLAIN: dict[str, dict[str, Any]] = {
    "1": {"name": "b.ckpt"},
    "2": {"seed": 7, "steps": 30, "denoise": 0.5, "model": ["1", 0]},
    "3": {"filename_prefix": "pic", "latent": ["2", 0]},
}


def test_values_by_position_links_by_number_titles_and_no_notes() -> None:
    """The control after a seed takes a place in the saved values, and is not exported."""
    assert inputs(base()) == PLAIN
    made = convert(base(), ENTRIES)
    assert made["2"]["class_type"] == "Sampler"
    assert made["2"]["_meta"] == {"title": "Mine"}
    assert classes_of(base()) == {"Loader", "Sampler", "SaveImage"}


def test_links_of_the_newer_format_are_the_same_graph() -> None:
    links = [
        {"id": i, "origin_id": o, "origin_slot": a, "target_id": t, "target_slot": b, "type": k}
        for i, o, a, t, b, k in base()["links"]
    ]
    assert inputs(base(links=links, version=1)) == PLAIN


def test_a_value_that_was_not_saved_is_the_default() -> None:
    graph = base()
    graph["nodes"][1]["widgets_values"] = [7, "fixed"]
    del graph["nodes"][2]["widgets_values"]
    assert inputs(graph)["2"] == {"seed": 7, "steps": 20, "denoise": 1.0, "model": ["1", 0]}
    assert inputs(graph)["3"]["filename_prefix"] == "out"


def test_a_muted_node_vanishes_with_its_links_and_a_bypassed_one_lets_through_what_fits() -> None:
    graph = base()
    graph["nodes"][1]["mode"] = 2
    assert inputs(graph) == {"1": PLAIN["1"], "3": {"filename_prefix": "pic"}}
    graph = base()
    graph["nodes"].append(
        node(4, "Upscale", slot("latent", "LATENT", 2), out=[["LATENT", 3]], mode=4, widgets_values=[])
    )
    graph["nodes"][2]["inputs"][0]["link"] = 3
    graph["links"].append([3, 4, 0, 3, 0, "LATENT"])
    assert inputs(graph) == PLAIN
    graph["nodes"][-1] = node(4, "Sampler", out=[["LATENT", 3]], mode=4)  # nothing that fits
    assert inputs(graph)["3"] == {"filename_prefix": "pic"}


def test_what_takes_anything_gets_through_each_bypassed_node_what_fits_there() -> None:
    """The first of them decides by its place, and the next by the type of the input that it found."""
    graph = base()
    graph["nodes"] += [
        node(4, "Unknown", slot("a", "COND"), slot("b", "LATENT", 2), out=[["LATENT", 3]], mode=4),
        node(5, "Unknown", slot("a", "LATENT", 3), out=[["LATENT", 4]], mode=4),
    ]
    graph["nodes"][2] = node(3, "Any", slot("source", "*", 4))
    graph["links"] += [[3, 4, 0, 5, 0, "LATENT"], [4, 5, 0, 3, 0, "LATENT"]]
    assert inputs(graph)["3"] == {"source": ["2", 0]}


def test_reroutes_are_followed_and_primitives_write_into_widgets() -> None:
    graph = base()
    graph["nodes"] += [
        node(5, "Reroute", slot("", "*", 2), out=[["LATENT", 5]]),
        node(6, "PrimitiveNode", out=[["INT", 6]], widgets_values=[99, "fixed"]),
    ]
    graph["nodes"][2]["inputs"][0]["link"] = 5
    graph["nodes"][1]["inputs"].append(slot("steps", "INT", 6, widget=True))
    graph["links"] += [[5, 5, 0, 3, 0, "LATENT"], [6, 6, 0, 2, 2, "INT"]]
    assert inputs(graph) == PLAIN | {"2": PLAIN["2"] | {"steps": 99}}


def test_a_dynamic_choice_brings_its_own_widgets_right_after_it() -> None:
    up = node(
        4, "Upscale", slot("latent", "LATENT", 2), out=[["LATENT"]], widgets_values=["size", 64, 32, True]
    )
    graph = base()
    graph["nodes"].append(up)
    sent = {"mode": "size", "mode.width": 64, "mode.height": 32, "sharp": True, "latent": ["2", 0]}
    assert inputs(graph)["4"] == sent


def test_comments_go_and_an_upload_button_takes_a_place() -> None:
    graph = ui(
        [
            node(1, "Text", widgets_values=["a /* no */cat // really\nsits \\{so\\}"]),
            node(2, "LoadImage", widgets_values=["y.png", "image"]),
        ],
        [],
    )
    assert inputs(graph) == {"1": {"text": "a cat \nsits {so}"}, "2": {"image": "y.png"}}


INNER: dict[str, Any] = {
    "id": "aaaa",
    "name": "draw",
    "nodes": [
        node(1, "Sampler", slot("model", "MODEL", 1), slot("steps", "INT", 2, widget=True), out=[["LATENT", 3]], widgets_values=[5, "fixed", 11, 1.0]),
        node(4, "Text", widgets_values=["inside"]),
    ],
    "links": [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0, "type": "MODEL"},
        {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 1, "target_slot": 3, "type": "INT"},
        {"id": 3, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "LATENT"},
    ],
    "inputs": [
        {"name": "model", "type": "MODEL", "linkIds": [1]},
        {"name": "steps", "type": "INT", "linkIds": [2]},
    ],
    "outputs": [{"name": "LATENT", "type": "LATENT", "linkIds": [3]}],
}  # fmt: skip


def nested(**properties: Any) -> dict[str, Any]:
    """Two nodes of one subgraph, whose node ids meet those outside: the page numbers the inner ones anew."""
    graph = base()
    graph["last_node_id"] = 20
    graph["definitions"] = {"subgraphs": [copy.deepcopy(INNER)]}
    graph["nodes"][1] = node(2, "aaaa", slot("model", "MODEL", 1), out=[["LATENT", 2]], widgets_values=[40])
    graph["nodes"].append(
        node(
            7,
            "aaaa",
            slot("model", "MODEL", 4),
            slot("steps", "INT"),
            out=[["LATENT"]],
            properties=properties,
        )
    )
    graph["links"].append([4, 1, 0, 7, 0, "MODEL"])
    return graph


def test_subgraphs_are_opened_and_each_of_their_nodes_has_values_of_its_own() -> None:
    made = inputs(nested())
    assert made == {
        "1": {"name": "b.ckpt"},
        "3": {"filename_prefix": "pic", "latent": ["2:21", 0]},
        "2:21": {"seed": 5, "denoise": 1.0, "steps": 40, "model": ["1", 0]},
        "2:4": {"text": "inside"},
        "7:21": {"seed": 5, "denoise": 1.0, "steps": 11, "model": ["1", 0]},
        "7:4": {"text": "inside"},
    }


def test_widgets_that_older_pages_showed_on_a_subgraph_become_inputs_of_it() -> None:
    graph = nested(
        proxyWidgets=[["4", "text"], ["1", "steps"], ["4", "$$preview"], ["1", "control_after_generate"]]
    )
    graph["nodes"][-1]["widgets_values"] = ["outside", 12]
    made = inputs(graph)
    assert (made["7:4"], made["7:21"]["steps"]) == ({"text": "outside"}, 12)
    assert (made["2:4"], made["2:21"]["steps"]) == ({"text": "inside"}, 40)


def test_subgraphs_in_subgraphs_and_muted_ones() -> None:
    outer = {
        "id": "bbbb",
        "nodes": [node(30, "aaaa", slot("model", "MODEL", 1), slot("steps", "INT", 2, widget=True), out=[["LATENT", 3]])],
        "links": [dict(each, target_id=30) if each["target_id"] == 1 else dict(each, origin_id=30) for each in INNER["links"]],
        "inputs": INNER["inputs"],
        "outputs": INNER["outputs"],
    }  # fmt: skip
    graph = nested()
    graph["definitions"]["subgraphs"].insert(0, outer)
    graph["nodes"][-1] |= {"type": "bbbb", "widgets_values": [77]}
    made = inputs(graph)
    assert made["7:30:31"] == {"seed": 5, "denoise": 1.0, "steps": 77, "model": ["1", 0]}
    graph["nodes"][-1]["mode"] = graph["nodes"][1]["mode"] = 2
    assert inputs(graph) == {"1": PLAIN["1"], "3": {"filename_prefix": "pic"}}


def packed(values: Any) -> dict[str, Any]:
    graph = base()
    graph["nodes"].append(
        node(4, "Packed", slot("latent", "LATENT", 2), out=[["LATENT"]], widgets_values=values)
    )
    return graph


def test_foreign_classes_are_taken_when_all_fits_by_position_or_by_name() -> None:
    sent = {"amount": 0.5, "tags": "a", "latent": ["2", 0]}
    assert (
        inputs(packed([0.5, "a"]))["4"]
        == inputs(packed({"amount": 0.5, "tags": "a", "seen": {}}))["4"]
        == sent
    )


def changed(at: int, **changes: Any) -> dict[str, Any]:
    graph = base()
    graph["nodes"][at] |= changes
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (changed(0, type="Strange"), "does not know the class of node 1"),
        (changed(2, widgets_values=["%date:yyyy%/x"]), "replaces something"),
        (ui([node(1, "Text", widgets_values=["a {red|blue} cat"])], []), "draws one part"),
        (ui([node(1, "Sized", widgets_values=[[]])], []), "editor of its own"),
        (packed([0.5]), "1 saved values, and its class 2"),
        (packed(["a", 0.5]), "another kind"),
        (packed({"amount": 1.0}), "cannot be told apart"),
        (changed(0, widgets_values={"name": "a"}), "cannot be told apart"),
        (base(links=[]), "the link of node 2 (Mine)"),
        (base(extra={"groupNodes": {"g": {}}}), "group nodes"),
        (changed(0, id=2), "the same id"),
        (ui([], []), "no node that ComfyUI would run"),
        (ui([node(1, "Reroute", slot("", "*", 1), out=[["*", 1]]), node(2, "SaveImage", slot("latent", "LATENT", 1))], [[1, 1, 0, 1, 0, "*"]]), "circle"),
        (nested(proxyWidgets=[["4"]]), "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_not_sure_is_refused_with_the_way_to_export(graph: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        convert(graph, ENTRIES)
    assert words in refused.value.message
    assert refused.value.code_on_wire == "workflow_format_ui"
    assert "Export (API)" in refused.value.hint


def test_a_subgraph_that_holds_itself_is_refused() -> None:
    graph = nested()
    graph["definitions"]["subgraphs"][0]["nodes"].append(node(50, "aaaa"))
    with pytest.raises(WorkflowError, match="holds itself"):
        convert(graph, ENTRIES)


def test_a_label_of_the_page_that_nothing_is_linked_to_is_left_out() -> None:
    graph = base()
    graph["nodes"].append(node(8, "Label (pack)", out=[["*"]]))
    assert inputs(graph) == PLAIN


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        found += _paths(each, (*path, key))
    return found


WHOLE = nested(proxyWidgets=[["4", "text"], ["1", "steps"]])
PLACES = _paths(WHOLE)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        0,
        1,
        2,
        4,
        -1,
        7,
        21,
        2**70,
        0.5,
        "",
        "1",
        "aaaa",
        "Note",
        "Reroute",
        [],
        [[]],
        {},
        True,
        "\x1b[2J",
    ]
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=4))
def test_whatever_stands_in_it_the_answer_is_a_workflow_or_a_refusal(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    graph = copy.deepcopy(WHOLE)
    for path, value in changes:
        at: Any = graph
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue
    try:
        made = convert(graph, ENTRIES)
    except WorkflowError:
        return
    json.dumps(made)
    assert all(set(each) == {"inputs", "class_type", "_meta"} for each in made.values())
