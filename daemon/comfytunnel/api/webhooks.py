"""Webhooks at the edge: what a submission may ask for, and what a job shows of it. Sending is jobs/outbox.py's.

Only our own user may have the daemon call somebody, so a webhook is taken on the Unix socket and nowhere else. A job never shows the whole
URL: to many a receiver that is the secret.
"""

from __future__ import annotations

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.context import origin, over_tcp
from comfytunnel.errors import RefusedError
from comfytunnel.jobs import webhooks
from comfytunnel.jobs.hookpost import check_socket
from comfytunnel.jobs.model import Hook, Webhook
from comfytunnel.words import HookState


def read(request: web.Request, asked: wire.WebhookRequest | None) -> Webhook | None:
    """Return the webhook that a submission asks for. RefusedError (`webhook_refused`) for a caller over TCP, UsageError (`invalid_webhook`)."""
    if asked is None:
        return None
    if over_tcp(request):
        raise RefusedError(
            "A webhook is taken on the control socket only.",
            hint="Submit the job there (`comfytunnel submit --webhook`), or leave comfytunnel.webhook out.",
            code="webhook_refused",
        )
    webhook = Webhook(url=asked.url, secret=asked.secret, base=origin(request))
    webhooks.check(webhook)
    path = webhooks.socket_path(webhook.url)
    if path is not None:
        try:
            check_socket(path)
        except OSError as error:
            hint = "The receiver must run as you, and be there before the job is."
            raise webhooks.wrong("url", error.strerror or str(error), hint) from error
    return webhook


def show(job_ended: bool, hook: Hook | None) -> wire.Webhook | None:
    """Return what has become of a job's webhook."""
    if hook is None:
        return None
    state: HookState
    if hook.delivered_at is not None:
        state = "delivered"
    elif hook.gave_up_at is not None:
        state = "failed"
    else:
        state = "pending" if job_ended else "waiting"
    return wire.Webhook(
        target=webhooks.target(hook.webhook.url),
        state=state,
        attempts=hook.attempts,
        delivered_at=hook.delivered_at,
        last_error=hook.error,
        next_at=hook.due,
    )
