"""What is read before anything is sent may hang, and what nobody named is not trusted; host certificates, too."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.tunnel import ssh, target
from comfytunnel.tunnel.state import Code, Phase, Reconnect
from tests.fakes.sshd import Sshd
from tests.tunnel.conftest import Near, config_for, hello, near, service
from tests.tunnel.test_keys import agent_with


async def hangs(tunnel: Near, link: int) -> None:
    await tunnel.until(lambda view: view.tunnel.link == link and view.tunnel.phase is Phase.WAITING)
    assert tunnel.record.cause is not None
    assert tunnel.record.cause.code is Code.KEY_UNREADABLE
    assert "could not be read in" in tunnel.record.cause.message
    assert [thread.name for thread in threading.enumerate()].count("survey") == 1


async def test_a_disk_that_does_not_answer_is_a_cause_and_costs_one_thread(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "READ_DEADLINE", 0.2)
    pipe = tmp_path / "key"
    os.mkfifo(pipe, 0o600)
    async with near(config_for(sshd, tmp_path, 1, identity_files=(pipe,))) as tunnel:
        await hangs(tunnel, link=1)
        tunnel.tell(Reconnect())
        await hangs(tunnel, link=2)
        answer = os.open(pipe, os.O_WRONLY)
        monkeypatch.setattr(target, "READ_DEADLINE", 10.0)
        tunnel.tell(Reconnect())
        await tunnel.until(
            lambda view: view.tunnel.link == 3
        )  # or the reading would end with nobody there to hear of it
        os.close(answer)
        view = await tunnel.until(
            lambda view: view.tunnel.cause is not None and "not a private key" in view.tunnel.cause.message
        )
        assert view.tunnel.phase is Phase.WAITING


async def test_authorities_that_known_hosts_does_not_name_are_not_even_read(
    sshd: Sshd, tmp_path: Path
) -> None:
    """asyncssh would trust a host whose X.509 certificate one of these has signed."""
    Path("~/.ssh/ca-bundle.crt").expanduser().write_text(
        "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"
    )
    async with service(hello) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        await tunnel.up()


def certify(sshd: Sshd, authority: asyncssh.SSHKey, folder: Path) -> str:
    """The directive that lets sshd show its host key in a certificate."""
    host_key = asyncssh.read_public_key(sshd._folder / "host_key")
    certificate = authority.generate_host_certificate(host_key, "host", principals=["127.0.0.1"])
    path = folder / "host-cert.pub"
    path.write_bytes(certificate.export_certificate())
    return f"HostCertificate {path}"


@pytest.mark.parametrize("named", [True, False])
async def test_a_certified_host_is_trusted_for_its_authority_alone(named: bool, tmp_path: Path) -> None:
    authority, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    sshd = Sshd(tmp_path)
    sshd._extra = certify(sshd, authority, tmp_path)
    async with sshd, service(hello) as port:
        settings = config_for(sshd, tmp_path, port, host_key="strict")
        public = (authority if named else other).export_public_key().decode()
        settings.known_hosts.write_text(f"@cert-authority * {public}")
        async with near(settings) as tunnel:
            record = await tunnel.phase(Phase.UP, Phase.HALTED)
            if named:
                assert record.phase is Phase.UP
            else:
                assert record.cause is not None
                assert record.cause.code is Code.HOST_KEY_UNKNOWN
                assert sshd.accepted == 0


@pytest.mark.parametrize("certified", [True, False])
async def test_an_agent_that_asks_a_person_gets_the_time_of_a_person(
    certified: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    """From the judged host key on, however it was shown."""
    monkeypatch.setattr(ssh, "HANDSHAKE_DEADLINE", 1.0)
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    asked = 0

    async def hesitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(1.5)  # what is tested is that this much time may pass
        answer, question = await asyncio.open_unix_connection(agent_path)
        try:
            while size := await reader.read(4):
                question.write(size + await reader.readexactly(int.from_bytes(size)))
                head = await answer.readexactly(4)
                writer.write(head + await answer.readexactly(int.from_bytes(head)))
        finally:
            question.close()

    sshd = Sshd(tmp_path, authorized=[key.export_public_key().decode().strip()])
    if certified:
        sshd._extra = certify(sshd, authority, tmp_path)
    async with (
        agent_with(key, folder=short_path) as agent_path,
        sshd,
        service(hello) as port,
        service(hesitate, short_path / "slow"),
    ):
        settings = config_for(
            sshd, tmp_path, port, identity_files=(), agent=str(short_path / "slow"), host_key="strict"
        )
        public = authority.export_public_key().decode()
        settings.known_hosts.write_text(
            f"@cert-authority * {public}" if certified else sshd.known_hosts_line + "\n"
        )
        async with near(settings) as tunnel:
            await tunnel.up()
            assert tunnel.record.link == 1
            assert asked
