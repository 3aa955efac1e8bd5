"""What a row of the route table says: where it is, who answers, what it takes, and everything it may answer.

Nouns only. The table itself is routes.py; the server routes by it, /v1/openapi.json is drawn from it (openapi.py), and the tests judge
every answer by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from comfytunnel.api.answers import Handler, status_of

EVERYWHERE = ("forbidden", "browser_refused", "state_error", "disk_full")
"""Codes that every route may answer, beside the one for a mistake of ours."""

BODY = ("invalid_json", "invalid_request", "too_large")
"""Codes of a route that reads a JSON body (answers.read_json)."""


@dataclass(frozen=True)
class Events:
    """A stream of Server-Sent Events: the type of each event's data, by its name. With `ids`, `Last-Event-ID` resumes it."""

    kinds: Mapping[str, Any]
    ids: bool = False


@dataclass(frozen=True)
class Media:
    """A body that is no JSON, by its media type."""

    content_type: str


@dataclass(frozen=True, kw_only=True)
class Form:
    """A body of multipart/form-data."""

    fields: type[msgspec.Struct]


@dataclass(frozen=True)
class Route:
    """One row. `summary`: one sentence for the reader of openapi.json.

    `answers`: the type of the JSON by status, or Events, Media, or None for no body. `takes`: the type of the JSON body, or a Form;
    `optional`: it may be left out. `query`: its parameters, which the handler reads with `read_query`. `headers`: those it looks at. `errors`: the codes that
    it may answer beside those of EVERYWHERE; `unfit`: those for JSON that cannot be read or does not fit.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Any]
    takes: Any = None
    optional: bool = False
    query: type[msgspec.Struct] | None = None
    headers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unfit: tuple[str, ...] = BODY

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def refusals(self) -> dict[int, list[str]]:
        """Every code that may be answered, by its status."""
        codes = [*self.errors, *EVERYWHERE]
        if self.takes is not None and not isinstance(self.takes, Form):
            codes += self.unfit
        codes.append("upstream_error" if self.path.startswith("/api/v2/") else "internal")
        found: dict[int, list[str]] = {}
        for code in dict.fromkeys(codes):
            found.setdefault(status_of(code, self.path), []).append(code)
        return dict(sorted(found.items()))
