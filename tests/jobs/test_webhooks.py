"""Where a webhook may go, how it is signed and when it is tried again: the pure part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from comfytunnel.errors import UsageError
from comfytunnel.jobs import webhooks
from comfytunnel.jobs.model import Hook, Webhook
from comfytunnel.jobs.webhooks import Answer, judge

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
ENDED = Hook(job_id="j", webhook=Webhook(url="http://h"), due=NOW, expires_at=NOW + timedelta(days=3))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/done",
        "https://hooks.example.org/a/b?c=d%20e",
        "http://[::1]:9/",
        "http://192.168.1.2",
        "unix:/run/user/1000/me.sock",
    ],
)
def test_web_servers_and_sockets_are_taken(url: str) -> None:
    webhooks.check(Webhook(url=url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:80",
        "/x",
        "ftp://example.org",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://me:secret@example.org",
        "http://example.org:99999",
        "http://exam ple.org",
        "http://example.org/a\r\nX: y",
        "http://[::1",
        "unix:relative.sock",
        "unix:",
        "unix:/a\n",
    ],
)
def test_nothing_else_is(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        webhooks.check(Webhook(url=url))
    assert refused.value.code_on_wire == "invalid_webhook"
    assert refused.value.details == {"path": "$.comfytunnel.webhook.url"}


@pytest.mark.parametrize(
    "secret",
    ["", "abc", "whsec_", "whsec_***", f"whsec_{'A' * 31}=", f"whsec_{'A' * 88}", "whpk_" + "A" * 32],
)
def test_a_secret_is_whsec_and_24_to_64_bytes_of_base64_and_is_never_repeated(secret: str) -> None:
    with pytest.raises(UsageError) as refused:
        webhooks.check(Webhook(url="http://h", secret=secret))
    assert refused.value.details == {"path": "$.comfytunnel.webhook.secret"}
    assert not secret or secret not in str(refused.value) or secret == "whsec_"


def test_the_signature_is_that_of_the_reference_library() -> None:
    """Made with standardwebhooks 1.1.0: Webhook(secret).sign(msg_id, time, body)."""
    key = webhooks.key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330.7, UTC)
    found = webhooks.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', [key])
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://Hooks.example.org/T0/secret?token=x#y", "https://hooks.example.org"),
        ("http://[::1]:9/x", "http://[::1]:9"),
        ("unix:/run/me.sock", "unix:/run/me.sock"),
    ],
)
def test_a_target_holds_nothing_that_may_be_secret(url: str, target: str) -> None:
    assert webhooks.target(url) == target


def pauses(dice: float) -> list[float]:
    """Seconds between the attempts at a receiver that always fails."""
    hook, now = ENDED, NOW
    found: list[float] = []
    while True:
        after = judge(hook, Answer("HTTP status 500", 500), now, dice)
        if after.due is None:
            assert after.gave_up_at == now
            return found
        found.append((after.due - now).total_seconds())
        hook, now = after, after.due


@pytest.mark.parametrize("dice", [0.0, 0.5, 1.0])
def test_pauses_double_from_5_s_to_10_min_and_end_after_three_days(dice: float) -> None:
    found = pauses(dice)
    spread = 0.8 + 0.4 * dice
    assert found[:8] == pytest.approx([spread * wanted for wanted in (5, 10, 20, 40, 80, 160, 320, 600)])
    assert max(found) == pytest.approx(600 * spread)
    assert sum(found) == pytest.approx(3 * 86_400)  # the last attempt is made when the time is up


def test_what_was_slept_through_is_tried_once_more_and_then_given_up() -> None:
    late = NOW + timedelta(days=30)
    assert judge(ENDED, Answer("", 200), late, 0.5).delivered_at == late
    failed = judge(ENDED, Answer("HTTP status 500", 500), late, 0.5)
    assert (failed.due, failed.gave_up_at, failed.error) == (None, late, "HTTP status 500")


def test_410_is_the_last_word() -> None:
    after = judge(ENDED, Answer("HTTP status 410", 410), NOW, 0.5)
    assert (after.due, after.gave_up_at, after.attempts) == (None, NOW, 1)


@pytest.mark.parametrize(("asked", "pause"), [(None, 5), (2.0, 5), (120.0, 120), (1e6, 3600)])
def test_a_receiver_may_ask_for_a_longer_pause_up_to_an_hour(asked: float | None, pause: float) -> None:
    after = judge(ENDED, Answer("HTTP status 503", 503, asked), NOW, 0.5)
    assert after.due == NOW + timedelta(seconds=pause)


def test_a_delivery_forgets_what_failed_before() -> None:
    failed = judge(ENDED, Answer("no answer within 20 s"), NOW, 0.5)
    assert failed.error == "no answer within 20 s"
    done = judge(failed, Answer("", 204), NOW, 0.5)
    assert (done.attempts, done.error, done.due, done.delivered_at) == (2, None, None, NOW)
