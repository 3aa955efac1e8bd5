"""What we rely on of the websocket: the first message, the order of events, who hears what, and its flaws."""

from __future__ import annotations

from typing import Any

import aiohttp

from tests.contract.conftest import Far


async def test_first_message_is_status_with_sid(far: Far) -> None:
    """The first message is `status` with our clientId as sid and the queue's length."""
    async with far.listen() as ear:
        assert ear.heard == [
            {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": far.client}}
        ]


async def test_server_names_a_client_without_id(far: Far) -> None:
    """Without clientId the server makes one up and says so."""
    async with far.session.ws_connect(f"{far.url}/ws") as socket:
        first = await socket.receive_json()
    assert first["type"] == "status"
    assert len(first["data"]["sid"]) == 32


async def test_events_of_a_success_in_order(far: Far) -> None:
    """status, start, cached, per node progress_state / executing / executed, success, status, executing null."""
    async with far.listen() as ear:
        prompt_id = await far.submit(far.picture())
        await ear.until_over(prompt_id)
    assert [_brief(said) for said in ear.heard[1:]] == [
        "status 1",
        "status 1",
        "execution_start",
        "execution_cached",
        "progress_state 1",
        "executing 1",
        "progress_state 1",
        "progress_state 1 2",
        "executing 2",
        "executed 2",
        "progress_state 1 2",
        "execution_success",
        "status 0",
        "executing None",
    ]
    assert all(said["data"]["prompt_id"] == prompt_id for said in ear.heard[1:] if said["type"] != "status")


async def test_history_is_there_after_executing_null(far: Far) -> None:
    """When `executing` with node null has come, the history entry is there."""
    async with far.listen() as ear:
        for _ in range(10):
            prompt_id = await far.submit(far.picture())
            await ear.until_over(prompt_id)
            assert prompt_id in await far.get(f"/history/{prompt_id}")


async def test_progress_state_shape(far: Far) -> None:
    """progress_state tells value, max and state of every node that has started."""
    async with far.listen() as ear:
        prompt_id = await far.submit(far.picture())
        first = await ear.until("progress_state", prompt_id)
        await ear.until_over(prompt_id)
    assert first["nodes"]["1"] == {
        "value": 0.0,
        "max": 1.0,
        "state": "running",
        "node_id": "1",
        "prompt_id": prompt_id,
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
    }


async def test_cached_run_names_the_old_file(far: Far) -> None:
    """The same workflow again: all nodes cached, the old file is named again, nothing new is written."""
    graph = far.picture()
    entry = await far.run(graph)
    async with far.listen() as ear:
        prompt_id = await far.submit(graph)
        await ear.until_over(prompt_id)
    again = await far.finished(prompt_id)
    assert again["outputs"] == entry["outputs"]
    cached = dict(again["status"]["messages"])["execution_cached"]
    assert set(cached["nodes"]) == {"1", "2"}
    assert "executing 2" not in [_brief(said) for said in ear.heard]
    assert "executed 2" in [_brief(said) for said in ear.heard]


async def test_error_is_told(far: Far) -> None:
    """A failing node: execution_error, then status and executing null, no success."""
    graph = far.picture()
    graph["2"]["inputs"]["filename_prefix"] = "../../x"
    async with far.listen() as ear:
        prompt_id = await far.submit(graph)
        await ear.until_over(prompt_id)
    told = [_brief(said) for said in ear.heard]
    assert told[-3:] == ["execution_error", "status 0", "executing None"]
    assert "execution_success" not in told


async def test_interruption_is_told(far: Far) -> None:
    """An interrupted job: execution_interrupted, then status and executing null."""
    async with far.listen() as ear:
        prompt_id = await far.submit(far.slow())
        await ear.until("executing", prompt_id)
        await far.post("/interrupt", {"prompt_id": prompt_id})
        await ear.until_over(prompt_id)
    assert [_brief(said) for said in ear.heard][-3:] == [
        "execution_interrupted",
        "status 0",
        "executing None",
    ]


async def test_others_hear_status_only(far: Far) -> None:
    """A job with a client id is told to that client; others hear only `status`."""
    async with far.listen() as ear, far.listen("someone-else-" + far.nonce) as other:
        prompt_id = await far.submit(far.picture())
        await ear.until_over(prompt_id)
        while other.heard[-1]["data"]["status"]["exec_info"]["queue_remaining"] or len(other.heard) < 4:
            await other.next()
    assert {said["type"] for said in other.heard} == {"status"}


async def test_job_without_client_is_broadcast_in_part(far: Far) -> None:
    """A job without client id shows up at everybody as progress_state, and as nothing else."""
    async with far.listen() as ear:
        status, answer = await far.post("/prompt", {"prompt": far.picture()})
        assert status == 200
        while ear.heard[-1] != {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}}:
            await ear.next()
    told = [said for said in ear.heard if said["type"] != "status"]
    assert {said["type"] for said in told} == {"progress_state"}
    assert {said["data"]["prompt_id"] for said in told} == {answer["prompt_id"]}


async def test_reconnecting_client_hears_the_running_node(far: Far) -> None:
    """Nothing is replayed: after a reconnect come `status` and `executing` without a prompt_id."""
    async with far.listen() as ear:
        prompt_id = await far.submit(far.slow())
        await ear.until("executing", prompt_id)
    async with far.listen() as again:
        first = await again.next()
        assert first["type"] == "executing"
        assert set(first["data"]) == {"node"}
        assert first["data"]["node"] is not None
        await far.post("/interrupt", {"prompt_id": prompt_id})
        await again.until("execution_interrupted", prompt_id)


async def test_old_socket_takes_the_new_registration_away(far: Far) -> None:
    """Reconnecting with the same clientId before the old socket is closed: when that closes, the new one is deaf for ever."""
    witness_id = "witness-" + far.nonce
    async with far.listen() as old, far.listen(autoping=False) as new, far.listen(witness_id) as witness:
        await old.socket.close()
        await far.finished(await far.submit(far.picture()))
        while len(witness.heard) < 4:
            await witness.next()
        await new.socket.ping(b"still there?")
        answer = await new.socket.receive()
        assert answer.type is aiohttp.WSMsgType.PONG


async def test_features_are_negotiated(far: Far) -> None:
    """A first message of feature_flags is answered with the server's own."""
    async with far.listen() as ear:
        await ear.socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        features = await ear.until("feature_flags")
    assert features["supports_preview_metadata"] is True
    assert features["max_upload_size"] == 100 * 1024 * 1024
    assert (await far.get("/features"))["supports_preview_metadata"] is True


async def test_nonsense_from_a_client_is_ignored(far: Far) -> None:
    """Text that is not JSON leaves the socket open."""
    async with far.listen() as ear:
        await ear.socket.send_str("{")
        prompt_id = await far.submit(far.picture())
        await ear.until_over(prompt_id)


def _brief(said: dict[str, Any]) -> str:
    data = said["data"]
    match said["type"]:
        case "status":
            return f"status {data['status']['exec_info']['queue_remaining']}"
        case "executing" | "executed":
            return f"{said['type']} {data['node']}"
        case "progress_state":
            return " ".join(["progress_state", *data["nodes"]])
    return str(said["type"])
