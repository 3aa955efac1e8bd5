"""The message of a webhook: an ended job as GET shows it, under the type and the time of its end."""

from __future__ import annotations

import msgspec

from comfytunnel import wire
from comfytunnel.api.context import Context
from comfytunnel.api.jobs import draw, progress_view
from comfytunnel.jobs.model import Job, Webhook
from comfytunnel.jobs.outbox import Message


def messages(its: Context) -> Message:
    """What makes the bodies. Each attempt gets the same bytes: nothing stands in them that can still change."""

    async def message(job: Job, webhook: Webhook) -> bytes:
        shown = draw(its, job, await its.store.outputs(job.id), webhook.base)
        data = msgspec.structs.replace(shown, progress=progress_view(None, job))
        return msgspec.json.encode(wire.WebhookMessage(f"job.{job.status}", job.completed_at, data))

    return message
