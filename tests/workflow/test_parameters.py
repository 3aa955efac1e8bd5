"""What a person may set is found in workflows of every shape, under names that stay, and nothing is found for ever."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfytunnel.workflow.graph import parse_api_graph
from comfytunnel.workflow.nodeinfo import NodeInfo, read_node
from comfytunnel.workflow.parameters import MAX_PARAMETERS, MAX_TEXT, MAX_WHOLE, find_parameters
from comfytunnel.workflow.values import apply_values
from tests.workflow import graphs
from tests.workflow.graphs import Graph, node

SAMPLING = ["seed=3.seed", "width=5.width", "height=5.height", "batch_size=5.batch_size"]
REST = ["steps=3.steps", "cfg=3.cfg", "sampler=3.sampler_name", "scheduler=3.scheduler", "denoise=3.denoise"]
PROMPTS = ["prompt=6.text", "negative_prompt=7.text"]

SHAPES: dict[Callable[[], Graph], list[str]] = {
    graphs.sd15: [*PROMPTS, *SAMPLING, *REST],
    graphs.image_to_image: [*PROMPTS, "image=10.image", "seed=3.seed", *REST],
    graphs.inpainting: [
        *PROMPTS, "image=10.image", "reference=11.image", "mask=5.image", "seed=3.seed", *REST
    ],
    graphs.sdxl_with_refiner: [
        "prompt=6.text+15.text", "negative_prompt=7.text+16.text", "seed=10.noise_seed", "width=5.width",
        "height=5.height", "batch_size=5.batch_size", "steps=10.steps+11.steps", "cfg=10.cfg+11.cfg",
        "sampler=10.sampler_name+11.sampler_name", "scheduler=10.scheduler+11.scheduler",
    ],
    graphs.flux: [
        "prompt=6.text", "seed=25.noise_seed", "width=34.value", "height=35.value", "batch_size=27.batch_size",
        "steps=17.steps", "guidance=26.guidance", "sampler=16.sampler_name", "scheduler=17.scheduler",
        "denoise=17.denoise",
    ],
    graphs.zeroed: ["prompt=6.text", *SAMPLING, *REST],
    graphs.two_passes: [
        *PROMPTS, "seed=3.seed", "seed_second_pass=11.seed", *SAMPLING[1:],
        "steps=3.steps", "steps_second_pass=11.steps", "cfg=3.cfg+11.cfg",
        "sampler=3.sampler_name+11.sampler_name", "scheduler=3.scheduler+11.scheduler",
        "denoise=3.denoise", "denoise_second_pass=11.denoise",
    ],
    graphs.joined_texts: ["prompt=20.value", "prompt_2=21.string_b", "negative_prompt=7.text", *SAMPLING, *REST, "how_much=22.value"],
    graphs.switched: [
        "prompt=20.value", "prompt_lyrics=6.lyrics", "negative_prompt=7.text", *SAMPLING, *REST,
        "primitive_float=27.value", "system_prompt=21.value", "enhance=24.value",
    ],
    graphs.upscale: ["image=1.image", "width=4.width", "height=4.height"],
    graphs.one_colour: ["width=1.width", "height=1.height", "batch_size=1.batch_size"],
}  # fmt: skip


def brief(graph: Graph, known: Callable[[str], NodeInfo | None] = lambda _: None) -> list[str]:
    return [
        f"{each.name}={'+'.join(f'{target.node_id}.{target.input}' for target in each.targets)}"
        for each in find_parameters(graph, known)
    ]


@pytest.mark.parametrize(
    ("shape", "expected"), SHAPES.items(), ids=lambda each: getattr(each, "__name__", "")
)
def test_what_is_found_in_each_shape(shape: Callable[[], Graph], expected: list[str]) -> None:
    parse_api_graph(shape())
    assert brief(shape()) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=lambda each: each.__name__)
def test_the_defaults_may_be_sent_back_and_change_nothing_but_the_seed(shape: Callable[[], Graph]) -> None:
    """What a form shows is what the API takes."""
    graph, found = shape(), find_parameters(shape())
    given = {each.name: each.default for each in found}
    assert apply_values(graph, found, given, random.randint).workflow == graph == shape()


def test_labels_are_the_titles_that_somebody_gave() -> None:
    graph = graphs.joined_texts()
    graph["7"]["_meta"]["title"] = "Not \x1b[31mthis\x1b[0m\n\u202eplease" + "!" * 200
    labels = {each.name: each.label for each in find_parameters(graph)}
    assert labels["prompt"] == "Subject"
    assert labels["prompt_2"] == "Positive prompt 2"
    assert labels["negative_prompt"] == "Not this please" + "!" * 65
    assert labels["seed"] == "Seed"
    assert {each.name: each.label for each in find_parameters(graphs.two_passes())}[
        "steps_second_pass"
    ] == "Steps (Second pass)"


@pytest.mark.parametrize(("on", "first"), [(True, "21"), (False, "20")])
def test_of_two_prompts_at_a_switch_the_one_that_it_passes_on_is_the_prompt(on: bool, first: str) -> None:
    graph = graphs.sd15() | {
        "20": node("PrimitiveString", "One", value="a"),
        "21": node("PrimitiveString", "Two", value="b"),
        "22": node("ComfySwitchNode", on_false=["20", 0], on_true=["21", 0], switch=on),
    }
    graph["6"] = graphs.encode(["22", 0])
    assert brief(graph)[0] == f"prompt={first}.value"


def test_a_primitive_without_a_title_is_there_and_not_shown_and_a_float_takes_fractions() -> None:
    found = {each.name: each for each in find_parameters(graphs.switched())}
    assert [name for name, each in found.items() if each.hidden] == ["primitive_float"]
    assert found["primitive_float"].kind == "number"
    assert found["prompt_lyrics"].label == "Positive prompt (Lyrics)"


def entry(inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"input": {"required": inputs}, "output": [], **more}).encode()


def test_limits_and_choices_are_those_that_comfyui_told() -> None:
    told = {
        "KSampler": entry(
            {
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "steps": ["INT", {"min": 1, "max": 99, "step": 2}],
                "cfg": ["FLOAT", {"min": 0.5, "max": 9.5, "step": 0.5}],
                "sampler_name": [["euler", "dpmpp_2m"]],
                "scheduler": ["COMBO", {"options": ["normal"]}],
            }
        ),
        "CLIPTextEncode": entry(
            {"text": ["STRING", {"multiline": True}]}, display_name="CLIP Text Encode (Prompt)"
        ),
        "MyPicture": entry({"file": [["a.png"], {"image_upload": True}]}),
        "Style": entry({"strength": ["FLOAT", {"max": 2}], "name": [["oil", "ink"]]}, display_name="Style"),
    }
    graph = graphs.sd15() | {
        "20": node("MyPicture", file="a.png"),
        "21": node("Style", "How bold", strength=1, name="oil", on=["20", 0]),
        "22": node("Style", "Style", strength=1, name="oil", on=["21", 0]),
    }
    graph["3"]["inputs"]["latent_image"] = ["22", 0]
    known = {name: read_node(name, raw) for name, raw in told.items()}
    found = {each.name: each for each in find_parameters(graph, known.get)}
    assert (found["seed"].min, found["seed"].max) == (0, MAX_WHOLE), "what a browser can say"
    assert (found["steps"].min, found["steps"].max, found["steps"].step) == (1, 99, 2)
    assert (found["cfg"].kind, found["cfg"].max) == ("number", 9.5)
    assert found["sampler"].choices == ["euler", "dpmpp_2m"]
    assert found["scheduler"].choices == ["normal"]
    assert found["image"].targets[0].input == "file"
    assert found["how_bold_strength"].kind == "number"
    assert found["how_bold_name"].choices == ["oil", "ink"]
    assert not [name for name in found if name.startswith("style")], "nobody has given it a title"


def test_what_is_not_used_is_not_offered() -> None:
    graph = graphs.sd15()
    graph["99"] = node("EmptyLatentImage", width=1, height=1, batch_size=1)
    graph["98"] = graphs.encode("never read")
    assert brief(graph) == SHAPES[graphs.sd15]


def test_pictures_are_never_taken_together_and_a_text_for_both_is_the_positive_one() -> None:
    graph = graphs.sd15()
    graph["3"]["inputs"]["negative"] = ["6", 0]
    assert brief(graph)[:2] == ["prompt=6.text", "seed=3.seed"]
    assert [each.name for each in find_parameters(graphs.inpainting()) if each.kind == "image"] == [
        "image",
        "reference",
        "mask",
    ]


@pytest.mark.timeout(10)
def test_hostile_graphs_end_and_are_bounded() -> None:
    """Circles, links to nowhere, depth, width, and texts without end."""
    ring = {str(n): node("Reroute", any=[str((n + 1) % 500), 0], text=["1", 0]) for n in range(500)}
    ring["k"] = graphs.sampler("1", "2", "3", seed=["5", 0], steps=["nowhere", 0])
    brief(ring)
    deep: Graph = {
        str(n): node("ConditioningCombine", conditioning_1=[str(n + 1), 0], conditioning_2=[str(n + 1), 0])
        for n in range(9_000)
    }
    deep["9000"] = graphs.encode("at the end", "4")
    deep |= {"k": graphs.sampler("5", "0", "0"), "4": graphs.loader()}
    began = time.monotonic()
    assert brief(deep)[0] == "prompt=9000.text"
    wide: Graph = {str(n): node("PrimitiveInt", f"T{n % 3}", value=n) for n in range(5_000)}
    wide["s"] = node("SaveAll", **{f"v{n}": [str(n), 0] for n in range(5_000)})
    names = [each.name for each in find_parameters(wide)]
    assert len(names) == len(set(names)) == MAX_PARAMETERS
    assert time.monotonic() - began < 5
    assert find_parameters({"1": graphs.encode("x" * (MAX_TEXT + 1), "1")}) == []


plain = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.booleans(), st.none())
links = st.tuples(st.sampled_from("0123456"), st.integers(0, 2)).map(list)
names = st.sampled_from(
    [
        "text",
        "positive",
        "negative",
        "seed",
        "width",
        "height",
        "value",
        "conditioning",
        "steps",
        "image",
        "clip",
    ]
)
classes = st.sampled_from(
    ["KSampler", "CLIPTextEncode", "EmptyLatentImage", "PrimitiveInt", "LoadImage", "Reroute", "BasicGuider"]
)
nodes = st.builds(
    lambda kind, inputs, title: node(kind, title, **inputs),
    classes, st.dictionaries(names, st.one_of(plain, links), max_size=6), st.one_of(st.none(), st.text(max_size=8)),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from("0123456"), nodes, min_size=1), st.data())
@settings(max_examples=150, deadline=None)
def test_any_graph_gives_the_same_names_twice_each_target_once_and_takes_its_values(
    graph: Graph, data: st.DataObject
) -> None:
    found = find_parameters(graph)
    assert found == find_parameters(json.loads(json.dumps(graph)))
    assert len({each.name for each in found}) == len(found)
    targets = [(target.node_id, target.input) for each in found for target in each.targets]
    assert len(set(targets)) == len(targets)
    assert all(name in graph[node_id]["inputs"] for node_id, name in targets)
    for each in found:
        if each.kind == "text":
            text = data.draw(st.text(max_size=20))
            after = apply_values(graph, found, {each.name: text}, random.randint).workflow
            assert all(after[target.node_id]["inputs"][target.input] == text for target in each.targets)
