"""`install --system`: a service of the whole machine, for the members of its group."""

from __future__ import annotations

import grp
import stat
from pathlib import Path

from comfytunnel.client import Client
from tests.app.world import World, workflow
from tests.machine.conftest import as_user
from tests.system.conftest import run

NAME = "comfytunnel"


async def test_a_service_of_the_machine_serves_its_group_and_nobody_else(
    world: World, program: list[str]
) -> None:
    etc = Path("/etc") / NAME
    etc.mkdir()
    key = etc / "ssh-key"
    key.touch(mode=0o600)
    key.write_bytes(world.key.read_bytes())
    (etc / "config.toml").write_text(
        f'[tunnels.default]\nhost = "127.0.0.1"\nport = {world.remote.port}\nuser = "root"\nlisten = "localhost:{world.port}"\n'
        f'identity_file = "/run/credentials/{NAME}.service/ssh-key"\n'
    )
    assert (await run("useradd", "-m", "stranger")).code == 0

    plain = dict.fromkeys(("COMFYTUNNEL_CONFIG", "COMFYTUNNEL_SOCKET", "COMFYTUNNEL_STATE_DIR"), "")
    ran = await run(*program, "install", "--system", **plain)
    assert ran.code == 0, ran.err + (await run("journalctl", "-n", "40", "--no-pager", "-o", "cat")).out
    assert "usermod -aG comfytunnel" in ran.out
    socket = Path(f"/run/{NAME}/control.sock")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    assert grp.getgrgid(socket.stat().st_gid).gr_name == NAME
    assert (await run("useradd", "-m", "-G", NAME, "member")).code == 0

    client = Client(socket)
    world.client = client
    await world.answers()
    pid = (await world.ask(client.health)).pid
    assert Path(f"/proc/{pid}").stat().st_uid == Path(f"/var/lib/{NAME}").stat().st_uid != 0
    assert (await world.end_of(await world.submit(workflow()))).status == "succeeded"
    assert list(Path(f"/var/lib/{NAME}").rglob("*.png"))

    status = [*program, "status"]
    member = await as_user("member", *status, COMFYTUNNEL_SOCKET=str(socket))
    assert (member.code, "serving" in member.out) == (0, True), member.err
    stranger = await as_user("stranger", *status, COMFYTUNNEL_SOCKET=str(socket))
    assert stranger.code == 5
    fetch = (
        "import http.client, sys; c = http.client.HTTPConnection('localhost', int(sys.argv[1])); c.request('GET', '/system_stats');"
        "print(c.getresponse().status)"
    )
    through = [program[0], "-c", fetch, str(world.port)]
    assert (await as_user("member", *through)).out == "200\n"
    assert (await as_user("stranger", *through)).out == "403\n"
    assert "nobody" not in (await as_user("nobody", "cat", str(key))).out
    assert (
        await run("systemd-analyze", "security", "--threshold=18", "--no-pager", f"{NAME}.service")
    ).code == 0

    assert (await run(*program, "restart", "--system", **plain)).code == 0
    assert (
        "started version=" in (await run(*program, "logs", "--system", "--since", "1 min ago", **plain)).out
    )
    ran = await run(*program, "uninstall", "--system", **plain)
    assert ran.code == 0, ran.err
    assert not list(Path("/etc/systemd/system").rglob(f"{NAME}*"))
    assert not socket.exists()
    assert (etc / "config.toml").exists()
    assert Path(f"/var/lib/{NAME}/jobs.db").exists()


async def test_a_program_in_a_home_folder_is_refused(program: list[str]) -> None:
    """The service's user could not start it."""
    home = Path("/home/somebody")
    home.mkdir(mode=0o700)
    assert (await run(program[0], "-m", "venv", "--without-pip", str(home / "venv"))).code == 0
    (packages,) = (home / "venv").glob("lib/python*/site-packages")
    (ours,) = Path(program[0]).parents[1].glob("lib/python*/site-packages")
    (packages / "wheel.pth").write_text(f"{ours}\n")
    etc = Path("/etc/comfytunnel-other")
    etc.mkdir()
    (etc / "config.toml").write_text('[tunnels.a]\nhost = "h"\n')
    ran = await run(
        str(home / "venv" / "bin" / "python"),
        "-m",
        "comfytunnel",
        "install",
        "--system",
        COMFYTUNNEL_UNIT=etc.name,
    )
    assert (ran.code, "/opt/comfytunnel" in ran.err) == (5, True), ran.out + ran.err
