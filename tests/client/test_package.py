"""`from comfytunnel import ...`: what it costs, what a checker sees of it, and what it says where httpx is missing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import comfytunnel


def fresh(script: str) -> str:
    """Run in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_alone_imports_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); import comfytunnel; print(*sorted(set(sys.modules) - before))"
    )
    assert fresh(script).split() == ["comfytunnel"]


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_a_client_drags_nothing_of_the_daemon_in(name: str) -> None:
    """Nor PIL; and httpx only with an AsyncClient."""
    script = (
        f"import sys; from comfytunnel import {name}; {name}()\n"
        "print(*(m for m in sys.modules if m.startswith(('comfytunnel.', 'aiohttp', 'asyncssh', 'PIL', 'structlog', 'rich', 'httpx.'))))"
    )
    loaded = set(fresh(script).split())
    rooms = {name.split(".")[1] for name in loaded if name.startswith("comfytunnel.")}
    assert not rooms & {
        "api",
        "app",
        "assembly",
        "cli",
        "comfy",
        "demo",
        "doctor",
        "jobs",
        "service",
        "tunnel",
        "watch",
    }
    foreign = {name.partition(".")[0] for name in loaded} - {"comfytunnel"}
    if name == "AsyncClient":
        foreign.discard("rich")  # httpx imports it for its own command line, where click is installed
    assert foreign == ({"httpx"} if name == "AsyncClient" else set())


def test_both_clients_can_be_asked_the_same_in_the_same_words() -> None:
    def asked(client: type) -> dict[str, list[str]]:
        calls = {name: getattr(client, name) for name in dir(client) if not name.startswith("_")}
        return {
            name: list(inspect.signature(call).parameters) for name, call in calls.items() if callable(call)
        }

    once, awaited = asked(comfytunnel.Client), asked(comfytunnel.AsyncClient)
    assert awaited.pop("aclose") == ["self"]
    assert awaited == once


def test_every_name_of_the_package_is_there_and_no_other() -> None:
    assert set(comfytunnel.__all__) <= set(dir(comfytunnel))
    for name in comfytunnel.__all__:
        assert getattr(comfytunnel, name).__name__ == name
    with pytest.raises(AttributeError):
        comfytunnel.Clinet  # type: ignore[attr-defined]  # noqa: B018 - a name that there is not


def test_without_httpx_the_way_to_get_it_is_named() -> None:
    script = (
        "import sys; sys.modules['httpx'] = None\n"
        "from comfytunnel import AsyncClient, UsageError\n"
        "try: AsyncClient()\n"
        "except UsageError as error: print(error)"
    )
    assert "pip install 'comfytunnel[async]'" in fresh(script)


SAMPLE = """
from comfytunnel import AsyncClient, Client, Job, JobFailedError

def draw(client: Client) -> Job:
    job = client.run({}, label="x", timeout=60)
    reveal_type(job.outputs[0].save("here"))
    reveal_type(client.job("x").wait().status)
    client.submit({}, lable="a typing mistake")
    return job

async def later(client: AsyncClient) -> None:
    job = await client.generate("portrait", {"prompt": "x"})
    reveal_type(await job.outputs[0].read())
    reveal_type([each async for each in client.jobs(limit=3)])
    job.outputs[0].read().decode()

try:
    draw(Client())
except JobFailedError as error:
    reveal_type(error.job.error)
"""


@pytest.mark.timeout(60)  # mypy reads its own idea of the standard library first, without a cache
def test_a_checker_sees_the_types_of_a_users_code(tmp_path: Path) -> None:
    """Two mistakes in it are found: an argument that there is not, and an await that was forgotten."""
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    package = Path(comfytunnel.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            f"--cache-dir={tmp_path / 'cache'}",
            "--config-file=",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": str(package), "PATH": ""},
    )
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    revealed = [line.split('"')[1] for line in lines if "Revealed" in line]
    assert revealed == [
        "pathlib.Path",
        "str",
        "bytes",
        "list[comfytunnel.client.asyncjobs.AsyncJob]",
        "comfytunnel.wirejobs.JobError | None",
    ]
    wrong = [line for line in lines if line.startswith("error")]
    assert len(wrong) == 2, done.stdout
    assert "lable" in wrong[0]
    assert "Coroutine" in wrong[1]
