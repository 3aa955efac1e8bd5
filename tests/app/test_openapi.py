"""/v1/openapi.json is true: schemathesis asks a real daemon for all that the document tells of, well and badly, and finds no 5xx that is not told, and no
answer that the document does not describe."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.app.bridge import Bridge
from tests.app.world import World, workflow

ROOT = Path(__file__).parents[2]
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]
"""Not: what fits must be accepted (a workflow is judged by more than its JSON)."""


@pytest.mark.timeout(120)  # some 1,200 requests by another program: 8 s on an idle machine, 30 on a busy one
async def test_what_the_document_tells_is_so(world: World) -> None:
    """Examples, the edges of each type, made up requests, and some after one another; always the same ones."""
    named = world.config.parent / "workflows"
    named.mkdir()
    (named / "portrait.json").write_text(json.dumps(workflow(3)))
    await world.start()
    await world.end_of(await world.submit(workflow(7)))
    async with Bridge(world.client.socket_path) as bridge:
        command = [sys.executable, "-W", "error", "-m", "schemathesis.cli", "run"]
        command += [f"http://127.0.0.1:{bridge.port}/v1/openapi.json", "--no-color", "--warnings", "off"]
        command += [
            "--checks",
            ",".join(CHECKS),
            "--max-examples",
            "5",
            "--seed",
            "1",
            "--generation-deterministic",
        ]
        command += ["--request-timeout", "10", "--continue-on-failure", "--no-shrink"]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=world.base,
            env=os.environ
            | {"PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}", "SCHEMATHESIS_HOOKS": "tests.app.tryhooks"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    print(said.decode())
    assert process.returncode == 0
    assert [line for line in world.log.read_text().splitlines() if "[error" in line] == []
    assert (await world.ask(world.client.health)).status == "ok"
