"""TAB in real shells: commands, options, what the daemon knows, and files where nothing of ours fits."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comfytunnel.cli.completing import SCRIPTS
from tests.api.conftest import Api, a_tunnel
from tests.cli.conftest import Cli, Ran

SHARE = Path(__file__).parents[2] / "share"
INSTALLED = {
    "bash": SHARE / "bash-completion" / "completions" / "comfytunnel",
    "zsh": SHARE / "zsh" / "site-functions" / "_comfytunnel",
    "fish": SHARE / "fish" / "vendor_completions.d" / "comfytunnel.fish",
}
BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={at}
_comfytunnel comfytunnel
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} is missing"
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def typist(cli: Cli, tmp_path: Path) -> Cli:
    """The command line, found on PATH as a person has it."""
    program = tmp_path / "bin" / "comfytunnel"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m comfytunnel "$@"\n')
    program.chmod(0o755)
    cli.environ["PATH"] = f"{program.parent}:{cli.environ['PATH']}"
    cli.environ["HOME"] = str(tmp_path)
    return cli


async def ask(cli: Cli, *command: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.environ, cwd=cli.folder
    )
    out, err = await process.communicate()
    return Ran(process.returncode, out.decode(), err.decode())


async def bash(cli: Cli, *words: str) -> list[str]:
    text = BASH.format(
        script=INSTALLED["bash"], words=" ".join(f"'{word}'" for word in words), at=len(words) - 1
    )
    ran = await ask(cli, shell("bash"), "--norc", "-c", text)
    assert ran.err == ""
    return ran.out.split("\n")[:-1]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
async def test_the_command_prints_what_lies_in_share(alone: Cli, name: str) -> None:
    ran = await alone("completion", name)
    assert (ran.code, ran.out, ran.err) == (0, INSTALLED[name].read_text(), "")


async def test_bash_completes_commands_options_and_choices(typist: Cli) -> None:
    assert await bash(typist, "comfytunnel", "config", "re") == ["reload"]
    assert "--watch" in await bash(typist, "comfytunnel", "status", "--")
    assert await bash(typist, "comfytunnel", "wait", "--for", "s") == ["serving"]
    assert "--state-dir" in await bash(typist, "comfytunnel", "daemon", "--")


async def test_names_of_tunnels_and_ids_of_jobs_come_from_the_daemon(api: Api, typist: Cli) -> None:
    """A label is somebody's text and never offered: shells evaluate what they are given."""
    api.tunnels.known["second"] = a_tunnel()
    job_id = await api.submit(comfytunnel={"label": "$(touch pwned)"})
    assert await bash(typist, "comfytunnel", "up", "") == ["default", "second"]
    assert await bash(typist, "comfytunnel", "run", "w.json", "--tunnel", "s") == ["second"]
    assert await bash(typist, "comfytunnel", "jobs", "show", "") == [job_id]
    ran = await ask(
        typist,
        shell("fish"),
        "--no-config",
        "-c",
        f"source {INSTALLED['fish']}; complete -C 'comfytunnel jobs cancel '",
    )
    assert ran.out == f"{job_id}\tqueued\n"


async def test_without_a_daemon_there_are_no_names_and_no_words(typist: Cli) -> None:
    typist.environ["COMFYTUNNEL_SOCKET"] = "/nonexistent/s"
    assert await bash(typist, "comfytunnel", "up", "") == [""]


async def test_fish_completes_with_words_and_leaves_files_to_itself(typist: Cli) -> None:
    (typist.folder / "workflow.json").touch()
    source = f"source {INSTALLED['fish']}; "
    ran = await ask(
        typist,
        shell("fish"),
        "--no-config",
        "-c",
        f"{source}complete -C 'comfytunnel config '; complete -C 'comfytunnel run wor'",
    )
    assert "check\tRead the config and name every mistake.\n" in ran.out
    assert "workflow.json\n" in ran.out


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param("fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D", id="installed"),
        pytest.param(
            'autoload -Uz compinit; compinit -u -D; eval "$(comfytunnel completion zsh)"', id="zshrc"
        ),
    ],
)
async def test_zsh_completes_at_the_first_tab(typist: Cli, setup: str) -> None:
    """The function lies in fpath, as an installed one does, or comes from ~/.zshrc; the terminal shows what TAB makes of the line."""
    typist.environ |= {"ZDOTDIR": str(typist.folder), "TERM": "dumb", "PS1": "> "}
    screen, inside = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        shell("zsh"), "-f", "-i", stdin=inside, stdout=inside, stderr=inside, env=typist.environ, cwd=typist.folder,
        start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    shown = ""

    async def until(words: str) -> None:
        nonlocal shown
        while words not in shown:
            shown += (await asyncio.to_thread(os.read, screen, 4096)).decode(errors="replace")

    try:
        os.write(screen, f"{setup.format(folder=INSTALLED['zsh'].parent)}; echo re''ady\n".encode())
        await until("ready\r\n")
        os.write(screen, b"comfytunnel config relo\t")
        await until("config reload")
    finally:
        process.kill()
        await process.wait()
        os.close(screen)
