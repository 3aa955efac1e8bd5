"""Comfy API v2 as a judge: does an answer fit what the contract says of its route and status?

Strict: a key that the contract does not know is wrong, but for `comfytunnel`, where our own data stands.
"""

from __future__ import annotations

import functools
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import yaml

CONTRACT = Path(__file__).parents[1] / "contract" / "comfy-api-v2.yaml"
EXTRA = "comfytunnel"
FORMATS = jsonschema.FormatChecker(())


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(text: object) -> bool:
    return not isinstance(text, str) or ("T" in text and datetime.fromisoformat(text).tzinfo is not None)


@FORMATS.checks("uri", raises=ValueError)
def _is_absolute(text: object) -> bool:
    return not isinstance(text, str) or bool(urlsplit(text).scheme and urlsplit(text).netloc)


@functools.cache
def _contract() -> dict[str, Any]:
    loaded: dict[str, Any] = _plain(yaml.safe_load(CONTRACT.read_text(encoding="utf-8")))
    loaded["components"]["schemas"] = closed(loaded["components"]["schemas"], EXTRA)
    return loaded


def _plain(schema: Any) -> Any:
    """Translate OpenAPI 3.0's `nullable` into JSON Schema's "or null"."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def closed(schema: Any, *besides: str) -> Any:
    """The schema, with no properties in its objects but those that it names and `besides`."""
    if isinstance(schema, list):
        return [closed(item, *besides) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value, *besides) for key, value in schema.items()}
    if found.get("type") == "object" and "properties" in found and "additionalProperties" not in found:
        found["properties"] |= {name: {} for name in besides}
        found["additionalProperties"] = False
    return found


def knows(method: str, route: str) -> bool:
    return method.lower() in _contract()["paths"].get(route, {})


def words(name: str) -> set[str]:
    """The closed list of a schema of the contract."""
    return set(_contract()["components"]["schemas"][name]["enum"])


def allows(method: str, route: str, status: int) -> bool:
    """Whether the contract knows this status of this route."""
    return str(status) in _contract()["paths"][route][method.lower()]["responses"]


def check(method: str, route: str, status: int, body: Any) -> None:
    """Fail unless the contract knows this answer of this route, and the body fits."""
    assert allows(method, route, status), f"{method} {route} may not answer {status}"
    answer = _contract()["paths"][route][method.lower()]["responses"][str(status)]
    if "$ref" in answer:
        answer = _contract()["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    if "application/json" in answer.get("content", {}):
        fits(answer["content"]["application/json"]["schema"], body)


def check_schema(name: str, body: Any) -> None:
    """Fail unless the body fits a schema of the contract (a payload of the event stream)."""
    fits({"$ref": f"#/components/schemas/{name}"}, body)


def fits(schema: dict[str, Any], body: Any) -> None:
    """Fail unless the body fits; `schema` may point into the contract's components."""
    whole = {**schema, "components": _contract()["components"]}
    jsonschema.Draft202012Validator(whole, format_checker=FORMATS).validate(body)
