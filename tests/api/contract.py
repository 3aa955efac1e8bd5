"""Comfy API v2 as a judge: does an answer fit what the contract says of its route and status?"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

CONTRACT = Path(__file__).parents[1] / "contract" / "comfy-api-v2.yaml"


@functools.cache
def _contract() -> dict[str, Any]:
    loaded: dict[str, Any] = _nullable(yaml.safe_load(CONTRACT.read_text(encoding="utf-8")))
    return loaded


def _nullable(schema: Any) -> Any:
    """Translate OpenAPI 3.0's `nullable` into JSON Schema's "or null"."""
    if isinstance(schema, list):
        return [_nullable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def check(method: str, route: str, status: int, body: Any) -> None:
    """Fail unless the contract knows this answer of this route, and the body fits."""
    responses = _contract()["paths"][route][method.lower()]["responses"]
    assert str(status) in responses, f"{method} {route} may not answer {status}"
    answer = responses[str(status)]
    if "$ref" in answer:
        answer = _contract()["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    _fits(answer["content"]["application/json"]["schema"], body)


def check_schema(name: str, body: Any) -> None:
    """Fail unless the body fits a schema of the contract (a payload of the event stream)."""
    _fits({"$ref": f"#/components/schemas/{name}"}, body)


def _fits(schema: dict[str, Any], body: Any) -> None:
    whole = {**schema, "components": _contract()["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(body)
