"""The installed service: what a person does with it, and what it does about what happens to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from comfytunnel.wire import Job
from tests.app.stream import Stream, to_path
from tests.app.world import World, workflow
from tests.system.conftest import Unit, run, systemctl

ROOT = Path(__file__).parents[2]


async def test_install_makes_a_service_that_serves_and_the_second_time_changes_nothing(
    uninstalled: Unit,
) -> None:
    unit, world = uninstalled, uninstalled.world
    ran = await unit.install()
    assert "comfytunnel status" in ran.out
    assert "comfytunnel logs -f" in ran.out
    pid = await unit.pid()
    assert (await world.ask(world.client.health)).pid == pid
    assert await systemctl("is-enabled", f"{unit.name}.service", f"{unit.name}.socket") == "enabled\nenabled"
    await world.answers()
    assert (await world.fetch())[0] == 200
    again = await unit.install()
    assert "new" not in again.out
    assert again.out.count("unchanged") == ran.out.count("new  ")
    assert json.loads((await unit.install("--json")).out)["health"]["pid"] == pid
    assert await unit.pid() == pid


async def test_a_state_folder_that_the_daemon_would_refuse_is_refused_before_anything_is_written(
    uninstalled: Unit,
) -> None:
    (uninstalled.world.base / "state").mkdir()
    (uninstalled.world.base / "state").chmod(0o775)
    ran = await uninstalled.cli("install")
    assert (ran.code, "chmod go-w" in ran.err) == (5, True)
    assert uninstalled.files == []


async def test_the_units_are_those_of_the_repository_to_the_byte(unit: Unit) -> None:
    for kind in ("service", "socket"):
        assert (unit.folder / f"{unit.name}.{kind}").read_bytes() == (
            ROOT / "systemd" / f"comfytunnel.{kind}"
        ).read_bytes()
    confined = unit.folder / f"{unit.name}.service.d" / "20-confined.conf"
    assert confined.read_bytes() == (ROOT / "systemd" / "confined.conf").read_bytes()


async def test_systemd_has_nothing_to_say_against_the_units(unit: Unit) -> None:
    ran = await run(
        "systemd-analyze",
        "--user",
        "--recursive-errors=no",
        "--man=no",
        "verify",
        str(unit.folder / f"{unit.name}.service"),
    )
    assert (ran.code, ran.out, ran.err) == (0, "", "")


async def test_a_dry_run_shows_all_of_it_and_writes_nothing(uninstalled: Unit) -> None:
    ran = await uninstalled.install("--dry-run")
    assert uninstalled.files == []
    assert "ExecStart=" in ran.out
    assert f"systemctl --user enable {uninstalled.name}.service" in ran.out
    assert not (uninstalled.world.base / "state").exists()


async def test_a_config_that_is_missing_or_broken_is_told_before_anything_is_written(
    uninstalled: Unit,
) -> None:
    uninstalled.world.config.write_text("nonsense")
    ran = await uninstalled.cli("install")
    assert ran.code == 2
    assert "line 1" in ran.err
    assert uninstalled.files == []


async def test_the_first_question_starts_it(unit: Unit, world: World) -> None:
    await unit.do("start", "socket")
    path = world.client.socket_path
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert await unit.property("ActiveState") == "inactive"
    ran = await unit.cli("status")
    assert (ran.code, ran.err) == (0, "")
    await unit.has("ActiveState", "active")
    inode = path.stat().st_ino
    await unit.do("stop")
    assert path.stat().st_ino == inode, "the socket is the manager's"
    assert (await unit.cli("status")).code == 0


async def test_a_daemon_in_the_foreground_leaves_the_managers_socket_alone(unit: Unit, world: World) -> None:
    await unit.do("start", "socket")
    ran = await unit.cli("daemon")
    assert ran.code == 5
    assert f"systemctl --user start {unit.name}" in ran.err
    assert (await unit.cli("status")).code == 0


async def test_install_refuses_while_a_daemon_runs_in_the_foreground(uninstalled: Unit, world: World) -> None:
    await world.start(serving=False)
    ran = await uninstalled.cli("install")
    assert ran.code == 5
    assert world.process is not None
    assert str(world.process.pid) in ran.err
    assert uninstalled.files == []


async def test_the_status_line_says_what_goes_on(unit: Unit, world: World) -> None:
    await unit.do("start")
    await unit.has("StatusText", r"default up, ComfyUI \S+ serving")
    job = await world.submit(workflow(seconds=3))
    await unit.has("StatusText", r"default up, ComfyUI \S+ serving; 1 job running")
    await world.end_of(job)
    await unit.has("StatusText", r"default up, ComfyUI \S+ serving")


async def test_a_reload_is_done_when_it_returns_and_fails_with_the_reason(unit: Unit, world: World) -> None:
    await unit.do("start")
    await world.answers()
    pid = await unit.pid()
    world.write_config(hold=7)
    await unit.do("reload")
    world.config.write_text("nonsense")
    with pytest.raises(AssertionError, match="failed"):
        await unit.do("reload")
    await unit.logged("this is not TOML")
    assert await unit.property("ActiveState") == "active"
    assert await unit.pid() == pid
    assert (await world.fetch())[0] == 200


async def test_with_a_broken_config_it_stays_says_why_and_goes_on_when_it_is_mended(
    unit: Unit, world: World
) -> None:
    world.config.write_text("[tunnels")
    await unit.do("start")
    pid = await unit.pid()
    await unit.has("StatusText", r".*config\.toml: .*TOML.*")
    assert "TOML" in (await unit.cli("status")).out
    await unit.logged("this is not TOML", "-p", "err")
    ran = await unit.cli("restart")
    assert (ran.code, "warning: " in ran.err, "TOML" in ran.err) == (0, True, True)
    world.write_config()
    await world.answers()
    assert await unit.property("NRestarts") == "0"
    assert await unit.pid() not in (0, pid)


async def test_a_frozen_daemon_is_ended_by_the_watchdog_and_another_serves(unit: Unit, world: World) -> None:
    await unit.drop_in("Service", "WatchdogSec=1")
    await unit.do("start")
    await world.answers()
    os.kill(await unit.pid(), signal.SIGSTOP)
    await unit.has("NRestarts", "1")
    await world.answers()
    await unit.logged("Watchdog timeout")


async def test_one_that_lives_is_left_alone_by_the_watchdog(unit: Unit, world: World) -> None:
    """Five times the manager's patience, without a call that would wake anybody."""
    await unit.drop_in("Service", "WatchdogSec=0.4")
    await unit.do("start")
    await world.answers()
    pid = await unit.pid()
    before = await unit.beaten()
    await unit.until(unit.beaten, lambda found: found > before + 2.0)
    assert await unit.pid() == pid


async def test_a_restart_refuses_nobody_at_the_control_socket_and_loses_no_job(
    unit: Unit, world: World
) -> None:
    await unit.do("start")
    await world.answers()
    job = await world.submit(workflow(seconds=2))
    await world.until(lambda: world.client.job(job.id), lambda found: found.status == "running")
    pid = await unit.pid()
    async with Stream(to_path(world.client.socket_path), path="/v1/health", pace=0.05) as stream:
        await stream.serves(5)
        assert (await unit.cli("restart")).code == 0
        await stream.serves(10)
    assert set(stream.count()) == {"served"}
    assert await unit.pid() != pid
    ended: Job = await world.end_of(job)
    assert ended.status == "succeeded"
    assert world.comfyui.prompts_received == 1


async def test_the_journal_knows_what_is_how_bad(unit: Unit, world: World) -> None:
    """Each line once, with its level, and without a time of ours beside the journal's."""
    await unit.do("start")
    await world.answers()
    world.config.write_text("nonsense")
    assert (await unit.cli("config", "reload")).code == 2
    bad = await unit.logged("this is not TOML", "-p", "warning")
    assert "started" not in bad
    everything = await unit.logged("started", "-p", "info")
    assert not any(line.startswith(("<", "20")) for line in everything.splitlines())
    shown = await unit.cli("logs", "--since", "1 min ago")
    assert "started version=" in shown.out


async def test_an_edited_unit_is_shown_and_kept_without_a_terminal(unit: Unit) -> None:
    path = unit.folder / f"{unit.name}.service"
    path.write_text(path.read_text().replace("RestartSec=0.5", "RestartSec=9"))
    ran = await unit.install("--no-start")
    assert "-RestartSec=9" in ran.out
    assert f"kept, as you edited it {path}" in ran.out
    assert "RestartSec=9" in path.read_text()
    assert "replaced" in (await unit.install("--no-start", "--yes")).out
    assert "RestartSec=0.5" in path.read_text()
    path.write_text("# mine\n")
    assert f"kept, as you edited it: {path}" in (await unit.cli("uninstall")).out
    assert f"removed {path}" in (await unit.cli("uninstall", "--yes")).out
    assert unit.files == []


async def test_what_an_older_install_wrote_is_replaced_without_a_question(unit: Unit, world: World) -> None:
    moved = world.base / "other"
    world.config.write_text(world.config_text().replace(str(world.base / "pictures"), str(moved)))
    ran = await unit.install("--no-start")
    assert "updated" in ran.out
    assert str(moved) in (unit.folder / f"{unit.name}.service.d" / "30-writable.conf").read_text()


async def test_a_folder_outside_of_what_it_may_write_is_told_at_the_reload_and_by_the_doctor(
    unit: Unit, world: World
) -> None:
    await unit.do("start")
    await world.answers()
    folder = Path("~/comfytunnel-elsewhere").expanduser()
    world.write_config(known_hosts=str(folder / "known_hosts"))
    ran = await unit.cli("config", "reload")
    assert ran.code == 0
    assert f"{folder} is read-only to the daemon" in ran.err
    assert "`comfytunnel install`" in ran.err
    await unit.logged(f"{folder} is read-only", "-p", "warning")
    assert f"{folder}: read-only" in (await unit.cli("doctor")).out


async def test_uninstall_leaves_nothing_but_what_is_the_persons(uninstalled: Unit, world: World) -> None:
    unit = uninstalled
    await unit.install()
    await world.answers()
    ran = await unit.cli("uninstall")
    assert ran.code == 0
    assert unit.files == []
    assert unit.name not in await systemctl("list-units", "--all", "--no-legend", "--plain")
    assert unit.name not in await systemctl("list-unit-files", "--no-legend")
    assert not world.client.socket_path.exists()
    with socket.create_server(("127.0.0.1", world.port)):
        pass
    assert world.config.exists()
    assert (world.base / "state" / "jobs.db").exists()
    assert not (world.base / "state" / "service.json").exists()
    assert (await unit.cli("uninstall")).code == 0, "and again"


async def test_purge_removes_what_can_only_be_ours(uninstalled: Unit, world: World) -> None:
    unit = uninstalled
    world.config.write_text(world.config_text().replace("/pictures", "/comfytunnel"))
    await unit.install()
    (world.base / "comfytunnel" / "a.png").touch()
    kept = await unit.cli("uninstall", "--purge")
    assert "nobody is there to agree" in kept.out
    assert world.config.exists()
    ran = await unit.cli("uninstall", "--purge", "--yes")
    assert not (world.base / "comfytunnel").exists()
    assert not world.config.exists()
    assert f"{world.base}/state: its name does not say comfytunnel" in ran.out.replace(
        "kept jobs, uploads and outages: ", ""
    )


async def test_doctor_notices_a_python_that_has_gone(unit: Unit, world: World) -> None:
    """What an upgrade of the system does to an environment: the daemon that runs goes on, and could not be started again."""
    await unit.do("start")
    await world.answers()
    assert "Run: comfytunnel install" not in (await unit.cli("doctor")).out
    gone = world.base / "gone" / "python"
    await unit.drop_in("Service", "ExecStart=", f'ExecStart="{gone}" -m comfytunnel daemon')
    found = await unit.cli("doctor")
    assert f"{gone} is not there any more. Run: comfytunnel install" in found.out
    ran = await unit.cli("restart")
    assert (ran.code, str(gone) in ran.err) == (1, True), ran.err


async def test_an_agent_that_only_the_shell_sees_is_said_with_what_to_do(unit: Unit, world: World) -> None:
    agent = str(world.base / "shells-agent")
    ran = await unit.cli("install", SSH_AUTH_SOCK=agent)
    assert ran.code == 0
    assert f'agent = "{agent}"' in ran.out
    await world.answers()
    ran = await unit.cli("doctor", SSH_AUTH_SOCK=agent)
    assert f'agent = "{agent}"' in ran.out


async def test_the_confinement_is_as_tight_as_we_say(unit: Unit) -> None:
    """The score is of what is written; test_hardening.py looks at what takes effect."""
    ran = await run(
        "systemd-analyze", "--user", "security", "--threshold=25", "--no-pager", f"{unit.name}.service"
    )
    assert ran.code == 0, ran.out
