"""The official comfy-sdk, unchanged, against the API on its port: every call that its documentation shows, and its errors.

`client.models` is left out: it speaks to Comfy's own router, another service on another host.
"""

from __future__ import annotations

import asyncio
import http.server
import inspect
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import comfy_sdk
import pytest
from comfy_sdk import AsyncComfy, Comfy, OutputReady, Preview, Progress, StatusChange
from PIL import Image

from comfytunnel.wire import NEVER
from tests.app.test_web import write
from tests.app.world import DEADLINE, World, workflow
from tests.fakes.sshd import free_port

SYNC = (
    comfy_sdk.Comfy,
    comfy_sdk.AssetFactory,
    comfy_sdk.Asset,
    comfy_sdk.WorkflowFactory,
    comfy_sdk.Workflow,
    comfy_sdk.Job,
    comfy_sdk.Output,
    comfy_sdk.Preview,
)
ASYNC = (
    comfy_sdk.AsyncComfy,
    comfy_sdk.AsyncAssetFactory,
    comfy_sdk.AsyncAsset,
    comfy_sdk.AsyncJob,
    comfy_sdk.AsyncOutput,
)


def with_picture(asset: Any, color: int = 1) -> dict[str, Any]:
    """A picture that was uploaded, upside down in colours, and another one."""
    graph = workflow(color)
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": asset}}
    graph["11"] = {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "up"}}
    return graph


def picture(color: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(data, "PNG")
    return data.getvalue()


@contextmanager
def watching(classes: tuple[type, ...]) -> Iterator[None]:
    """Fail unless every public method of `classes` has been called by this thread."""
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
    missed = [
        f"{kind.__name__}.{name}"
        for kind in classes
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and method.__code__ not in called
    ]
    assert missed == []


@pytest.fixture
async def served(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    port = free_port()
    write(world, port)
    await world.start()
    monkeypatch.setenv("COMFY_BASE_URL", f"http://localhost:{port}")
    monkeypatch.delenv("COMFY_API_KEY", raising=False)
    return world


@contextmanager
def file_server(data: bytes) -> Iterator[str]:
    """Somebody's web server with one picture; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/there.png"
        finally:
            server.shutdown()
            thread.join()


async def test_every_documented_call_does_what_it_says(served: World) -> None:
    await asyncio.wait_for(asyncio.to_thread(_every_call, served.base), DEADLINE + 5)


def _every_call(base: Path) -> None:
    photo = base / "photo.png"
    photo.write_bytes(picture("red"))
    (base / "workflow_api.json").write_text(json.dumps(workflow(1)))
    with watching(SYNC), file_server(picture("blue")) as url:
        client = Comfy(client_info="a-test")
        # Workflows are built here, without the server.
        wf = client.workflows.from_file(base / "workflow_api.json")
        wf = client.workflows.from_str(json.dumps(wf.json))
        wf = client.workflows.from_json(wf.json | {"99": {"class_type": "EmptyImage", "inputs": {}}})
        wf.remove_node("99")
        # An asset is uploaded at its first use, and its bytes but once.
        asset = client.assets.from_file(photo)
        wf.json.update(with_picture(None))
        wf.set_input("10", "image", asset)
        job = client.run(wf)
        assert asset.created_new
        assert (asset.job_id, asset.expires_at) == (None, None)
        again = client.assets.from_bytes(photo.read_bytes(), filename="again.png", content_type="image/png")
        assert again.commit() != asset.id
        assert not again.created_new
        assert again.hash == asset.hash
        assert client.assets.get(again.id or "").file_path == "again.png"
        streamed = client.assets.from_stream(io.BytesIO(picture("green")), filename="green.png")
        assert streamed.as_reference()["__type"] == "core/ASSET"
        fetched = client.assets.from_url(url)
        assert fetched.get_download_url().url.endswith(f"/api/v2/assets/{fetched.id}/content")
        again.delete()
        client.assets.delete(fetched.id or "")
        with pytest.raises(comfy_sdk.NotFound):
            client.assets.get(fetched.id or "")
        # Outputs.
        assert job.status == "succeeded"
        assert job.error is None
        assert job.metadata == {}
        (out,) = job.get_outputs("11")
        assert job.get_outputs("nobody") == []
        assert {output.node_id for output in job.outputs} == {"3", "11"}
        assert (out.type, out.content_type, out.job_id) == ("image", "image/png", job.id)
        data = out.to_bytes()
        assert len(data) == out.size_bytes
        assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 0, 0)
        assert out.to_file(base / out.name).read_bytes() == data
        assert out.to_file(base / "head.png", range=(0, 4)).read_bytes() == data[:5]
        with (base / "stream.png").open("wb") as stream:
            assert out.to_stream(stream) == out.size_bytes
        link = out.get_download_url()
        assert link.url.endswith(f"/api/v2/assets/{out.id}/content")
        assert client.assets.get(out.id).job_id == job.id
        with pytest.raises(comfy_sdk.ComfyError, match="in use"):
            client.assets.delete(out.id)  # it goes with its job
        # Live.
        live = client.submit(client.workflows.from_json(workflow(2, seconds=1.5)))
        seen = list(live.events())
        assert seen[-1] == StatusChange("succeeded")
        assert [event for event in seen if isinstance(event, Progress) and 0 < event.value < 1]
        assert [event.output.node_id for event in seen if isinstance(event, OutputReady)] == ["3"]
        previews = [event for event in seen if isinstance(event, Preview)]
        assert previews[-1].to_pil().size == (64, 64)
        assert live.refresh().result().status == "succeeded"
        # Jobs by their ids.
        known = client.jobs.get(job.id)
        assert known.wait(timeout=1).status == "succeeded"
        found = known.get_workflow()
        assert found.format == "api"
        assert found.graph["3"] == workflow(1)["3"]
        assert [summary.id for summary in client.list_jobs(limit=1)] == [live.id, job.id]
        assert list(client.list_jobs(metadata={"client": "acme"})) == []
        waiting = client.submit(client.workflows.from_json(workflow(3, seconds=30)))
        assert waiting.cancel().status in ("canceling", "canceled")
        assert waiting.wait(timeout=10).status == "canceled"
        client.close()


async def test_the_asynchronous_client_does_the_same(served: World) -> None:
    photo = served.base / "photo.png"
    photo.write_bytes(picture("red"))
    with watching(ASYNC), file_server(picture("blue")) as url:
        client = AsyncComfy()
        async with client, asyncio.timeout(DEADLINE):
            wf = client.workflows.from_json(with_picture(client.assets.from_file(photo)))
            job = await client.run(wf)
            (out,) = job.get_outputs("11")
            data = await out.to_bytes()
            assert (await out.to_file(served.base / "a.png")).read_bytes() == data
            with (served.base / "b.png").open("wb") as stream:
                assert await out.to_stream(stream, range=(0, 9)) == 10
            assert (await out.get_download_url()).url.endswith("/content")
            live = await client.submit(client.workflows.from_json(workflow(2, seconds=0.5)))
            seen = [event async for event in live.events()]
            assert seen[-1] == StatusChange("succeeded")
            assert (await (await live.refresh()).result()).status == "succeeded"
            assert (await live.get_workflow()).format == "api"
            assert [summary.id async for summary in client.list_jobs(limit=1)] == [live.id, job.id]
            canceled = await client.submit(client.workflows.from_json(workflow(3, seconds=30)))
            assert (await (await canceled.cancel()).wait(timeout=10)).status == "canceled"
            fetched = await client.assets.from_url(url)
            assert await fetched.commit()
            assert (await fetched.as_reference())["__type"] == "core/ASSET"
            assert (await fetched.get_download_url()).expires_at is None
            await client.assets.delete(fetched.id or "")
            mine = client.assets.from_bytes(picture("green"))
            await mine.commit()
            await mine.delete()
            streamed = client.assets.from_stream(io.BytesIO(picture("white")))
            assert (await client.assets.get(await streamed.commit())).hash == streamed.hash
            with pytest.raises(comfy_sdk.NotFound):
                await client.jobs.get("unknown")


async def test_its_errors_are_the_ones_that_it_documents(served: World) -> None:
    await asyncio.wait_for(asyncio.to_thread(_every_error, served.client.reload, served), DEADLINE + 5)


def _every_error(reload: Callable[[], object], world: World) -> None:
    with Comfy() as client:
        graph = client.workflows.from_json

        def code_of(kind: type[comfy_sdk.ComfyError], call: Callable[[], object]) -> str:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            return str(caught.value.code)

        def submit(wf: dict[str, Any], **more: Any) -> Callable[[], object]:
            return lambda: client.submit(graph(wf), **more)

        assert code_of(comfy_sdk.NotFound, lambda: client.jobs.get("unknown")) == "not_found"
        assert code_of(comfy_sdk.NotFound, lambda: client.assets.delete("unknown")) == "not_found"
        assert code_of(comfy_sdk.InvalidWorkflow, submit({})) == "invalid_workflow"
        assert code_of(comfy_sdk.WorkflowFormatUi, submit({"nodes": [], "links": []})) == "workflow_format_ui"
        missing = {"__type": "core/ASSET", "info": {"id": "unknown"}}
        assert code_of(comfy_sdk.MissingAsset, submit(with_picture(missing))) == "missing_asset"
        job = client.submit(graph(workflow(1)), idempotency_key="once")
        assert (
            code_of(comfy_sdk.IdempotencyKeyReuse, submit(workflow(2), idempotency_key="once"))
            == "idempotency_key_reuse"
        )
        job.result()
        failing = workflow(4) | {
            "2": {"class_type": "DemoFail", "inputs": {"image": ["1", 0], "message": "no"}}
        }
        with pytest.raises(comfy_sdk.JobFailed) as failed:
            client.run(graph(failing), timeout=10)
        found = failed.value.error
        assert found is not None
        assert (found.node_id, found.class_type) == ("2", "DemoFail")
        assert code_of(comfy_sdk.ComfyError, submit(workflow(5), api_key="comfyui-x")) == "invalid_request"
        assert code_of(comfy_sdk.ComfyError, submit(workflow(5), metadata={"a": "b"})) == "invalid_request"
        liar = client.assets.from_bytes(b"something")
        liar._hash = f"blake3:{'0' * 64}"
        assert code_of(comfy_sdk.HashMismatch, liar.commit) == "hash_mismatch"
        assert code_of(comfy_sdk.BlobNotFound, lambda: _from_hash(client)) == "blob_not_found"

        port = int(str(client._low.base_url).rsplit(":", 1)[1])
        write(world, port, token="sesame")
        reload()
        assert code_of(comfy_sdk.Unauthorized, lambda: client.jobs.get(job.id)) == "unauthorized"
    with Comfy(api_key="sesame") as client:
        known = client.jobs.get(job.id)
        assert known.result().outputs[0].to_bytes()
        assert list(known.events()) != []


def _from_hash(client: Comfy) -> None:
    from comfy_sdk.exceptions import translating

    with translating():
        client._low.asset_from_hash(f"blake3:{'1' * 64}")


async def test_a_full_queue_is_waited_for_as_the_answer_says(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.config.write_text(served.config.read_text().replace("[jobs]", "[jobs]\nmax_waiting = 1"))
    await served.ask(served.client.reload)
    monkeypatch.setattr("comfy_sdk.client._QUEUE_RETRY_BUDGET", 0.0)

    def fill() -> None:
        with Comfy() as client:

            def submit_many() -> None:
                for number in range(9):
                    client.submit(client.workflows.from_json(workflow(number, seconds=30)))

            with pytest.raises(comfy_sdk.QueueFull) as full:
                submit_many()
            assert full.value.retry_after == 5
            for summary in client.list_jobs():
                client.jobs.get(summary.id).cancel()

    await served.ask(fill)


async def test_a_key_for_partner_nodes_goes_with_its_job_once_that_is_allowed(served: World) -> None:
    served.config.write_text(
        served.config.read_text().replace("[jobs]", "[jobs]\nforward_partner_key = true")
    )
    await served.ask(served.client.reload)

    def run() -> None:
        with Comfy() as client:
            client.run(client.workflows.from_json(workflow(1)), api_key="comfyui-secret")

    await served.ask(run)
    _, history = await served.fetch("/history")
    (entry,) = json.loads(history).values()
    assert entry["prompt"][3]["api_key_comfy_org"] == "comfyui-secret"


async def test_what_is_submitted_without_a_tunnel_waits_and_ends(
    served: World,
) -> None:
    await served.remote.unbind()
    served.remote.cut()

    def submit() -> str:
        with Comfy() as client:
            return client.submit(client.workflows.from_json(workflow(1))).id

    job_id = await served.ask(submit)
    await served.remote.rebind()

    def follow() -> str:
        with Comfy() as client:
            job = client.jobs.get(job_id).wait(timeout=DEADLINE)
            assert job._model.expires_at == NEVER
            return job.status

    assert await served.ask(follow) == "succeeded"
