"""Our own keys: which cannot be used and why, which were offered, and that a refused one is not offered too often."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.tunnel import ssh
from comfytunnel.tunnel.state import Code, Demand, Event, Phase, Route, RouteChanged, Woke
from tests.fakes.sshd import Sshd
from tests.tunnel.conftest import Near, becomes, config_for, hello, near, service


def write_key(path: Path, text: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(text)
    path.chmod(mode)
    return path


async def test_a_key_that_cannot_be_used_is_said_so_before_anything_is_sent(
    sshd: Sshd, tmp_path: Path
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    cases = {
        "No such file": tmp_path / "missing",
        "0644": write_key(tmp_path / "open", key.export_private_key(), 0o644),
        "is not a private key": write_key(tmp_path / "garbage", b"\x00garbage\n"),
        "no agent": encrypted_key(tmp_path / "encrypted", key),
        "Is a directory": tmp_path,
    }
    for said, path in cases.items():
        if path == tmp_path:
            path.chmod(0o700)
        async with near(config_for(sshd, tmp_path, 1, identity_files=(path,))) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert record.cause.code is Code.KEY_UNREADABLE, said
            assert said in record.cause.message
            assert str(path) in record.cause.message
            assert record.cause.hint
            assert record.until is not None
            assert record.until - record.since == pytest.approx(30)
    assert sshd.sessions == []
    assert "Connection from" not in sshd.log()


def encrypted_key(path: Path, key: asyncssh.SSHKey) -> Path:
    """As ssh-keygen writes it with a passphrase."""
    write_key(path, key.export_private_key())
    ssh_keygen("-q", "-p", "-a", "1", "-P", "", "-N", "secret", "-f", str(path))
    return path


def ssh_keygen(*words: str) -> str:
    return subprocess.run(["ssh-keygen", *words], check=True, capture_output=True, text=True).stdout


def answers(path: Path) -> bool:
    """Whether somebody listens there: a socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@asynccontextmanager
async def agent_with(*keys: asyncssh.SSHKey, folder: Path) -> AsyncIterator[Path]:
    """The socket of a real ssh-agent that holds the keys."""
    path = folder / "agent"
    agent = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(path), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await becomes(lambda: answers(path), "the agent listens")
        async with asyncssh.SSHAgentClient(str(path)) as client:
            await client.add_keys(list(keys))
        yield path
    finally:
        agent.terminate()
        await agent.wait()


@pytest.mark.parametrize("told_by", ["config", "environment", "ssh_config"])
async def test_an_encrypted_key_is_used_through_the_agent(
    told_by: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = encrypted_key(tmp_path / "encrypted", key)
    sshd.set_authorized([key.export_public_key().decode().strip()])
    async with agent_with(key, folder=short_path) as socket_path, service(hello) as port:
        settings = config_for(sshd, tmp_path, port, identity_files=(path,))
        if told_by == "config":
            settings = replace(settings, agent=str(socket_path))
        elif told_by == "environment":
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        else:
            (tmp_path / "config").write_text(f"Host *\n  IdentityAgent {socket_path}\n")
            settings = replace(settings, ssh_config=tmp_path / "config")
        async with near(settings) as tunnel:
            await tunnel.up()
            assert (await tunnel.call()).endswith(b"hello")


async def test_a_file_that_ssh_config_names_and_that_is_not_there_is_passed_over(
    sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        f"Host *\n  IdentityFile {tmp_path}/gone\n  IdentityFile {sshd.client_key}\n"
    )
    settings = config_for(sshd, tmp_path, 1, identity_files=(), ssh_config=tmp_path / "config")
    async with near(settings) as tunnel:
        await tunnel.up()


async def test_the_agent_is_asked_although_the_only_file_that_ssh_config_names_is_not_there(
    sshd: Sshd, tmp_path: Path, short_path: Path
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    sshd.set_authorized([key.export_public_key().decode().strip()])
    (tmp_path / "config").write_text(f"Host *\n  IdentityFile {tmp_path}/gone\n")
    settings = config_for(sshd, tmp_path, 1, identity_files=(), ssh_config=tmp_path / "config")
    async with (
        agent_with(key, folder=short_path) as socket_path,
        near(replace(settings, agent=str(socket_path))) as tunnel,
    ):
        await tunnel.up()


@asynccontextmanager
async def slow_to_sign(agent: Path, folder: Path, seconds: float) -> AsyncIterator[None]:
    """In `folder`/asks the socket of an agent that asks its person before each signature (SSH_AGENTC_SIGN_REQUEST, 13)."""

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_it = await asyncio.open_unix_connection(agent)
        try:
            while True:
                asked = await reader.readexactly(int.from_bytes(head := await reader.readexactly(4), "big"))
                if asked[0] == 13:
                    await asyncio.sleep(seconds)  # the person
                to_it.write(head + asked)
                head = await theirs.readexactly(4)
                writer.write(head + await theirs.readexactly(int.from_bytes(head, "big")))
        except asyncio.IncompleteReadError:
            return
        finally:
            to_it.close()
            writer.close()

    async with await asyncio.start_unix_server(between, folder / "asks"):
        yield


async def test_a_person_whom_the_agent_asks_may_take_longer_than_a_host(
    sshd: Sshd, tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "LOGIN_SILENCE", 0.5)
    key = asyncssh.generate_private_key("ssh-ed25519")
    sshd.set_authorized([key.export_public_key().decode().strip()])
    settings = config_for(sshd, tmp_path, 1, identity_files=(), agent=str(short_path / "asks"))
    async with (
        agent_with(key, folder=short_path) as agent,
        slow_to_sign(agent, short_path, 1.5),
        near(settings) as tunnel,
    ):
        await tunnel.up()
        assert tunnel.record.link == 1


async def test_an_agent_that_is_gone_does_not_stop_a_plain_key(sshd: Sshd, tmp_path: Path) -> None:
    async with (
        service(hello) as port,
        near(config_for(sshd, tmp_path, port, agent=str(tmp_path / "gone"))) as tunnel,
    ):
        await tunnel.up()


# --- what was offered -----------------------------------------------------------------------------------------------


async def refused(tunnel: Near) -> str:
    """What is said of a refused key."""
    record = await tunnel.phase(Phase.WAITING)
    assert record.cause is not None
    assert record.cause.code is Code.AUTH_DENIED
    return record.cause.message


def fingerprints(text: str) -> list[str]:
    return re.findall(r"SHA256:[A-Za-z0-9+/]{43}", text)


def seen_by(sshd: Sshd) -> list[str]:
    """The fingerprints of the keys that sshd says it has refused, in its order."""
    lines = [line for line in sshd.log().splitlines() if "Failed publickey" in line]
    return [fingerprint for line in lines for fingerprint in fingerprints(line)]


async def test_a_refused_key_is_named_as_ssh_keygen_names_it_with_its_path(
    sshd: Sshd, tmp_path: Path
) -> None:
    sshd.set_authorized([])
    listed = ssh_keygen("-l", "-f", str(sshd.client_key)).split()
    async with near(config_for(sshd, tmp_path, 1)) as tunnel:
        assert f"{listed[1]} ({sshd.client_key})" in await refused(tunnel)


async def test_keys_of_the_agent_and_of_files_are_named_in_the_order_in_which_the_server_saw_them(
    sshd: Sshd, tmp_path: Path, short_path: Path
) -> None:
    sshd.set_authorized([])
    first = asyncssh.generate_private_key("ssh-ed25519", comment="laptop " + "x" * 300)
    second = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    async with (
        agent_with(first, second, folder=short_path) as agent,
        near(config_for(sshd, tmp_path, 1, agent=str(agent))) as tunnel,
    ):
        said = await refused(tunnel)
    assert fingerprints(said) == seen_by(sshd)
    assert len(fingerprints(said)) == 3
    assert re.search(r"SHA256:\S{43} \(agent, laptop x{53}\), ", said)
    assert f"({sshd.client_key})" in said


async def test_of_many_keys_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(9)]
    files = tuple(
        write_key(tmp_path / f"key{number}", key.export_private_key()) for number, key in enumerate(keys)
    )
    async with (
        Sshd(tmp_path, authorized=[], extra="MaxAuthTries 20") as sshd,
        near(config_for(sshd, tmp_path, 1, identity_files=files)) as tunnel,
    ):
        said = await refused(tunnel)
        assert fingerprints(said) == seen_by(sshd)[:6]
        assert "and 3 more" in said


@pytest.mark.parametrize("there", ["nothing", "an encrypted one", "an empty agent"])
async def test_no_key_to_offer_is_not_a_refused_one(
    there: str, sshd: Sshd, tmp_path: Path, short_path: Path
) -> None:
    if there == "an encrypted one":
        encrypted_key(tmp_path / "home/.ssh/id_ed25519", asyncssh.generate_private_key("ssh-ed25519"))
    async with agent_with(folder=short_path) as agent:
        settings = config_for(sshd, tmp_path, 1, identity_files=())
        if there == "an empty agent":
            settings = replace(settings, agent=str(agent))
        async with near(settings) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
    assert record.cause is not None
    assert record.cause.code is Code.KEY_UNREADABLE
    assert "none was found" in record.cause.message
    assert "`agent`" in record.cause.hint


async def test_an_agent_that_does_not_sign_is_not_blamed_on_the_host(
    sshd: Sshd, tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a person says no: this agent must ask before each use, and cannot."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("SSH_ASKPASS", "/nonexistent")
    key = asyncssh.generate_private_key("ssh-ed25519")
    sshd.set_authorized([key.export_public_key().decode().strip()])
    async with agent_with(folder=short_path) as agent:
        async with asyncssh.SSHAgentClient(str(agent)) as client:
            await client.add_keys([key], confirm=True)
        async with near(config_for(sshd, tmp_path, 1, identity_files=(), agent=str(agent))) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
    assert record.cause is not None
    assert record.cause.code is Code.KEY_UNREADABLE
    assert f"does not sign with {key.get_fingerprint()} (agent" in record.cause.message
    assert record.until is not None
    assert record.until - record.since == pytest.approx(30)


async def test_a_server_that_takes_no_keys_is_not_blamed_on_ours(tmp_path: Path) -> None:
    extra = "PubkeyAuthentication no\nPasswordAuthentication yes"
    async with Sshd(tmp_path, extra=extra) as sshd, near(config_for(sshd, tmp_path, 1)) as tunnel:
        assert "SHA256:" not in await refused(tunnel)


async def test_a_refused_key_is_not_offered_again_for_whatever_happens_to_the_machine(
    sshd: Sshd, tmp_path: Path
) -> None:
    """An agent that asks a person would nag: a wake, another network and waiting callers change nothing for 30 s."""
    sshd.set_authorized([])
    async with near(config_for(sshd, tmp_path, 1)) as tunnel:
        record = await tunnel.phase(Phase.WAITING)
        routes = [Route("192.0.2.1", True), Route(None, True), Route("192.0.2.2", True)]
        events: list[Event] = [Woke(5.0), *map(RouteChanged, routes), Demand(True), Woke(1.0), Demand(False)]
        for event in events:
            tunnel.tell(event)
        await tunnel.driver.taken()
        assert (tunnel.record.phase, tunnel.record.link) == (Phase.WAITING, 1)
        assert tunnel.record.until == record.until
        assert record.until is not None
        assert record.until - record.since == pytest.approx(30)
    assert len(seen_by(sshd)) == 1


async def test_the_hint_of_a_refused_key_names_the_public_half_for_the_console(
    sshd: Sshd, tmp_path: Path
) -> None:
    """Newcomers enter the private key, or the fingerprint, or nothing."""
    sshd.set_authorized([])
    public = sshd.client_key.with_name(f"{sshd.client_key.name}.pub")
    for there, told in ((True, f"({public})"), (False, f"(`ssh-keygen -y -f {sshd.client_key}` prints it)")):
        if not there:
            public.unlink(missing_ok=True)
        else:
            public.touch()
        async with near(config_for(sshd, tmp_path, 1)) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert f"enter the public key {told} at the provider's console" in record.cause.hint


async def test_the_public_half_of_an_agents_key_is_shown_by_the_agent(
    sshd: Sshd, tmp_path: Path, short_path: Path
) -> None:
    sshd.set_authorized([])
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with agent_with(key, folder=short_path) as agent:
        settings = config_for(sshd, tmp_path, 1, identity_files=(), agent=str(agent))
        async with near(settings) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
    assert record.cause is not None
    assert "enter the public key (`ssh-add -L` shows it) at the provider's console" in record.cause.hint
