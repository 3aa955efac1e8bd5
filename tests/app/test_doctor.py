"""`doctor` through a real daemon: each link of the chain, broken in turn, is the one that it names; and it logs in nowhere."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from comfytunnel import wire
from tests.app.world import DEADLINE, World
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.conftest import becomes, service
from tests.tunnel.test_keys import agent_with, encrypted_key

STEPS = (
    "config", "key", "dns", "tcp", "banner", "host_key", "authentication", "channel", "comfyui", "websocket", "disk",
)  # fmt: skip


async def examined(world: World) -> wire.Report:
    """The report of the one tunnel; each of its steps is there once and in order."""
    found = await world.ask(lambda: world.client.doctor())
    (report,) = found.reports
    assert tuple(check.step for check in report.steps) == STEPS
    fails = [check.step for check in report.steps if check.result == "fail"]
    assert report.broken == (fails[0] if fails else None)
    return report


def results(report: wire.Report) -> dict[str, str]:
    return {check.step: check.result for check in report.steps}


def of(report: wire.Report, step: str) -> wire.Check:
    return next(check for check in report.steps if check.step == step)


def passed_before(report: wire.Report, step: str) -> bool:
    """Whether all before `step` passes."""
    return all(check.result == "pass" for check in report.steps[: STEPS.index(step)])


async def in_phase(world: World, phase: str, cause: str = "") -> wire.Tunnel:
    return await world.until(
        lambda: world.client.tunnel("default"),
        lambda found: (
            found.phase == phase and (not cause or (found.cause is not None and found.cause.code == cause))
        ),
    )


@asynccontextmanager
async def behind_sshd(world: World, sshd: Sshd) -> AsyncIterator[None]:
    """The world's daemon, with OpenSSH instead of the stand-in in front of ComfyUI."""
    world.write_config(
        host=sshd.host,
        port=sshd.port,
        user=sshd.user,
        identity_file=str(sshd.client_key),
        remote=f"127.0.0.1:{world.comfyui.port}",
    )
    async with sshd:
        world.config.write_text(world.config.read_text().replace("port = 0", f"port = {sshd.port}"))
        yield


# --- a link that lives ----------------------------------------------------------------------------------------------


async def test_all_is_well_and_the_live_link_answers_without_another_connection(
    world: World, tmp_path: Path
) -> None:
    """A relay counts connections that do not log in, and an agent may ask for each login: the doctor makes neither."""
    async with behind_sshd(world, sshd := Sshd(tmp_path, extra="LogLevel DEBUG1")):
        await world.start()
        before, connections = sshd.accepted, sshd.log().count("Connection from ")
        for _ in range(3):
            report = await examined(world)
            assert set(results(report).values()) == {"pass"}, report
        assert report.broken is None
        assert report.phase == "up"
        assert (report.server_version or "").startswith("SSH-2.0-OpenSSH")
        assert sshd.host_key_fingerprint in of(report, "host_key").detail
        assert str(sshd.client_key) in of(report, "key").detail
        assert "0.33.0" in of(report, "comfyui").detail
        assert (sshd.accepted, before) == (1, 1)
        assert sshd.log().count("Connection from ") == connections


async def test_what_the_relay_says_is_shown_after_a_login_and_after_a_refused_one(world: World) -> None:
    world.remote.banner = "Welcome to vast.ai.\r\nIf authentication fails, try again."
    await world.start()
    assert "Welcome to vast.ai." in ((await examined(world)).banner or "")
    world.remote.banner = "Go away."
    world.remote.refuse_auth = True
    world.remote.cut()
    await in_phase(world, "waiting", "auth_denied")
    assert (await examined(world)).banner == "Go away."
    assert (await world.ask(lambda: world.client.tunnel("default"))).ssh.banner == "Go away."


async def test_a_silent_link_is_a_broken_channel(world: World) -> None:
    """The port of this machine is fine and the relay's connection stands: only the question through it tells."""
    world.write_config(keepalive_interval=600)
    await world.start()
    world.remote.freeze()
    looking = asyncio.create_task(examined(world))
    report = await asyncio.wait_for(looking, DEADLINE)
    assert report.broken == "channel"
    assert passed_before(report, "channel")
    assert re.search("no sign of life|ended while it was asked", of(report, "channel").detail)
    assert re.search("reconnect|doctor", of(report, "channel").hint)
    assert results(report)["comfyui"] == "skip"


async def test_comfyui_that_does_not_run_is_the_broken_link_and_not_the_tunnel(world: World) -> None:
    await world.start()
    await world.comfyui.stop()
    report = await examined(world)
    assert report.broken == "comfyui"
    assert passed_before(report, "comfyui")
    assert "Nothing serves on localhost:18188" in of(report, "comfyui").detail
    assert "being set up" in of(report, "comfyui").hint
    assert of(report, "websocket").detail == "needs comfyui"
    assert results(report)["disk"] == "pass"


async def test_a_login_page_is_a_wrong_port(world: World) -> None:
    await world.start()
    world.comfyui.faults.html_login = "redirect"
    report = await examined(world)
    assert report.broken == "comfyui"
    assert "not ComfyUI" in of(report, "comfyui").detail
    assert "8188 a login page" in of(report, "comfyui").hint


async def test_websockets_that_are_cut_are_told_apart_from_comfyui(world: World) -> None:
    await world.start()
    world.comfyui.faults.cut_websockets = -1
    report = await examined(world)
    assert report.broken == "websocket"
    assert passed_before(report, "websocket")
    assert "proxy" in of(report, "websocket").hint


async def test_a_port_that_another_program_holds_is_not_asked_for_comfyui(world: World) -> None:
    with socket.create_server(("127.0.0.1", world.port)) as holder:
        holder.setblocking(False)
        await world.start(serving=False)
        await in_phase(world, "up", "port_in_use")
        report = await examined(world)
        assert report.broken == "comfyui"
        assert "taken by another program" in of(report, "comfyui").detail
        with pytest.raises(BlockingIOError):
            holder.accept()


async def test_a_key_that_has_gone_is_said_while_the_link_still_lives(world: World) -> None:
    await world.start()
    world.key.unlink()
    report = await examined(world)
    assert report.broken == "key"
    assert str(world.key) in of(report, "key").detail
    assert results(report)["authentication"] == results(report)["websocket"] == "pass"


# --- a road that is broken ------------------------------------------------------------------------------------------


async def test_a_key_that_others_may_read_is_the_broken_link_and_the_road_is_tried_all_the_same(
    world: World,
) -> None:
    world.key.chmod(0o644)
    await world.start(serving=False)
    await in_phase(world, "waiting", "key_unreadable")
    report = await examined(world)
    assert report.broken == "key"
    assert "chmod 600" in of(report, "key").hint
    assert results(report)["host_key"] == "pass"
    assert of(report, "authentication").detail == "needs key"


async def test_a_name_that_does_not_resolve(world: World) -> None:
    world.write_config(host="nowhere.invalid")
    await world.start(serving=False)
    await world.until(lambda: world.client.tunnel("default"), lambda found: found.cause is not None)
    report = await examined(world)
    assert report.broken == "dns"
    assert "nowhere.invalid" in of(report, "dns").detail
    assert of(report, "tcp").detail == "needs dns"


async def test_nothing_listens(world: World) -> None:
    world.write_config(port=free_port())
    await world.start(serving=False)
    await in_phase(world, "waiting", "connect_refused")
    report = await examined(world)
    assert report.broken == "tcp"
    assert passed_before(report, "tcp")
    assert "comfytunnel setup" in of(report, "tcp").hint


@pytest.mark.parametrize(
    ("says", "words"),
    [
        pytest.param(b"", "said nothing for 10 s", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400", id="another protocol"),
    ],
)
async def test_what_answers_is_silent_or_no_ssh(world: World, says: bytes, words: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.read()  # until the other side goes

    async with service(answer) as port:
        world.write_config(port=port)
        await world.start(serving=False)
        report = await examined(world)
        assert report.broken == "banner"
        assert passed_before(report, "banner")
        assert words in of(report, "banner").detail
        assert of(report, "banner").hint
        await world.kill()


async def test_a_relay_that_hangs_up_at_once(world: World) -> None:
    world.remote.refuse_connections = True
    await world.start(serving=False)
    await in_phase(world, "waiting", "connect_reset")
    report = await examined(world)
    assert report.broken == "banner"
    assert "busy" in of(report, "banner").hint


async def test_a_changed_host_key_is_named_with_both_fingerprints_and_nothing_is_recorded(
    world: World, tmp_path: Path
) -> None:
    async with behind_sshd(world, sshd := Sshd(tmp_path)):
        known = world.base / "known_hosts"
        known.write_text(sshd.known_hosts_line + "\n")
        old, new = sshd.host_key_fingerprint, await sshd.change_host_key()
        before = known.read_text()
        await world.start(serving=False)
        await in_phase(world, "halted", "host_key_changed")
        report = await examined(world)
        assert report.broken == "host_key"
        assert passed_before(report, "host_key")
        assert old in of(report, "host_key").detail
        assert new in of(report, "host_key").detail
        assert of(report, "host_key").hint
        assert sshd.accepted == 0
        assert known.read_text() == before


async def test_a_host_key_that_the_policy_does_not_let_us_record(world: World) -> None:
    world.write_config(host_key="ask")
    await world.start(serving=False)
    await in_phase(world, "halted", "host_key_unknown")
    report = await examined(world)
    assert report.broken == "host_key"
    assert "comfytunnel trust default" in of(report, "host_key").hint
    assert not (world.base / "known_hosts").exists()


async def test_a_refused_key_is_told_from_the_last_try_and_no_new_one_is_made(
    world: World, tmp_path: Path
) -> None:
    """At most two logins a minute: whoever runs the doctor ten times must not make it twelve."""
    async with behind_sshd(world, sshd := Sshd(tmp_path, authorized=[])):
        await world.start(serving=False)
        await in_phase(world, "waiting", "auth_denied")
        tried = sshd.log().count("Failed publickey")
        assert tried == 1
        for _ in range(3):
            report = await examined(world)
            assert report.broken == "authentication"
            assert passed_before(report, "authentication")
            assert "the tunnel tries by itself at " in of(report, "authentication").detail
            assert "identity_file" in of(report, "authentication").hint
        assert sshd.log().count("Failed publickey") == tried


async def test_an_agent_that_does_not_sign_is_the_broken_link(world: World, tmp_path: Path) -> None:
    """It shows its keys to anybody, so only the last try knows."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    encrypted = encrypted_key(tmp_path / "key", key)
    sshd = Sshd(tmp_path, authorized=[key.export_public_key().decode().strip()])
    async with agent_with(folder=world.base) as agent, behind_sshd(world, sshd):
        async with asyncssh.SSHAgentClient(str(agent)) as client:
            await client.add_keys([key], confirm=True)
        text = world.config.read_text().replace(f'"{sshd.client_key}"', f'"{encrypted}"\nagent = "{agent}"')
        world.config.write_text(text)
        await world.start(serving=False, HOME=str(tmp_path))
        await in_phase(world, "waiting", "key_unreadable")
        report = await examined(world)
        assert report.broken == "authentication"
        assert passed_before(report, "authentication")
        assert "does not sign" in of(report, "authentication").detail


async def test_a_forbidden_forward(world: World, tmp_path: Path) -> None:
    async with behind_sshd(world, sshd := Sshd(tmp_path, permit_open="none")):
        await world.start(serving=False)
        await in_phase(world, "waiting", "forward_denied")
        logins = sshd.accepted
        report = await examined(world)
        assert report.broken == "channel"
        assert passed_before(report, "channel")
        assert "administrator" in of(report, "channel").hint
        assert sshd.accepted == logins


async def test_a_tunnel_that_is_down_on_purpose_is_looked_at_up_to_the_host_key(world: World) -> None:
    await world.start()
    await world.ask(lambda: world.client.down("default"))
    logins = world.remote.logins
    report = await examined(world)
    assert report.broken is None
    assert passed_before(report, "authentication")
    assert of(report, "authentication").result == "skip"
    assert "comfytunnel up" in of(report, "authentication").hint
    assert [results(report)[step] for step in ("channel", "comfyui", "websocket", "disk")] == ["skip"] * 3 + [
        "pass"
    ]
    assert world.remote.logins == logins
    (world.base / "known_hosts").unlink()
    assert "the first login records it" in of(await examined(world), "host_key").detail
    assert not (world.base / "known_hosts").exists()


async def test_a_road_that_is_good_again_says_when_the_tunnel_tries(world: World) -> None:
    """The doctor comes while the daemon waits for its next try, and the fault has just gone."""
    world.remote.refuse_connections = True
    await world.start(serving=False)
    await world.until(
        lambda: world.client.tunnel("default"),
        lambda found: found.counters.links > 3 and found.phase == "waiting",
    )
    logins = world.remote.logins
    world.remote.refuse_connections = False
    report = await examined(world)
    if report.phase == "up":  # its own try came first
        assert report.broken is None
        return
    assert world.remote.logins == logins
    assert report.broken is None
    assert "tries by itself at" in of(report, "authentication").detail
    assert "comfytunnel reconnect default" in of(report, "authentication").hint


async def test_behind_a_jump_host_the_last_try_answers_and_nobody_logs_in_to_it(world: World) -> None:
    """What lies behind it cannot be seen without a login there."""
    world.write_config(host="behind.invalid", proxy_jump=f"root@127.0.0.1:{world.remote.port}")
    await world.start(serving=False, HOME=str(world.base))
    await in_phase(world, "halted", "host_key_unknown")  # that of the jump host, which nobody has seen before
    made = world.remote.connections_made
    report = await examined(world)
    assert [results(report)[step] for step in ("dns", "tcp", "banner")] == ["skip"] * 3
    assert "jump host" in of(report, "tcp").detail
    assert report.broken == "host_key"
    assert world.remote.connections_made == made


async def test_a_command_that_is_not_there_is_the_broken_link_though_the_file_is_good(world: World) -> None:
    world.write_config(proxy_command="no-such-program %h")
    await world.start(serving=False)
    await in_phase(world, "halted", "config_error")
    report = await examined(world)
    assert report.broken == "config"
    assert "no-such-program" in of(report, "config").detail
    assert "comfytunnel reconnect default" in of(report, "config").hint
    world.write_config()
    report = await examined(world)
    assert report.broken is None, "what the file says now is another thing"
    assert "config reload" in of(report, "config").hint


# --- this machine ---------------------------------------------------------------------------------------------------


async def test_a_config_that_is_broken_under_a_service_manager(world: World) -> None:
    world.config.write_text('[tunnels.default]\nhots = "x"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(world.base / "notify"))
        await world.start(serving=False, NOTIFY_SOCKET=str(world.base / "notify"))
        report = await examined(world)
    assert (report.broken, report.tunnel, report.phase) == ("config", None, None)
    assert "hots" in of(report, "config").detail
    assert of(report, "config").hint
    assert results(report)["disk"] == "pass"
    assert set(list(results(report).values())[1:-1]) == {"skip"}


async def test_a_file_that_has_changed_or_broken_since_is_said_and_the_road_in_use_is_examined(
    world: World,
) -> None:
    await world.start()
    world.write_config(keepalive_interval=30)
    report = await examined(world)
    assert report.broken is None
    assert "config reload" in of(report, "config").hint
    world.config.write_text("[tunnels.default\n")
    report = await examined(world)
    assert report.broken == "config"
    assert "still in use" in of(report, "config").detail
    assert {check.result for check in report.steps[1:]} == {"pass"}


async def test_what_ssh_config_says_without_effect_is_named(world: World) -> None:
    (world.base / "ssh_config").write_text(
        "Host 127.*\n  StrictHostKeyChecking no\n  ControlMaster auto\nHost other\n  LocalForward 1 localhost:1\n"
    )
    world.write_config(ssh_config=str(world.base / "ssh_config"))
    await world.start()
    report = await examined(world)
    assert report.broken is None
    said = of(report, "config").detail
    assert "StrictHostKeyChecking no" in said
    assert "ControlMaster auto" in said
    assert "LocalForward" not in said


def _no_output_folder(world: World) -> str:
    (world.base / "pictures").write_text("a file")
    return str(world.base / "pictures")


def _no_state_folder(world: World) -> str:
    state = world.base / "state"
    state.rename(world.base / "state-moved")
    state.write_text("a file")
    return str(state)


@pytest.mark.parametrize("spoil", [_no_output_folder, _no_state_folder])
async def test_a_folder_that_takes_no_files(world: World, spoil: Callable[[World], str]) -> None:
    await world.start()
    nodes = world.base / "state" / "nodes"  # what is read of a ComfyUI that begins to serve

    def known() -> bool:
        suffixes = {each.suffix for each in nodes.iterdir()} if nodes.is_dir() else set()
        return bool(suffixes) and ".part" not in suffixes

    await becomes(known, "the nodes are known")
    before = sorted(world.base.rglob("*"))
    assert (await examined(world)).broken is None
    assert sorted(world.base.rglob("*")) == before, "what was tried is removed"
    where = spoil(world)
    report = await examined(world)
    assert report.broken == "disk"
    assert passed_before(report, "disk")
    assert where in of(report, "disk").detail
    assert of(report, "disk").hint


# --- the command ----------------------------------------------------------------------------------------------------


async def test_the_command_names_the_broken_link_and_exits_1(world: World) -> None:
    await world.start()
    code, out, err = await world.run("doctor")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith("All is well.")
    await world.comfyui.stop()
    code, out, _ = await world.run("doctor", "default")
    assert code == 1
    assert "FAIL  comfyui" in out
    assert "SKIP  websocket" in out
    assert out.rstrip().splitlines()[-1].startswith("Broken: comfyui. Normal for many minutes")
    code, out, _ = await world.run("doctor", "--json")
    assert code == 1
    assert json.loads(out)["reports"][0]["broken"] == "comfyui"
    code, _, err = await world.run("doctor", "defalt")
    assert code == 2
    assert "default" in err


async def test_an_agent_that_the_daemon_is_told_of_and_cannot_ask_is_said(world: World) -> None:
    """The key of the file serves, so nothing is broken."""
    gone = str(world.base / "gone")
    await world.start(SSH_AUTH_SOCK=gone)
    report = await examined(world)
    assert report.agent == wire.Agent(gone, "environment", None)
    assert report.broken is None
    assert gone in of(report, "key").detail
    assert "restart it" in of(report, "key").hint


async def test_an_agent_that_only_the_shell_sees_is_said(world: World) -> None:
    await world.start()
    process = await world.spawn("doctor", SSH_AUTH_SOCK="/run/user/1000/agent")
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0
    assert 'agent = "/run/user/1000/agent"' in out.decode()
