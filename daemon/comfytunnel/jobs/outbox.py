"""Tells those who asked for it that a job has ended: webhooks, sent until they are taken or too old, over kills and restarts.

What is to be told, and that it is due, is on disk since the job's end (hookstore.py). At least once, and always under the same webhook-id: an
answer that we did not live to write down is asked for again. Each target has a worker of its own, so a slow one holds up nobody else.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from comfytunnel.errors import StateError
from comfytunnel.jobs import webhooks
from comfytunnel.jobs.hookpost import DEADLINE, post
from comfytunnel.jobs.model import Hook, Job, Webhook
from comfytunnel.jobs.store import Store

log = structlog.get_logger(__name__)

LOOK = 5.0
"""Seconds after which the clock is looked at again: what is due is due at a time of day, and the machine may have slept."""
AGAIN = 5.0
"""Seconds after which a database that could not be used is tried again."""
AT_ONCE = 32
"""Attempts under way at the same time, one for each target."""

Message = Callable[[Job, Webhook], Awaitable[bytes]]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Outbox:
    """`message` makes the body for an ended job. `secret_file` holds the daemon's own secrets, one a line: it is made when there is none,
    and read for each attempt. `first_pause` and `deadline` in seconds."""

    def __init__(
        self,
        store: Store,
        message: Message,
        secret_file: Path,
        *,
        now: Callable[[], datetime] = utc_now,
        first_pause: float = webhooks.FIRST_PAUSE,
        deadline: float = DEADLINE,
    ) -> None:
        self._store = store
        self._message = message
        self._secret_file = secret_file
        self._now = now
        self._first_pause = first_pause
        self._deadline = deadline
        self._bell = asyncio.Event()
        self._working: set[str] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """For ever; cancel to stop. What is under way then is tried again by the next process."""
        try:
            own_secrets(self._secret_file)  # now, so that a receiver can be given it
        except (OSError, ValueError) as error:
            log.warning("webhook secret", path=str(self._secret_file), why=str(error))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="webhooks armed")
            while True:
                self._bell.clear()
                pause = await self._begin(group)
                try:
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
                except TimeoutError:
                    continue

    async def _listen(self) -> None:
        async for _ in self._store.armed.changes():
            self._bell.set()

    async def _begin(self, group: asyncio.TaskGroup) -> float | None:
        """Set a worker to each target that has none and something due. Returns the seconds until the next look, None for the bell."""
        now = self._now()
        try:
            targets, later = await self._store.due_targets(now)
        except StateError as error:
            log.warning("state", why=error.message)
            return AGAIN
        for target in set(targets) - self._working:
            self._working.add(target)
            group.create_task(self._work(target), name=f"webhooks for {target}")
        return None if later is None else min(max((later - now).total_seconds(), 0.01), LOOK)

    async def _work(self, target: str) -> None:
        """Make every attempt that is due there, one after the other."""
        try:
            while (hook := await self._next(target)) is not None:
                async with self._at_once:
                    answer = await self._attempt(hook)
                if answer is not None:
                    await self._write_down(hook, answer)
        finally:
            self._working.discard(target)
            self._bell.set()

    async def _next(self, target: str) -> Hook | None:
        while True:
            try:
                return await self._store.next_hook(target, self._now())
            except StateError as error:
                log.warning("state", why=error.message)
                await asyncio.sleep(AGAIN)

    async def _attempt(self, hook: Hook) -> webhooks.Answer | None:
        """None: the job is gone, and the hook with it."""
        url, secret = hook.webhook.url, hook.webhook.secret
        try:
            job = await self._store.get(hook.job_id)
            if job is None:
                return None
            body = await self._message(job, hook.webhook)
            keys = [webhooks.key(secret)] if secret is not None else own_secrets(self._secret_file)
        except StateError as error:
            return webhooks.Answer(error.message)
        except (OSError, ValueError) as error:
            return webhooks.Answer(f"{self._secret_file} cannot be used: {error}")
        headers = webhooks.headers(message_id(hook), self._now(), body, keys)
        return await post(url, body, headers, deadline=self._deadline)

    async def _write_down(self, hook: Hook, answer: webhooks.Answer) -> None:
        after = webhooks.judge(hook, answer, self._now(), random.random(), self._first_pause)  # noqa: S311 (spreads attempts)
        _say(after)
        while (
            True
        ):  # before anything else is sent there: else one that was taken would be sent again and again
            try:
                await self._store.put_hook(after)
            except StateError as error:
                log.warning("state", job=hook.job_id, why=error.message)
                await asyncio.sleep(AGAIN)
            else:
                return


def message_id(hook: Hook) -> str:
    """One job ends once, so its id names the message over all attempts and processes."""
    return f"msg_{hook.job_id}"


def _say(hook: Hook) -> None:
    told = {"job": hook.job_id, "target": webhooks.target(hook.webhook.url), "attempts": hook.attempts}
    if hook.delivered_at is not None:
        log.info("webhook delivered", **told)
    elif hook.gave_up_at is not None:
        log.warning("webhook given up", why=hook.error, **told)
    else:
        log.info("webhook not delivered", why=hook.error, again=str(hook.due), **told)


def own_secrets(path: Path) -> list[bytes]:
    """The keys in the daemon's file of secrets, which is made (0600, 32 random bytes) if it is not there. OSError, ValueError."""
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        text = webhooks.PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() + "\n"
        beside = path.with_name(f"{path.name}.new")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    keys = [webhooks.key(line.strip()) for line in text.splitlines() if line.strip()]
    if not keys:
        raise ValueError("it holds no secret")
    return keys
