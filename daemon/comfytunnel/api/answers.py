"""What every answer looks like: indented JSON with a newline, and one envelope for whatever went wrong.

The only place where an error becomes an HTTP status. A handler raises errors.Error and never builds an error answer itself; an
exception that nobody foresaw is logged in full and told in one sentence that gives nothing away.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from comfytunnel import __version__, wire
from comfytunnel.api.arriving import arriving
from comfytunnel.decoding import convert, decode, schemas
from comfytunnel.errors import ConfigError, Error, NotFoundError, RefusedError, UsageError
from comfytunnel.peer import is_owner, peer_uid

BODY_LIMIT = 100 * 1024 * 1024  # bytes; ComfyUI's own limit for a workflow (facts: 413 above it)
CLAIM_MOST = 255  # characters of an Idempotency-Key
RETRY_AFTER = 5  # seconds; said with each 429 and 503 that knows no better

STATUS = {
    "invalid_json": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "browser_refused": 403,
    "host_refused": 403,
    "origin_refused": 403,
    "site_refused": 403,
    "other_user": 403,
    "webhook_refused": 403,
    "host_key_revoked": 403,
    "not_found": 404,
    "tunnel_not_found": 404,
    "workflow_not_found": 404,
    "blob_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "host_key_mismatch": 409,
    "tunnel_down": 409,
    "hash_mismatch": 409,
    "asset_in_use": 409,
    "job_not_ended": 409,
    "webhook_pending": 409,
    "job_not_waiting": 409,
    "job_not_movable": 409,
    "too_large": 413,
    "invalid_request": 422,
    "invalid_workflow": 422,
    "workflow_format_ui": 422,
    "missing_asset": 422,
    "file_too_large": 422,
    "unknown_tunnel": 422,
    "invalid_webhook": 422,
    "idempotency_key_reuse": 422,
    "credential_gone": 422,
    "config_error": 422,
    "queue_full": 429,
    "queue_draining": 429,
    "too_many_streams": 429,
    "internal": 500,
    "upstream_error": 500,
    "state_error": 500,
    "disk_full": 500,
    "not_ready": 503,
    "host_unreachable": 503,
}
"""Every code that an answer may carry, and its HTTP status. docs/api.md explains them in the same order."""

CONTRACT_WORD = {400: 422, 413: 422}
"""What the contract says, for whom a request that does not fit is 422 whatever is wrong with it. Under /api/v2 only."""

_BESIDE = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    429: {"Retry-After": str(RETRY_AFTER)},
    503: {"Retry-After": str(RETRY_AFTER)},
}
"""Headers that a status wants."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")
Query = TypeVar("Query", bound=msgspec.Struct)
_log = structlog.get_logger("comfytunnel.api")


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return `body` (a wire struct, or plain JSON values) as indented JSON."""
    text = msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
    return web.Response(
        body=text, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def status_of(code: str, path: str) -> int:
    """Return the HTTP status of a code under a path, where the contract may have another word."""
    status = STATUS.get(code, 500)
    return CONTRACT_WORD.get(status, status) if path.startswith("/api/v2/") else status


def refusal(error: Error, path: str = "") -> web.Response:
    """Return the envelope of an error, with the status of its code, or of its class where its own code has none. `path`: what was
    asked for, where the contract may have another word."""
    status = status_of(error.code_on_wire if error.code_on_wire in STATUS else type(error).code, path)
    details = dict(error.details)
    if error.hint:
        details["hint"] = error.hint
    if isinstance(error, ConfigError):
        details["source"] = error.source
        details["problems"] = [dataclasses.asdict(problem) for problem in error.problems]
    envelope = wire.ErrorEnvelope(wire.ErrorBody(error.code_on_wire, error.message, details))
    return answer(envelope, status, _BESIDE.get(status))


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Say the daemon's version in every answer, streams too, so that a client of another version can tell its user."""
    response.headers["Server"] = f"{wire.SERVER}{__version__}"


async def read_json(request: web.Request, kind: type[T], most: int = BODY_LIMIT) -> T:
    """Return the body as `kind`. UsageError: `invalid_json` when it is no JSON, `invalid_request` with the path when it does not fit, `too_large` for more
    than `most` bytes."""
    if (request.content_length or 0) > most:
        raise _too_large(most)  # before any of it is read
    body = await arriving(request, request.read())
    if len(body) > most:
        raise _too_large(most)
    try:
        return decode(body, kind)
    except msgspec.ValidationError as error:
        raise _unfit(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(
            f"The body is not JSON that can be read: {why}.",
            hint="Check the file: in JSON strings take double quotes, and nothing follows the last brace.",
            code="invalid_json",
        ) from error


def read_query(pairs: Iterable[tuple[str, str]], kind: type[Query]) -> Query:
    """Return the parameters of a query as `kind`, a wire struct. UsageError for one that it has not, and for a value that does not fit."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in known:
            raise UsageError(
                f"This route knows no parameter {name[:80]!r}.", hint=f"It takes {', '.join(known)}."
            )
        if name in found:
            raise UsageError(f"The parameter {name!r} stands there twice.", hint="Send it once.")
        # Lenient, msgspec takes "null" for null and 0.5 for a time: only where a text can be nothing else.
        told = schemas([known[name]])[0][0].get("type")
        try:
            found[name] = convert(value, known[name], strict=told not in ("integer", "boolean"))
        except msgspec.ValidationError as error:
            raise _unfit(error, f"$.{name}") from error
    return kind(**found)


def _unfit(error: msgspec.ValidationError, where: str = "") -> UsageError:
    message, _, path = str(error).partition(" - at ")
    where = where or path.strip("`") or "$"
    return UsageError(
        f"The request does not fit: {message[:1].lower()}{message[1:]}, at {where}.",
        hint="docs/api.md shows the shape that this route takes.",
        details={"path": where},
    )


def claim_of(request: web.Request) -> str | None:
    """Return the request's Idempotency-Key."""
    claim = request.headers.get("Idempotency-Key")
    if claim is not None and not (claim.isascii() and claim.isprintable() and 0 < len(claim) <= CLAIM_MOST):
        raise UsageError(
            f"The Idempotency-Key must be 1 to {CLAIM_MOST} characters of ASCII.", hint="A UUID is usual."
        )
    return claim


@web.middleware
async def owner_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let our own uid pass, and no browser: nobody opens a page on a Unix socket, so an Origin is somebody's relay gone wrong."""
    _check_peer(request)
    for name in ("Origin", "Referer"):
        if name in request.headers:
            raise RefusedError(
                f"The request carries {name}: it comes from a web page, and pages have no business on this socket.",
                hint=f"Send it without the header {name}.",
                code="browser_refused",
            )
    return await handler(request)


def _check_peer(request: web.Request) -> None:
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    try:
        uid = peer_uid(sock) if sock is not None else None
    except OSError:  # the peer has left; nobody reads the refusal
        uid = None
    if uid is None or not is_owner(uid):
        raise RefusedError(
            f"This daemon serves the user with the uid {os.geteuid()}, and "
            + (f"the request comes from uid {uid}." if uid is not None else "the sender cannot be told."),
            hint="Each user runs a daemon of their own.",
        )


@web.middleware
async def errors_to_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place that catches what a handler raises."""
    try:
        return await handler(request)
    except Error as error:
        if STATUS.get(error.code_on_wire, 500) >= 500:
            _log.warning("request failed", path=request.path, code=error.code_on_wire, reason=error.message)
        return refusal(error, request.path)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refuse_http(request, error)
    except ConnectionError:
        raise  # the caller has left: aiohttp ends the connection, there is nobody to answer
    except Exception:  # noqa: BLE001 - the one place that must answer whatever happened
        _log.exception("request failed", method=request.method, path=request.path)
        code = (
            "upstream_error" if request.path.startswith("/api/v2/") else "internal"
        )  # the contract names its own
        return refusal(
            Error("Something went wrong inside the daemon.", hint="Its log has the details.", code=code)
        )


def _refuse_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """Say in our envelope what aiohttp itself found wrong with a request."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        wrong = UsageError(
            f"{request.path} does not take {request.method}.",
            hint=f"It takes {allowed}.",
            code="method_not_allowed",
        )
        refused = refusal(wrong)
        refused.headers["Allow"] = allowed
        return refused
    if isinstance(error, web.HTTPNotFound):
        return refusal(
            NotFoundError(f"There is no route {request.path}.", hint="docs/api.md lists the routes.")
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(_too_large(), request.path)
    return refusal(
        UsageError(f"The request cannot be read: {error.reason}.", code="bad_request"), request.path
    )


def _too_large(most: int = BODY_LIMIT) -> UsageError:
    who = "ComfyUI" if most == BODY_LIMIT else "this route"
    return UsageError(
        f"The body is larger than {most // 2**20} MiB, the most that {who} takes.",
        hint="Pictures inside the workflow make it that large: upload them as files.",
        code="too_large",
    )
