"""docs/api.md is the API: what it lists is served, what is served it lists, and its curl lines work."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from comfytunnel import errors, wire, words
from comfytunnel.api.answers import STATUS
from comfytunnel.api.openapi import document
from comfytunnel.api.routes import ROUTES
from tests.api.conftest import SAMPLED, Api

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### (GET|POST|HEAD|DELETE) (\S+)\n\n    (curl .*)$", TEXT, re.MULTILINE)

ENDS = {"GET": b"}\n", "POST": b"}\n", "HEAD": b"\r\n\r\n", "DELETE": b""}
"""What the answer that curl shows ends with, by the method."""


def test_the_documented_routes_are_the_route_table_in_both_directions() -> None:
    documented = [(method, path) for method, path, _ in SECTIONS]
    assert sorted(documented) == sorted(route.key for route in ROUTES)


def test_the_documented_codes_are_the_status_table_in_both_directions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| \S", TEXT, re.MULTILINE)
    assert {code: int(status) for code, status in rows} == STATUS


def test_each_closed_list_of_words_is_told_whole_and_no_word_that_nobody_says() -> None:
    """`"phase": "down|offline|..."`, wherever a shape is shown; the doctor's steps in a sentence, in their order."""
    said: dict[str, set[frozenset[str]]] = {}
    for schema in document(ROUTES)["components"]["schemas"].values():
        for name, told in schema.get("properties", {}).items():
            for each in (told, *told.get("anyOf", ())):
                if len(each.get("enum", ())) > 1:
                    said.setdefault(name, set()).add(frozenset(each["enum"]))
    shown: dict[str, set[frozenset[str]]] = {}
    for name, list_ in re.findall(r'"(\w+)": (?:null \| )?"([a-z_.]+(?:\|[a-z_.]*)+)"', TEXT):
        shown.setdefault(name, set()).add(frozenset(list_.split("|")))
    steps = re.search(r"STEP is, in this order: ([^;]*);", TEXT)
    assert steps is not None
    assert tuple(re.findall(r"`(\w+)`", steps[1])) == get_args(words.Step)
    in_sentences = {"step", "broken", "to"}  # the steps, and where a job may be moved
    assert shown == {name: lists for name, lists in said.items() if name not in in_sentences}
    assert wire.JobCounts.__struct_fields__ == tuple(words.Status)


def test_every_error_that_the_rooms_raise_has_a_status() -> None:
    """An error class without a place in the table would be a bare 500; those that only a client raises are left out."""
    raised = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)
    ]
    clients_own = {errors.NotRunningError, errors.TimedOutError, errors.RemoteError}
    of_the_api = [
        kind for kind in raised if kind not in clients_own and not issubclass(kind, errors.JobEndedError)
    ]
    assert [kind for kind in of_the_api if kind.code not in STATUS] == []


def test_every_code_that_a_room_behind_the_api_gives_to_an_error_has_a_status() -> None:
    """A code of a room's own that is not in the table would not be in the documentation either."""
    package = Path(errors.__file__).parent
    rooms = [
        *package.glob("api/*.py"),
        *package.glob("jobs/*.py"),
        *package.glob("workflow/*.py"),
        package / "roster.py",
        package / "tunnel" / "trust.py",
    ]
    given = {
        code for path in rooms for code in re.findall(r"\bcode=\"(\w+)\"", path.read_text(encoding="utf-8"))
    }
    assert given - STATUS.keys() == {
        "already_running"
    }  # said by a second daemon's command line, never over HTTP


@pytest.mark.parametrize(("method", "path", "line"), SECTIONS, ids=[f"{m} {p}" for m, p, _ in SECTIONS])
async def test_each_curl_line_does_what_it_says(
    api: Api, tmp_path: Path, method: str, path: str, line: str
) -> None:
    job_id = await api.submit()
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "workflow_api.json").write_text('{"1": {"class_type": "A", "inputs": {}}}')
    (tmp_path / "saved.json").write_text('{"nodes": [{"id": 1, "type": "A"}], "links": []}')
    api.scheduler.entries["A"] = b'{"input": {}, "output": []}'
    await api.scheduler.start(job_id)
    output = await api.scheduler.output(job_id, tmp_path / "a.png")
    if (method, path) == ("DELETE", "/v1/jobs/{id}"):
        await api.scheduler.succeed(job_id)
    (tmp_path / "photo.png").write_bytes(b"uploaded")
    named = api.context.workflows.path
    named.mkdir()
    (named / "portrait.json").write_bytes(msgspec.json.encode(SAMPLED))
    uploaded = await api.upload(b"another", "another.png")
    assert path.split("{")[0] in line
    assert ("-X POST" in line or " -d " in line) is (method == "POST")
    stream = "curl -N " in line
    shell = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        line.replace("curl ", "exec curl -sS --fail-with-body -m 10 ", 1),
        env={
            "S": str(api.path),
            "ID": job_id,
            "ASSET": output.asset_id,
            "UPLOAD": uploaded["id"],
            "HASH": uploaded["hash"],
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    if stream:
        assert shell.stdout is not None
        assert await shell.stdout.readline() == b"event: status\n"
        shell.terminate()
    out, err = await shell.communicate()
    if not stream:
        assert shell.returncode == 0, (out, err)
    if path == "/v1/metrics":
        assert out.startswith(b"# HELP comfytunnel_")
    elif not stream:
        assert (
            (tmp_path / "picture.png").exists() if path.endswith("/content") else out.endswith(ENDS[method])
        )
