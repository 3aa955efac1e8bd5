"""What a webhook is: where it may go, how it is signed, when it is tried again. Pure: no I/O, no clock.

Standard Webhooks 1.0.0 (standardwebhooks.com) names the headers, the signature and the form of a secret; where that leaves a choice, the
choice is a constant here. What is sent for which job is outbox.py's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from yarl import URL

from comfytunnel.errors import UsageError
from comfytunnel.jobs.model import Hook, Webhook

UNIX = "unix:"
PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""Bytes of a secret: 192 to 512 bits (the specification)."""

TTL = timedelta(days=3)
"""For how long after the job's end it is tried; the specification's example goes on for three days."""

FIRST_PAUSE = 5.0
"""Seconds between the first two attempts (the specification's example); each further pause is twice as long."""
LONGEST_PAUSE = 600.0
"""Seconds. Shorter than the specification's hours: a daemon sends few, and its user waits for them."""
OBEYED_MOST = 3600.0
"""Seconds of a Retry-After that are obeyed."""


class Answer(msgspec.Struct, frozen=True):
    """What an attempt came to. `error` "" means: taken (2xx). `status` None: there was no answer. `retry_after` in seconds, if it was said."""

    error: str
    status: int | None = None
    retry_after: float | None = None


def check(webhook: Webhook) -> None:
    """UsageError (`invalid_webhook`) unless it is one that could be sent."""
    where = socket_path(webhook.url)
    if where is None:
        _check_url(webhook.url)
    elif not where.is_absolute() or not webhook.url.isprintable():
        raise wrong("url", "the path of a socket must be absolute", 'Write "unix:/run/user/1000/my.sock".')
    if webhook.secret is not None:
        try:
            key(webhook.secret)
        except ValueError as error:
            raise wrong("secret", str(error), "Make one: echo whsec_$(openssl rand -base64 32)") from error


def _check_url(text: str) -> None:
    try:
        url = URL(text, encoded=True)
        named = bool(url.host) and url.port is not None
    except ValueError:
        named = False
    if (
        not named
        or url.scheme not in ("http", "https")
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        raise wrong(
            "url",
            "it is not an address of a web server or a socket",
            "Write http://..., https://... or unix:/PATH.",
        )
    if url.user or url.password:
        raise wrong(
            "url", "it holds a user name or a password", "Let the receiver check the signature instead."
        )


def wrong(field: str, why: str, hint: str) -> UsageError:
    return UsageError(
        f"The webhook cannot be used: {why}.",
        hint=hint,
        code="invalid_webhook",
        details={"path": f"$.comfytunnel.webhook.{field}"},
    )


def socket_path(url: str) -> Path | None:
    """The Unix socket that it goes to, None for a web server."""
    return Path(url.removeprefix(UNIX)) if url.startswith(UNIX) else None


def target(url: str) -> str:
    """Who gets it, without what may be secret in it: "https://example.org:8443", or the socket. Fit for logs, answers, and as a key."""
    return url if url.startswith(UNIX) else str(URL(url, encoded=True).origin()).lower()


def key(secret: str) -> bytes:
    """The key in a secret, `whsec_` and base64. ValueError says what is wrong with it, and never the secret."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        found = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a secret is base64 after {PREFIX}") from error
    if len(found) not in SECRET_BYTES:
        raise ValueError(f"a secret holds {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes, not {len(found)}")
    return found


def headers(message_id: str, at: datetime, body: bytes, keys: Iterable[bytes]) -> dict[str, str]:
    """The three headers of one attempt `at` a time; one signature for each key, so that a secret can be changed without a gap."""
    stamp = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), stamp.encode(), body))
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    signatures = " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
    return {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": signatures}


def judge(hook: Hook, answer: Answer, now: datetime, dice: float, first_pause: float = FIRST_PAUSE) -> Hook:
    """The hook after one more attempt; `dice` is a random number from 0 to 1. Whatever the clock says, there is an attempt after the
    time is up: a machine that slept through it all was not able to make one before."""
    attempts = hook.attempts + 1
    after = msgspec.structs.replace(hook, attempts=attempts, due=None)
    if not answer.error:
        return msgspec.structs.replace(after, delivered_at=now, error=None)
    after = msgspec.structs.replace(after, error=answer.error)
    over = hook.expires_at is not None and now >= hook.expires_at
    if answer.status == 410 or over:
        return msgspec.structs.replace(after, gave_up_at=now)
    pause = min(first_pause * 2 ** min(attempts - 1, 20), LONGEST_PAUSE) * (0.8 + 0.4 * dice)
    pause = max(pause, min(answer.retry_after or 0.0, OBEYED_MOST))
    due = now + timedelta(seconds=pause)
    return msgspec.structs.replace(after, due=min(due, hook.expires_at) if hook.expires_at else due)
