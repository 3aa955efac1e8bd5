"""The daemon as a process: its start, its end, what it does about its surroundings."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from comfytunnel import wire
from comfytunnel.client import Client
from comfytunnel.demo.remote import Remote
from tests.app.world import DEADLINE, World, workflow
from tests.fakes.sshd import free_port
from tests.watch.logind import FakeLogind, bus_at

WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_a_program_reaches_comfyui_through_the_port_on_both_loopback_addresses(world: World) -> None:
    await world.start()
    status, body = await world.fetch()
    assert (status, b"comfyui_version" in body) == (200, True)
    _, writer = await asyncio.open_connection("::1", world.port)
    writer.close()
    assert world.remote.sessions_asked == 0


async def test_sigterm_ends_it_within_two_seconds_with_clients_open(world: World) -> None:
    await world.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(WEBSOCKET)
    assert b"101" in await reader.readline()
    events = world.client.events()
    await world.ask(lambda: next(events))
    assert await world.stop() < 2.0
    assert world.process is not None
    assert world.process.returncode == 0
    assert not world.client.socket_path.exists()
    writer.close()


async def test_sigterm_with_nobody_there_is_prompt(world: World) -> None:
    """Our own calls through the door are not waited for."""
    await world.start()
    assert await world.stop() < 1.0


async def test_a_second_daemon_is_refused_and_the_first_goes_on(world: World) -> None:
    await world.start()
    assert world.process is not None
    code, _, err = await world.run("daemon")
    assert code == 5
    assert str(world.process.pid) in err
    assert (await world.ask(world.client.health)).pid == world.process.pid
    assert (await world.fetch())[0] == 200


async def test_the_socket_is_ours_alone_from_the_first_moment(world: World) -> None:
    await world.start(serving=False)
    assert stat.S_IMODE(world.client.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.client.socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((world.base / "state" / "jobs.db").stat().st_mode) == 0o600


async def test_a_taken_port_is_said_with_its_holder_and_taken_over_when_it_is_free(world: World) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('ok', flush=True); sys.stdin.read()",
        str(world.port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    await world.start(serving=False)
    tunnel = await world.until(
        lambda: world.client.tunnel("default"), lambda found: found.phase == "up" and found.cause is not None
    )
    assert tunnel.cause is not None
    assert tunnel.cause.code == "port_in_use"
    assert str(holder.pid) in tunnel.cause.message
    assert "take over" in tunnel.cause.hint
    assert not (await world.ask(world.client.ready)).ready
    assert tunnel.comfyui.state == "unknown", "the program that holds the port must not be asked"
    holder.terminate()
    await holder.wait()
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    assert (await world.fetch())[0] == 200


async def test_one_tunnels_taken_port_leaves_the_others_alone(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = world.config_text(listen=f"127.0.0.1:{taken.getsockname()[1]}").replace(
            "tunnels.default", "tunnels.other"
        )
        world.config.write_text(world.config_text() + other.split("[jobs]")[0])
        await world.start(serving=False)
        await world.ask(lambda: world.client.wait("default", timeout=DEADLINE))
        other_one = await world.until(
            lambda: world.client.tunnel("other"), lambda found: found.cause is not None
        )
        assert other_one.cause is not None
        assert (await world.ask(lambda: world.client.tunnel("default"))).cause is None
    assert other_one.cause.code == "port_in_use"
    assert (await world.fetch())[0] == 200


async def test_a_cut_link_is_back_by_itself_and_the_next_call_is_served(world: World) -> None:
    await world.start()
    before = (await world.ask(lambda: world.client.tunnel("default"))).counters.links
    world.remote.cut()
    await asyncio.sleep(0)  # asyncio closes an aborted socket in the loop's next turn: then the link is cut
    # What the daemon answers now comes after its look at the sockets: a call in the very turn of the cut may be reset with it.
    await world.ask(world.client.health)
    assert (await world.fetch())[0] == 200
    assert (await world.ask(lambda: world.client.tunnel("default"))).counters.links > before


async def test_down_refuses_with_the_reason_and_up_serves_again(world: World) -> None:
    await world.start()
    await world.ask(lambda: world.client.down("default"))
    status, body = await world.fetch()
    assert status == 503
    assert b"down_on_purpose" in body
    await world.ask(lambda: world.client.up("default"))
    assert (await world.fetch())[0] == 200


async def test_a_changed_host_key_halts_and_a_mended_known_hosts_goes_on(world: World) -> None:
    await world.start()
    known = (world.base / "known_hosts").read_text()
    world.remote.change_host_key()
    world.remote.cut()
    tunnel = await world.until(lambda: world.client.tunnel("default"), lambda found: found.phase == "halted")
    assert tunnel.cause is not None
    assert tunnel.cause.code == "host_key_changed"
    assert tunnel.cause.message.count("SHA256:") == 2
    assert (world.base / "known_hosts").read_text() == known, "nothing is overwritten by itself"
    (world.base / "known_hosts").write_text(world.remote.known_hosts_line + "\n")
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))


async def test_a_known_hosts_that_is_mended_without_a_new_time_goes_on_too(world: World) -> None:
    """A copy that keeps times, and the chmod that our hint asks for, leave the time of the text as it was."""
    await world.start()
    world.remote.change_host_key()
    world.remote.cut()
    await world.until(lambda: world.client.tunnel("default"), lambda found: found.phase == "halted")
    known = world.base / "known_hosts"
    before = known.stat()
    known.write_text(world.remote.known_hosts_line + "\n")
    os.utime(known, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.stat().st_size == before.st_size
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))


async def test_a_broken_config_in_the_foreground_is_named_and_exits_2(world: World) -> None:
    world.config.write_text('[tunnels.default]\nhots = "example"\n')
    code, _, err = await world.run("daemon")
    assert code == 2
    assert "host" in err
    assert str(world.config) in err
    assert not world.client.socket_path.exists()


async def test_a_broken_config_under_a_service_manager_is_said_and_taken_up_when_mended(world: World) -> None:
    """It serves the control socket without tunnels, and goes on by itself."""
    world.config.write_text("[tunnels.default\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(world.base / "notify"))
        manager.settimeout(DEADLINE)
        await world.start(serving=False, NOTIFY_SOCKET=str(world.base / "notify"))
        said = [await asyncio.to_thread(manager.recv, 4096) for _ in range(2)]
        assert b"READY=1" in said
        assert any(line.startswith(b"STATUS=") and b"config.toml" in line for line in said)
        status = await world.ask(world.client.status)
        assert status.tunnels == {}
        assert status.cause is not None
        assert status.cause.code == "config_error"
        world.write_config()
        await world.until(world.client.ready, lambda found: found.ready)
        assert (await world.ask(world.client.status)).cause is None


async def test_reload_moves_to_another_endpoint_while_the_port_stays_open(world: World) -> None:
    await world.start()
    other = Remote(targets=world.remote.targets, authorized=world.remote.authorized)
    async with other:
        world.write_config(port=other.port)
        done = await world.ask(world.client.reload)
        assert done["changed"] == ["default"]
        assert (await world.fetch())[0] == 200
        assert other.logins == 1
        world.config.write_text("nonsense = [\n")
        code, _, err = await world.run("config", "reload")
        assert code == 2
        assert "config.toml" in err
        assert (await world.fetch())[0] == 200, "a broken config changes nothing"


async def test_what_only_callers_to_come_are_concerned_with_disturbs_nobody(world: World) -> None:
    await world.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(WEBSOCKET)
    assert b"101" in await reader.readline()
    world.write_config(hold=1, keepalive_interval=20, allowed_hosts=["box.example"])
    assert (await world.ask(world.client.reload))["changed"] == ["default"]
    tunnel = await world.ask(lambda: world.client.tunnel("default"))
    assert (tunnel.counters.links, tunnel.counters.lost) == (1, 0)
    assert tunnel.counters.channels >= 1, "the open call goes on"
    world.remote.refuse_connections = True
    world.remote.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    began = asyncio.get_running_loop().time()
    assert (await world.fetch())[0] == 503
    assert asyncio.get_running_loop().time() - began < 10.0, "and not the 30 s of before"
    writer.close()


async def test_sighup_reloads(world: World) -> None:
    await world.start()
    world.write_config(listen=f"localhost:{world.port}", keepalive_interval=20)
    assert world.process is not None
    os.kill(world.process.pid, signal.SIGHUP)
    await world.until(world.log.read_text, lambda text: "changed=['default']" in text)
    assert (await world.fetch())[0] == 200


async def test_a_socket_path_that_is_too_long_is_refused_with_the_way_out(world: World) -> None:
    world.client = Client(world.base / ("d" * 120) / "control.sock")
    code, _, err = await world.run("daemon")
    assert code == 2
    assert "COMFYTUNNEL_SOCKET" in err


async def test_a_broken_database_is_moved_aside_and_said_loudly(world: World) -> None:
    state = world.base / "state"
    state.mkdir(mode=0o700)
    (state / "jobs.db").write_bytes(b"not a database at all" * 100)
    await world.start()
    status = await world.ask(world.client.status)
    assert status.cause is not None
    assert status.cause.code == "state_broken"
    moved = list(state.glob("jobs.db.broken-*"))
    assert [path.read_bytes()[:9] for path in moved] == [b"not a dat"]


async def test_a_state_folder_that_cannot_be_made_is_named(world: World) -> None:
    process = await world.spawn("daemon", COMFYTUNNEL_STATE_DIR="/proc/comfytunnel")
    _, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 1
    assert "/proc/comfytunnel" in err.decode()
    assert "Traceback" not in err.decode()


async def test_a_state_folder_that_is_a_file_is_named(world: World) -> None:
    (world.base / "state").write_text("")
    code, _, err = await world.run("daemon")
    assert code != 0
    assert str(world.base / "state") in err
    assert "Traceback" not in err


async def test_the_demo_runs_to_its_end_and_leaves_only_the_picture(world: World, tmp_path: Path) -> None:
    process = await world.spawn("demo", TMPDIR=str(tmp_path))
    out, err = await asyncio.wait_for(process.communicate(), 28)
    assert process.returncode == 0, err.decode()
    text = out.decode()
    assert "up again after" in text
    (left,) = list(tmp_path.iterdir())
    assert str(left) in text
    assert left.read_bytes().startswith(b"\x89PNG")


async def test_wait_finds_a_daemon_that_is_only_just_starting(world: World) -> None:
    """`comfytunnel daemon & comfytunnel wait` is what people type."""
    waiting = asyncio.create_task(world.run("wait", "--timeout", "15"))
    await world.start(serving=False)
    code, out, err = await waiting
    assert code == 0, err
    assert "serving" in out + err


async def test_wait_without_a_daemon_says_so(world: World) -> None:
    code, _, err = await world.run("wait", "--timeout", "0.2")
    assert code == 3
    assert "comfytunnel daemon" in err


async def test_a_process_that_stood_still_asks_its_link_and_replaces_a_dead_one(world: World) -> None:
    """As after a sleep that no clock shows: the tick comes late, and silence through the old link is not waited for."""
    world.write_config(keepalive_interval=300)
    await world.start()
    assert world.process is not None
    links = (await world.ask(lambda: world.client.tunnel("default"))).counters.links
    os.kill(world.process.pid, signal.SIGSTOP)
    world.remote.freeze()
    await asyncio.sleep(11)  # what is tested is that time passes: a tick of 5 s that is at least 5 s late
    os.kill(world.process.pid, signal.SIGCONT)
    tunnel = await world.until(
        lambda: world.client.tunnel("default"),
        lambda found: found.phase == "up" and found.counters.links > links,
    )
    assert tunnel.cause is None
    assert "a late tick" in world.log.read_text()
    assert (await world.fetch())[0] == 200


async def test_before_an_announced_sleep_the_link_is_closed_and_comes_back_after_it(world: World) -> None:
    """ComfyUI must keep no hung client; the job that runs meanwhile is none the worse."""
    async with bus_at(world.base / "bus") as address, FakeLogind(address) as logind:
        await world.start(DBUS_SYSTEM_BUS_ADDRESS=address)
        job = await world.submit(workflow(8, seconds=4.0))
        async with asyncio.timeout(DEADLINE):
            await world.comfyui.until(lambda: job.id in world.comfyui.executions)
            await logind.asked.get()
            await logind.prepare_for_sleep(True)
        await world.until(lambda: logind.held[0], lambda held: not held)
        await world.until(lambda: world.remote.connections, lambda left: left == 0)  # its RST is on its way
        await logind.prepare_for_sleep(False)
        await world.ask(lambda: world.client.wait(timeout=DEADLINE))
        assert (await world.end_of(job)).status == "succeeded"
        assert world.comfyui.executions == [job.id]


async def test_the_daemon_carries_no_library_that_only_commands_need(world: World) -> None:
    """It stays for months: typer and rich, and what they bring, are 13 MB."""
    await world.start(PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in world.log.read_text().splitlines() if "|" in line}
    assert {"comfytunnel.app", "asyncssh", "structlog"} <= imported
    assert not imported & {"typer", "rich.console", "PIL.Image"}


async def test_the_daemon_says_how_it_is_started_and_takes_nothing_that_it_does_not_know(
    world: World,
) -> None:
    code, out, _ = await world.run("daemon", "--help")
    assert code == 0
    assert {"--config", "--socket", "--state-dir"} <= set(out.replace(" FILE", " ").split())
    code, _, err = await world.run("daemon", "--confg", "x")
    assert code == 2
    assert "--confg" in err


async def test_a_reload_says_which_sections_changed_and_a_new_log_level_counts_at_once(world: World) -> None:
    await world.start()
    world.config.write_text(world.config.read_text() + '\n[log]\nlevel = "error"\n')
    answer = await world.ask(world.client.reload)
    assert (answer["changed"], answer["sections"]) == ([], ["log"])
    told = world.log.read_text()
    await world.ask(world.client.reload)
    assert world.log.read_text() == told, "what is only worth an info is not written any more"


async def test_reconnect_of_what_is_down_on_purpose_is_refused_with_the_way_out(world: World) -> None:
    await world.start()
    assert (await world.run("down"))[0] == 0
    code, _, err = await world.run("reconnect")
    assert code == 5
    assert "comfytunnel up default" in err
    assert (await world.ask(lambda: world.client.tunnel("default"))).phase == "down"


async def test_a_tunnel_that_is_built_anew_is_never_said_to_be_down(world: World) -> None:
    """Nobody asked for that."""
    await world.start()
    events = world.client.events()
    await world.ask(lambda: next(events))
    world.write_config(listen=f"localhost:{free_port()}")
    await world.ask(world.client.reload)
    phases = list[str]()
    while "connecting" not in phases or phases[-1] != "up":
        event = await world.ask(lambda: next(events))
        if isinstance(event, wire.TunnelEvent):
            phases.append(event.tunnel.phase)
    assert "down" not in phases
