"""Several workflows out of one: every combination, repeats, seeds that are drawn, counted or kept."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.errors import UsageError
from comfytunnel.workflow.select import Target, read_assignment
from comfytunnel.workflow.vary import Seed, Variant, read_seed, read_variation, seeds, split_values, variants

GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "sampler_name": "euler"}},
    "4": {"class_type": "RandomNoise", "inputs": {"noise_seed": 2}},
    "5": {"class_type": "KSampler", "inputs": {"seed": ["6", 0], "steps": ["7", 0]}},
    "6": {"class_type": "PrimitiveInt", "inputs": {"value": 9}},
    "7": {"class_type": "PrimitiveInt", "inputs": {"value": 30}},
}


def vary(
    *options: str, seed: Seed | None = None, repeat: int = 1, kept: tuple[Target, ...] = ()
) -> list[Variant]:
    drawn = itertools.count(1000)
    variations = [read_variation(GRAPH, read_assignment("--vary", text, "")) for text in options]
    return list(variants(GRAPH, variations, seed=seed, repeat=repeat, kept=kept, draw=lambda: next(drawn)))


def seeds_in(variant: Variant) -> list[Any]:
    graph = variant.workflow
    return [graph["3"]["inputs"]["seed"], graph["4"]["inputs"]["noise_seed"], graph["6"]["inputs"]["value"]]


def test_seeds_are_the_numbers_that_only_seeds_use() -> None:
    """A node that hands its number to seeds alone counts, one that gives the steps does not."""
    assert seeds(GRAPH) == [Target("3", "seed"), Target("4", "noise_seed"), Target("6", "value")]


def test_a_workflow_alone_stays_as_it_is() -> None:
    assert vary() == [Variant(GRAPH)]
    assert vary(seed="fixed", repeat=2) == [Variant(GRAPH)] * 2


def test_each_run_draws_one_seed_for_all_or_counts_up_from_a_number() -> None:
    assert [seeds_in(each) for each in vary(seed="random")] == [[1000] * 3]
    assert [seeds_in(each) for each in vary(repeat=2)] == [
        [1000] * 3,
        [1001] * 3,
    ]  # the same again would run nothing
    assert [seeds_in(each) for each in vary(seed=7, repeat=2)] == [[7] * 3, [8] * 3]


def test_the_product_varies_the_last_fastest_and_says_what_is_each_ones_own() -> None:
    found = vary("3.steps=1,2", r"3.sampler_name=a\,b,c", seed=5)
    assert [each.chosen for each in found] == [
        {"3.steps": steps, "3.sampler_name": name, "seed": 5} for steps in (1, 2) for name in ("a,b", "c")
    ]
    assert found[1].workflow["3"]["inputs"] == {"seed": 5, "steps": 1, "sampler_name": "c"}
    assert GRAPH["3"]["inputs"]["steps"] == 20


def test_a_seed_that_was_set_or_varied_is_left_alone() -> None:
    assert [seeds_in(each) for each in vary("3.seed=4,5", seed=1)] == [[4, 1, 1], [5, 1, 1]]
    assert seeds_in(vary(seed=1, kept=(Target("3", "seed"),))[0]) == [1, 1, 1]
    with pytest.raises(UsageError, match="set or varied already"):
        vary(seed=1, kept=tuple(seeds(GRAPH)))


@pytest.mark.parametrize(
    ("options", "asked", "words"),
    [
        (["3.steps=" + ",".join("12345678901")], {"repeat": 100}, "1100 jobs"),
        (["3.steps=1", "3.steps=2"], {}, "twice"),
        (["3.steps:=3"], {}, "array"),
        ([], {"seed": 2**64 - 1, "repeat": 2}, "after it"),
    ],
)
def test_what_cannot_be_is_said_before_the_first(
    options: list[str], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        vary(*options, **asked)


def test_a_json_array_gives_the_values_as_they_are() -> None:
    assert [each.chosen["5.steps"] for each in vary('5.steps:=[1, ["7", 0]]')] == [1, ["7", 0]]


@pytest.mark.parametrize("text", ["-1", "18446744073709551616", "seven", "1.5", "٣", ""])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="random, fixed"):
        read_seed(text)


@given(st.lists(st.text(), min_size=1))
def test_any_values_can_be_written_with_backslashes(values: list[str]) -> None:
    text = ",".join(value.replace("\\", "\\\\").replace(",", "\\,") for value in values)
    assert split_values(text) == values
