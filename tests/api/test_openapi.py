"""GET /v1/openapi.json says what is served, whole and in itself consistent. That it is true, tests/app/test_openapi.py finds out on a daemon."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from comfytunnel.api.openapi import document
from comfytunnel.api.routes import ROUTES
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


def test_a_start_does_not_draw_it() -> None:
    """It costs some milliseconds, and most days nobody asks."""
    line = "import sys, comfytunnel.api.server; sys.exit('comfytunnel.api.openapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0
