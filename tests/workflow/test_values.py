"""Values are judged before they go into a graph, and a TOML says over what was found what a person wants."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import msgspec
import pytest

from comfytunnel.errors import ConfigError, UsageError
from comfytunnel.wireworkflows import Parameter, Target
from comfytunnel.workflow.adjust import Adjusted, adjust
from comfytunnel.workflow.parameters import MAX_TEXT, find_parameters
from comfytunnel.workflow.values import apply_values, checked
from tests.workflow import graphs


def parameter(kind: str, **more: Any) -> Parameter:
    return Parameter(name="p", kind=kind, label="P", targets=[Target("1", "v")], **more)


@pytest.mark.parametrize(
    ("it", "value", "wanted"),
    [
        (parameter("integer"), 20.0, 20),
        (parameter("integer", min=1, max=9), 9, 9),
        (parameter("number", max=1), 1, 1),
        (parameter("number"), 0.25, 0.25),
        (parameter("seed"), 2**53 - 1, 2**53 - 1),
        (parameter("text"), "\x00 ünï\n", "\x00 ünï\n"),
        (parameter("boolean"), False, False),
        (parameter("choice", choices=["a", 1]), 1, 1),
        (parameter("choice"), "whatever it has", "whatever it has"),
    ],
)
def test_a_value_that_fits_goes_in(it: Parameter, value: Any, wanted: Any) -> None:
    found = checked(it, value)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("it", "value", "said"),
    [
        (parameter("integer"), 20.5, "must be a whole number"),
        (parameter("integer"), "20", "must be a whole number"),
        (parameter("integer"), True, "must be a whole number"),
        (parameter("integer"), 10**400, "must be a whole number"),
        (parameter("integer", min=1, max=9), 10, "from 1 to 9"),
        (parameter("number"), float("nan"), "must be a number"),
        (parameter("number"), float("inf"), "must be a number"),
        (parameter("number", min=0.5, max=1), 0.25, "from 0.5 to 1"),
        (parameter("seed"), -1, "from 0 to 9007199254740991"),
        (parameter("seed"), 2**53, "from 0 to"),
        (parameter("text"), ["6", 0], "a list"),
        (parameter("text"), "x" * (MAX_TEXT + 1), "at most"),
        (parameter("boolean"), 1, "true or false"),
        (parameter("choice", choices=["euler", "heun"]), "Eulr", "Did you mean 'euler'"),
        (parameter("choice", choices=["a", 1]), True, "Choose one of 'a', 1."),
        (parameter("choice"), {"a": 1}, "one of its choices"),
        (parameter("text"), 7, "7, and must be a text"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(it: Parameter, value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(it, value)
    assert said in str(caught.value)
    assert caught.value.details == {"path": "$.params.p"}


def test_what_is_left_out_stays_and_every_seed_is_drawn_within_its_limits() -> None:
    graph = graphs.two_passes()
    found = find_parameters(graph)
    asked: list[tuple[int, int]] = []

    def draw(low: int, high: int) -> int:
        asked.append((low, high))
        return high

    done = apply_values(graph, found, {"seed": 5, "steps": None, "prompt": "a dog"}, draw)
    assert done.params == {"prompt": "a dog", "seed": 5, "seed_second_pass": 2**32 - 1}
    assert asked == [(0, 2**32 - 1)]
    assert done.workflow["11"]["inputs"]["seed"] == 2**32 - 1
    assert graph == graphs.two_passes(), "the workflow itself stays as it is"
    narrow = [msgspec.structs.replace(each, min=3, max=7) if each.kind == "seed" else each for each in found]
    apply_values(graph, narrow, {}, draw)
    assert asked[1:] == [(3, 7), (3, 7)]


def test_every_target_gets_the_value() -> None:
    graph = graphs.sdxl_with_refiner()
    after = apply_values(
        graph, find_parameters(graph), {"prompt": "x", "steps": 9}, lambda low, _: low
    ).workflow
    assert [after[each]["inputs"]["text"] for each in ("6", "15")] == ["x", "x"]
    assert [after[each]["inputs"]["steps"] for each in ("10", "11")] == [9, 9]


def test_a_name_that_is_not_there_is_refused_with_the_one_that_was_meant() -> None:
    graph = graphs.sd15()
    with pytest.raises(UsageError, match="Did you mean 'negative_prompt'") as caught:
        apply_values(graph, find_parameters(graph), {"negativeprompt": "x"}, lambda low, _: low)
    assert caught.value.details == {"path": "$.params.negativeprompt"}


# --- the TOML -------------------------------------------------------------------------------------------------------


def adjusted(text: str) -> Adjusted:
    graph = graphs.sd15()
    return adjust(graph, find_parameters(graph), tomllib.loads(text), "it.toml")


def test_a_toml_labels_bounds_presets_hides_and_adds() -> None:
    done = adjusted(
        """
        title = "Bottles"
        description = "Two\\nlines\\u001b[31m"
        [parameters.prompt]
        label = "What?"
        default = "a jug"
        [parameters.cfg]
        hidden = true
        [parameters.steps]
        min = 10
        max = 30
        step = 5
        [parameters.width]
        choices = [512, 768]
        [parameters.name]
        target = "9.filename_prefix"
        [parameters.both]
        target = ["Empty Latent Image.width", "EmptyLatentImage.height"]
        label = "Edge"
        """
    )
    found = {each.name: each for each in done.parameters}
    assert (done.title, done.description) == ("Bottles", "Two\nlines")
    assert (found["prompt"].label, found["prompt"].default) == ("What?", "a jug")
    assert done.workflow["6"]["inputs"]["text"] == "a jug", "who leaves it out gets what the form shows"
    assert found["cfg"].hidden
    assert (found["steps"].min, found["steps"].max, found["steps"].step) == (10, 30, 5)
    assert (found["width"].kind, found["width"].choices) == ("choice", [512, 768])
    assert (found["name"].kind, found["name"].default) == ("text", "ComfyUI")
    assert (found["both"].kind, found["both"].default, len(found["both"].targets)) == ("integer", 512, 2)
    json.dumps(msgspec.to_builtins(done.parameters))


def test_every_mistake_in_a_toml_is_found_at_once_with_what_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        adjusted(
            """
            titel = "x"
            description = 5
            [parameters.promt]
            label = "x"
            [parameters.steps]
            labl = "x"
            [parameters.cfg]
            max = "much"
            [parameters.seed]
            max = inf
            [parameters.denoise]
            default = 2
            [parameters.width]
            min = 5
            max = 4
            [parameters.new]
            target = "3.sed"
            [parameters.other]
            target = "3.model"
            [parameters.prompt]
            kind = "seed"
            """
        )
    told = {problem.path: f"{problem.message} {problem.hint}" for problem in caught.value.problems}
    assert set(told) == {
        "titel", "description", "parameters.promt", "parameters.steps.labl", "parameters.cfg.max", "parameters.seed.max",
        "parameters.denoise", "parameters.width", "parameters.new", "parameters.other", "parameters.prompt",
    }  # fmt: skip
    assert "Did you mean title?" in told["titel"]
    assert "Did you mean prompt?" in told["parameters.promt"]
    assert "Did you mean label?" in told["parameters.steps.labl"]
    assert "Did you mean 'seed'?" in told["parameters.new"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('[parameters.step]\ntarget = "3.stpes"', "Did you mean 'steps'? It has"),
        ('[parameters.x]\ntarget = "KSamplr.steps"', "Did you mean 'KSampler'?"),
        ('[parameters.x]\ntarget = "3.model"\nkind = "numbr"', "Did you mean number?"),
        ('[parameters.x]\ntarget = "3.model"\nkind = "\\u001b[2Jz"', "Known: text, integer"),
        ('[parameters.other]\nlabel = "x"', "It has prompt, negative_prompt"),
    ],
)
def test_who_misspells_a_target_a_kind_or_a_parameter_is_told_what_there_is(said: str, words: str) -> None:
    """In words for a TOML: nothing of how the command line would write it."""
    with pytest.raises(ConfigError) as caught:
        adjusted(said)
    assert words in caught.value.hint
    assert ":=" not in caught.value.hint
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("[parameters.prompt]\nmin = 1", "no min: it is of the kind text"),
        ("[parameters.sampler]\nmax = 4\nstep = 1", "no max and no step: it is of the kind choice"),
        ("[parameters.steps]\nchoices = [4, 8]\nmin = 4", "no min: it is of the kind choice"),
        ("[parameters.steps]\nmultiline = true", "no multiline: it is of the kind integer"),
        ("[parameters.seed]\nchoices = [4, 8]", "no choices: it is of the kind seed"),
        (
            '[parameters.x]\ntarget = "3.steps"\nkind = "boolean"\nstep = 1',
            "no step: it is of the kind boolean",
        ),
        ('[parameters.x]\ntarget = "3.steps"\nkind = "image"\nmin = 1', "no min: it is of the kind image"),
    ],
)
def test_what_a_kind_has_no_use_for_is_refused(said: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"takes {wrong}") as caught:
        adjusted(said)
    assert "min, max and step are for numbers" in caught.value.hint
