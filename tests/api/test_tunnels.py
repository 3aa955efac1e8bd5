"""The routes under /v1, as curl sees them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

from comfytunnel import wire
from comfytunnel.errors import ConfigError, Problem
from tests.api.conftest import Api, a_tunnel


async def test_status_shows_daemon_tunnels_and_jobs(api: Api) -> None:
    await api.submit()
    status, body = await api.ask("GET", "/v1/status")
    assert status == 200
    assert body["pid"] == os.getpid()
    assert body["started_at"] == "2026-01-02T03:04:05Z"
    tunnel = body["tunnels"]["default"]
    assert (tunnel["phase"], tunnel["cause"], tunnel["next"]) == ("up", None, None)
    assert tunnel["comfyui"]["state"] == "serving"
    assert body["jobs"]["queued"] == 1


async def test_an_answer_is_indented_and_ends_with_a_newline(api: Api) -> None:
    async with api.http.get("http://localhost/v1/health") as response:
        text = await response.text()
    assert text.startswith('{\n  "status": "ok"')
    assert text.endswith("}\n")


async def test_up_down_and_reconnect_reach_the_tunnel_and_answer_its_state(api: Api) -> None:
    for verb, phase in (("down", "down"), ("up", "connecting"), ("reconnect", "connecting")):
        assert (await api.ask("POST", f"/v1/tunnels/default/{verb}"))[1]["phase"] == phase
    assert api.tunnels.asked == [("down", "default"), ("up", "default"), ("reconnect", "default")]
    assert (await api.ask("GET", "/v1/tunnels"))[1].keys() == {"default"}


@pytest.mark.parametrize(
    ("method", "end"),
    [("GET", ""), ("POST", "/up"), ("POST", "/down"), ("POST", "/reconnect"), ("POST", "/trust")],
)
async def test_an_unknown_tunnel_is_404_and_names_the_known_ones(api: Api, method: str, end: str) -> None:
    status, body = await api.ask(method, f"/v1/tunnels/defalt{end}")
    assert (status, body["error"]["code"]) == (404, "tunnel_not_found")
    assert "default" in body["error"]["details"]["hint"]


async def test_trust_without_a_fingerprint_only_shows_and_with_one_trusts_that_one(api: Api) -> None:
    path = "/v1/tunnels/default/trust"
    status, seen = await api.ask("POST", path)
    assert (status, seen["status"], seen["replaced"]) == (200, "changed", False)
    assert (await api.ask("POST", path, json={}))[1] == seen
    other = f"SHA256:{'x' * 43}"
    status, body = await api.ask("POST", path, json={"fingerprint": other})
    assert (status, body["error"]["code"]) == (409, "host_key_mismatch")
    assert body["error"]["details"]["named"] == other
    assert body["error"]["details"]["offered"] == seen["offered"]
    status, done = await api.ask("POST", path, json={"fingerprint": seen["offered"]["fingerprint"]})
    assert (status, done["replaced"], done["known"]) == (200, True, seen["known"])


@pytest.mark.parametrize("named", ["", "MD5:00", "SHA256:short", f"SHA256:{'x' * 43}\n", 7])
async def test_what_is_no_fingerprint_is_never_handed_on(api: Api, named: object) -> None:
    status, body = await api.ask("POST", "/v1/tunnels/default/trust", json={"fingerprint": named})
    assert (status, body["error"]["code"]) == (422, "invalid_request")
    assert api.tunnels.asked == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (
            {"phase": "waiting", "cause": wire.Cause("auth_denied", "The key was refused.")},
            "The key was refused.",
        ),
        ({"comfyui": wire.ComfyUI("starting")}, "ComfyUI is starting"),
        ({"cause": wire.Cause("port_in_use", "ssh holds the port.")}, "ssh holds the port."),
    ],
)
async def test_not_ready_is_503_with_the_reason(api: Api, changes: dict[str, Any], word: str) -> None:
    api.tunnels.set("default", **changes)
    status, body = await api.ask("GET", "/v1/ready")
    assert (status, body["error"]["code"]) == (503, "not_ready")
    assert word in body["error"]["message"]
    assert word in body["error"]["details"]["why"]["default"]


async def test_ready_needs_one_good_tunnel_and_says_what_the_others_lack(api: Api) -> None:
    api.tunnels.known["spare"] = a_tunnel(phase="down")
    status, body = await api.ask("GET", "/v1/ready")
    assert (status, body["ready"], list(body["why"])) == (200, True, ["spare"])


async def test_without_a_tunnel_nothing_is_ready(api: Api) -> None:
    api.tunnels.known.clear()
    assert (await api.ask("GET", "/v1/ready"))[0] == 503
    api.tunnels.trouble = wire.Cause("config_error", "The config is broken.", "Mend it.")
    assert "broken" in (await api.ask("GET", "/v1/ready"))[1]["error"]["message"]


async def test_reload_tells_what_changed(api: Api) -> None:
    status, body = await api.ask("POST", "/v1/reload")
    assert (status, body["added"], len(api.reloads)) == (200, [], 1)


async def test_a_broken_config_is_422_with_every_mistake(api: Api) -> None:
    problems = [
        Problem("tunnels.a.port", "is too large.", "Ports end at 65535."),
        Problem("jobs.x", "is unknown."),
    ]

    async def broken() -> dict[str, Any]:
        raise ConfigError(problems, source="config.toml")

    object.__setattr__(api.context, "reload", broken)
    status, body = await api.ask("POST", "/v1/reload")
    assert (status, body["error"]["code"]) == (422, "config_error")
    assert [problem["path"] for problem in body["error"]["details"]["problems"]] == [
        "tunnels.a.port",
        "jobs.x",
    ]


async def test_curl_speaks_it(api: Api) -> None:
    """One line in, readable JSON out."""
    import asyncio

    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--unix-socket", str(api.path), "http://localhost/v1/health", stdout=subprocess.PIPE
    )
    out, _ = await curl.communicate()
    assert json.loads(out)["status"] == "ok"


async def test_a_stop_does_not_wait_for_the_doctor(api: Api) -> None:
    """He may take 45 s, and a stop has two."""
    api.tunnels.examined.clear()
    asking = asyncio.create_task(api.ask("GET", "/v1/doctor"))
    while not api.tunnels.patients:  # noqa: ASYNC110 - nothing rings; the fixture holds the deadline
        await asyncio.sleep(0)
    api.context.closing.set(True)
    status, body = await asking
    assert (status, body["error"]["code"]) == (503, "not_ready")
