"""GET /v1/openapi.json says what is served, whole and in itself consistent. That it is true, tests/app/test_openapi.py finds out on a daemon."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import get_args

import msgspec
import pytest

from comfytunnel import wire, words
from comfytunnel.api.openapi import document
from comfytunnel.api.routes import ROUTES
from comfytunnel.decoding import decode
from tests.api import contract
from tests.api.conftest import Api


async def test_it_is_served_and_names_every_route_and_no_other(api: Api) -> None:
    status, told = await api.ask("GET", "/v1/openapi.json")
    assert (status, told["openapi"]) == (200, "3.1.0")
    named = [(method.upper(), path) for path, item in told["paths"].items() for method in item]
    assert sorted(named) == sorted(route.key for route in ROUTES)


def test_every_reference_leads_somewhere_and_every_schema_is_meant() -> None:
    told = document(ROUTES)
    text = json.dumps(told)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) == set(told["components"]["schemas"])


def test_an_operation_has_a_name_of_its_own_and_one_sentence() -> None:
    operations = [found for item in document(ROUTES)["paths"].values() for found in item.values()]
    assert len({found["operationId"] for found in operations}) == len(ROUTES)
    assert [
        found["summary"] for found in operations if not re.fullmatch(r"[A-Z][^\n]+\.", found["summary"])
    ] == []


WORDS = {
    ("Tunnel", "phase"): words.Phase,
    ("Report", "phase"): words.Phase,
    ("Next", "action"): words.Action,
    ("Outage", "detected_by"): words.Sign,
    ("ComfyUI", "state"): words.ComfyState,
    ("Job", "status"): words.Status,
    ("StatusEvent", "status"): words.Status,
    ("Queue", "state"): (*words.Mode, words.DRAINED),
    ("Webhook", "state"): get_args(words.HookState),
    ("WebhookMessage", "type"): words.MESSAGES,
    ("Output", "type"): get_args(words.OutputKind),
    ("Parameter", "kind"): get_args(words.ParameterKind),
    ("Trust", "status"): get_args(words.HostKeyStatus),
    ("Agent", "source"): get_args(words.AgentSource),
    ("Check", "step"): get_args(words.Step),
    ("Report", "broken"): get_args(words.Step),
    ("Check", "result"): get_args(words.Result),
    ("MoveRequest", "to"): ("back", "front"),
}


def test_closed_lists_of_words_are_enums_and_the_server_s_own() -> None:
    told = {
        (struct, name): each["enum"]
        for struct, schema in document(ROUTES)["components"]["schemas"].items()
        for name, field in schema.get("properties", {}).items()
        for each in (field, *field.get("anyOf", ()))
        if "enum" in each
    }
    assert told == {field: list(known) for field, known in WORDS.items()}


def test_a_list_of_jobs_can_be_asked_for_by_each_status() -> None:
    (asked,) = (
        each["schema"]
        for each in document(ROUTES)["paths"]["/api/v2/jobs"]["get"]["parameters"]
        if each["name"] == "status"
    )
    assert asked == {"type": "string", "enum": sorted(words.Status)}


def test_the_contract_s_own_lists_are_what_it_says() -> None:
    assert contract.words("JobStatus") == set(words.Status)
    assert contract.words("OutputType") == set(get_args(words.OutputKind))


@pytest.mark.parametrize(("struct", "name"), [field for field in WORDS if field != ("MoveRequest", "to")])
def test_a_reader_takes_a_word_that_it_does_not_know(struct: str, name: str) -> None:
    """A newer daemon may say more than this version's schema lists."""
    kind = next(field for field in msgspec.structs.fields(getattr(wire, struct)) if field.name == name).type
    assert decode(b'"new_word"', kind) == "new_word"


def test_a_start_does_not_draw_it() -> None:
    """It costs some milliseconds, and most days nobody asks."""
    line = "import sys, comfytunnel.api.server; sys.exit('comfytunnel.api.openapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0
