"""Draws /v1/openapi.json (OpenAPI 3.1) from the route table and the types of wire.py. Pure; knows no route and no type by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from comfytunnel import __version__, wire
from comfytunnel.api.answers import CLAIM_MOST
from comfytunnel.api.route import Events, Form, Media, Route
from comfytunnel.decoding import schemas

REF = "#/components/schemas/{name}"
JSON = "application/json"
HEADERS = {"Idempotency-Key": {"type": "string", "pattern": f"^[ -~]{{1,{CLAIM_MOST}}}$"}}
"""What is told of the headers that are not HTTP's own."""
UNREAD = ("bad_request",)
"""What may be answered before it is known which route is meant, so not the table's: no HTTP, or a line of more than 8190 bytes (aiohttp)."""
ABOUT = (
    "Served over HTTP/1.1 on the daemon's Unix socket; the name of the host does not matter. docs/api.md says more. "
    "Under /api/v2 it is the Comfy API v2 with an extra key `comfytunnel`."
)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document: plain JSON values."""
    kinds = list(dict.fromkeys([*_kinds(routes), wire.ErrorEnvelope, wire.WebhookMessage]))
    found, components = schemas(kinds, REF)
    schema_of = dict(zip(kinds, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    message = {"required": True, "content": {JSON: {"schema": schema_of[wire.WebhookMessage]}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "comfytunnel", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "webhooks": {
            "job": {
                "post": {
                    "summary": "What the receiver of a job's webhook gets when the job has ended.",
                    "requestBody": message,
                    "responses": {"2XX": {"description": "understood"}},
                }
            }
        },
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _kinds(routes: Sequence[Route]) -> Iterator[Any]:
    """Every type that needs a schema."""
    for route in routes:
        for kind in (route.takes, *route.answers.values()):
            match kind:
                case None | Media():
                    pass
                case Form(fields=fields):
                    yield fields
                case Events(kinds=kinds):
                    yield from kinds.values()
                case _:
                    yield kind


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    room = route.handler.__module__.rpartition(".")[2]
    operation: dict[str, Any] = {
        "operationId": f"{room}_{route.handler.__name__}",
        "tags": [room],
        "summary": route.summary,
        "parameters": list(_parameters(route)),
    }
    if route.takes is not None:
        is_form = isinstance(route.takes, Form)
        kind = route.takes.fields if is_form else route.takes
        operation["requestBody"] = {
            "required": not route.optional,
            "content": {"multipart/form-data" if is_form else JSON: {"schema": schema_of[kind]}},
        }
    refusals = route.refusals
    refusals[400] = [*refusals.get(400, ()), *UNREAD]
    operation["responses"] = {
        str(status): _answer(kind, schema_of) for status, kind in route.answers.items()
    } | {
        str(status): _refusal(status, codes, schema_of, route.method == "HEAD")
        for status, codes in sorted(refusals.items())
    }
    return operation


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if route.query is not None:
        _, shapes = schemas([route.query])
        whole = shapes.pop(route.query.__name__)
        for name, schema in whole["properties"].items():
            needed = name in whole.get("required", ())
            yield {"name": name, "in": "query", "required": needed, "schema": _in_text(schema, shapes)}
    for name in route.headers:
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "schema": HEADERS.get(name, {"type": "string"}),
        }
    if any(isinstance(kind, Events) and kind.ids for kind in route.answers.values()):
        number = {"type": "string", "pattern": "^[0-9]{0,18}$"}
        yield {"name": "Last-Event-ID", "in": "header", "required": False, "schema": number}


def _in_text(schema: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is left out is null here; no text says so. `shapes`: what a schema may point to."""
    said = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    choices = [choice for choice in said.get("anyOf", ()) if choice != {"type": "null"}]
    if "enum" in said:
        said["enum"] = [value for value in said["enum"] if value is not None]
    only = choices[0] if len(choices) == 1 else said
    return {"type": "string", "enum": shapes[name]["enum"]} if (name := _pointed_to(only)) else only


def _pointed_to(schema: dict[str, Any]) -> str:
    """The name of what a schema points to, "" if it says all by itself."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _answer(kind: Any, schema_of: dict[Any, Any]) -> dict[str, Any]:
    match kind:
        case None:
            return {"description": "Without a body."}
        case Media(content_type=content_type):
            return {"description": "The bytes.", "content": {content_type: {}}}
        case Events(kinds=kinds, ids=ids):
            events = [_event(name, schema_of[kind], ids) for name, kind in kinds.items()]
            return {
                "description": "Server-Sent Events; the schema is that of each event, whose data is JSON.",
                "content": {"text/event-stream": {"schema": {"oneOf": events}}},
            }
        case _:
            return {"description": "As asked.", "content": {JSON: {"schema": schema_of[kind]}}}


def _event(name: str, schema: dict[str, Any], ids: bool) -> dict[str, Any]:
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": schema}
    number = {"id": {"type": "string", "pattern": "^[0-9]+$"}} if ids else {}
    return {
        "type": "object",
        "properties": {"event": {"const": name}, "data": data, **number},
        "required": ["event", "data"],
    }


def _refusal(status: int, codes: list[str], schema_of: dict[Any, Any], headless: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"description": "Refused: " + ", ".join(codes) + "."}
    if not headless:
        coded = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        told["content"] = {JSON: {"schema": {"allOf": [schema_of[wire.ErrorEnvelope], coded]}}}
    if status in (429, 503):
        seconds = {"type": "string", "pattern": "^[0-9]+$"}
        told["headers"] = {"Retry-After": {"description": "Seconds.", "required": True, "schema": seconds}}
    return told
