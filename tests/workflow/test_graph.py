"""A workflow is judged by its shape alone, and a mistake is told with its next step."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.errors import WorkflowError
from comfytunnel.workflow.graph import MAX_NODES, check_links, parse_api_graph

NODE = {"class_type": "EmptyImage", "inputs": {"width": 8}, "_meta": {"title": "Blank"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_a_graph_knows_its_nodes_and_titles() -> None:
    graph = parse_api_graph({"1": NODE, "2:7": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}})
    assert len(graph) == 2
    assert (graph.nodes["1"].class_type, graph.nodes["1"].title) == ("EmptyImage", "Blank")
    assert graph.nodes["2:7"].title == "SaveImage"


@pytest.mark.parametrize(
    ("workflow", "code", "words"),
    [
        ({"nodes": [], "links": [], "version": 0.4}, "workflow_format_ui", "web page"),
        ({"nodes": [{"id": 1}]}, "workflow_format_ui", "web page"),
        ({}, "invalid_workflow", "empty"),
        ([], "invalid_workflow", "not a JSON object"),
        ("x", "invalid_workflow", "not a JSON object"),
        ({"prompt": {"1": NODE}}, "invalid_workflow", "request body"),
        ({"1": []}, "invalid_workflow", "'1' is not an object"),
        ({"1": {"inputs": {}}}, "invalid_workflow", "no class_type"),
        ({"1": {"class_type": 5}}, "invalid_workflow", "no class_type"),
        ({"1": {"class_type": "A", "inputs": []}}, "invalid_workflow", "inputs"),
        ({str(n): NODE for n in range(MAX_NODES + 1)}, "invalid_workflow", "at most"),
    ],
)
def test_what_no_comfyui_could_run_is_refused_with_a_reason(workflow: Any, code: str, words: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        parse_api_graph(workflow)
    assert caught.value.code_on_wire == code
    assert words in caught.value.message


def test_a_link_to_nowhere_is_told_of_by_those_who_do_not_know_the_outputs() -> None:
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "A", "inputs": {"x": ["3", 0], "y": ["1", 0]}}}
    assert len(parse_api_graph(graph)) == 2
    with pytest.raises(WorkflowError) as caught:
        check_links(graph)
    assert "'3', which is not there" in caught.value.message
    assert set(caught.value.details["node_errors"]) == {"2"}


def test_the_ui_format_says_how_to_export_the_other() -> None:
    with pytest.raises(WorkflowError) as caught:
        parse_api_graph({"nodes": [], "links": []})
    assert "Export (API)" in caught.value.hint


def test_all_bad_nodes_are_named() -> None:
    with pytest.raises(WorkflowError) as caught:
        parse_api_graph({"1": NODE, "2": {}, "3": {}})
    assert set(caught.value.details["node_errors"]) == {"2", "3"}


@given(JSON)
def test_any_json_is_judged_without_another_exception(workflow: object) -> None:
    with contextlib.suppress(WorkflowError):
        assert len(parse_api_graph(workflow)) > 0
