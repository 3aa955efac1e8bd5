"""Host keys: recorded on first use, compared ever after, "changed" never taken for "unknown"."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.tunnel.hostkeys import HostKeys, fingerprint, name_of
from comfytunnel.tunnel.state import Code, Phase, Reconnect, TrustChanged
from tests.fakes.sshd import Sshd
from tests.tunnel.conftest import Far, config_for, hello, near, service

KEY = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()
OTHER = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()
ECDSA = asyncssh.generate_private_key("ecdsa-sha2-nistp256").convert_to_public()
RSA = asyncssh.generate_private_key("ssh-rsa", key_size=2048).convert_to_public()
NAME = "[relay.example]:2222"


def line(name: str, key: asyncssh.SSHKey, marker: str = "") -> str:
    kind, blob = key.export_public_key().decode().split()[:2]
    return f"{marker}{name} {kind} {blob}\n"


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_host_has_the_name_that_openssh_gives_it() -> None:
    assert name_of("Relay.Example", 22) == "relay.example"
    assert name_of("relay.example", 2222) == NAME
    assert name_of("::1", 2222) == "[::1]:2222"
    assert name_of("relay.example", 2222, "Box") == "box"


def test_the_first_key_is_recorded_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    old = os.umask(0o022)
    try:
        assert HostKeys(path, "accept-new", "t").judge(NAME, KEY) is None
    finally:
        os.umask(old)
    assert path.read_text() == line(NAME, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    found = subprocess.run(
        ["ssh-keygen", "-l", "-F", NAME, "-f", str(path)], capture_output=True, text=True, check=True
    )
    assert fingerprint(KEY) in found.stdout, "ssh-keygen finds it too"


def test_recording_touches_nothing_else_and_mends_an_open_last_line(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    before = "# mine\n\nnonsense that nobody can read\n" + line("other.example", OTHER).rstrip("\n")
    path.write_text(before)
    path.chmod(0o644)
    assert HostKeys(path, "accept-new", "t").judge(NAME, KEY) is None
    assert path.read_text() == before + "\n" + line(NAME, KEY)
    assert path.stat().st_mode & 0o777 == 0o644, "what we did not make we do not change"


def test_a_known_key_is_accepted_and_not_recorded_twice(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    for policy in ("accept-new", "ask", "strict"):
        path.write_text(line(NAME, KEY))
        assert HostKeys(path, policy, "t").judge(NAME, KEY) is None
        assert path.read_text() == line(NAME, KEY)


def test_another_key_halts_and_shows_both(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line(NAME, KEY))
    for policy in ("accept-new", "ask", "strict"):
        for offered in (OTHER, ECDSA):
            cause = HostKeys(path, policy, "t").judge(NAME, offered)
            assert cause is not None
            assert cause.code is Code.HOST_KEY_CHANGED
            assert fingerprint(KEY) in cause.message
            assert fingerprint(offered) in cause.message
            assert "`comfytunnel trust t`" in cause.hint
    assert path.read_text() == line(NAME, KEY)


@pytest.mark.parametrize("policy", ["ask", "strict"])
def test_a_new_key_is_not_recorded_unless_the_config_lets_us(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    cause = HostKeys(path, policy, "t").judge(NAME, KEY)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_UNKNOWN
    assert fingerprint(KEY) in cause.message
    assert not path.exists()


def test_a_revoked_key_is_refused_even_if_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line(NAME, KEY) + line("*", KEY, "@revoked "))
    cause = HostKeys(path, "accept-new", "t").judge(NAME, KEY)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_CHANGED
    assert "revoked" in cause.message


def test_hashed_lines_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line(NAME, KEY) + line("plain.example", OTHER))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert NAME not in path.read_text()
    judge = HostKeys(path, "strict", "t").judge
    assert judge(NAME, KEY) is None
    assert judge("plain.example", OTHER) is None
    changed, unknown = judge(NAME, OTHER), judge("third.example", OTHER)
    assert changed is not None
    assert changed.code is Code.HOST_KEY_CHANGED
    assert unknown is not None
    assert unknown.code is Code.HOST_KEY_UNKNOWN


def test_a_line_for_the_host_without_port_counts_only_if_the_key_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("relay.example", KEY))
    assert HostKeys(path, "strict", "t").judge(NAME, KEY) is None
    unknown = HostKeys(path, "strict", "t").judge(NAME, OTHER)
    assert unknown is not None
    assert unknown.code is Code.HOST_KEY_UNKNOWN
    assert HostKeys(path, "accept-new", "t").judge(NAME, OTHER) is None


def test_a_line_for_the_host_without_port_counts_only_while_there_is_none_with_it(tmp_path: Path) -> None:
    """The relay's own key, on the port of an instance whose key we know, is somebody in between."""
    path = tmp_path / "known_hosts"
    path.write_text(line(NAME, KEY) + line("relay.example", OTHER))
    before = path.read_text()
    for policy in ("accept-new", "ask", "strict"):
        cause = HostKeys(path, policy, "t").judge(NAME, OTHER)
        assert cause is not None
        assert cause.code is Code.HOST_KEY_CHANGED
        assert HostKeys(path, policy, "t").judge(NAME, KEY) is None
    assert path.read_text() == before


@pytest.mark.parametrize(
    "names", ["[RELAY.Example]:2222", "other.example,[Relay.EXAMPLE]:2222", "[*.EXAMPLE]:2222"]
)
def test_names_in_the_file_have_no_case(names: str, tmp_path: Path) -> None:
    """ssh and ssh-keygen find such a line too; passed over, another key would be recorded beside it."""
    path = tmp_path / "known_hosts"
    path.write_text(line(names, KEY))
    judge = HostKeys(path, "accept-new", "t").judge
    assert judge(NAME, KEY) is None
    cause = judge(NAME, OTHER)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_CHANGED
    path.write_text(line(names, KEY) + line(names, KEY, "@revoked "))
    revoked = judge(NAME, KEY)
    assert revoked is not None
    assert "revoked" in revoked.message


def test_another_port_of_the_same_host_is_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("[relay.example]:3333", KEY) + line(NAME, OTHER))
    cause = HostKeys(path, "accept-new", "t").judge(NAME, KEY)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_CHANGED


def test_the_algorithms_of_known_keys_are_told_in_order(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line(NAME, ECDSA) + line(NAME, RSA))
    algorithms = HostKeys(path, "strict", "t").known(NAME).algorithms
    assert algorithms[0] == "ecdsa-sha2-nistp256"
    assert "rsa-sha2-256" in algorithms


def test_a_file_that_cannot_be_read_or_written_is_a_cause_and_no_trust(tmp_path: Path) -> None:
    folder = tmp_path / "known_hosts"
    folder.mkdir()
    cause = HostKeys(folder, "accept-new", "t").judge(NAME, KEY)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_UNKNOWN
    (tmp_path / "file").write_text("")
    cause = HostKeys(tmp_path / "file" / "known_hosts", "accept-new", "t").judge(NAME, KEY)
    assert cause is not None
    assert cause.code is Code.HOST_KEY_UNKNOWN


# --- against servers ------------------------------------------------------------------------------------------------


def forget(name: str, path: Path) -> None:
    """What the message tells the user to do."""
    subprocess.run(["ssh-keygen", "-q", "-R", name, "-f", str(path)], check=True, capture_output=True)


async def test_the_first_connection_records_and_the_next_ones_compare(far: Far, tmp_path: Path) -> None:
    settings = config_for(far, tmp_path, 1)
    async with service(hello) as port:
        async with near(config_for(far, tmp_path, port)) as tunnel:
            await tunnel.up()
            assert settings.known_hosts.read_text() == far.known_hosts_line() + "\n"
        async with near(config_for(far, tmp_path, port, host_key="strict")) as tunnel:
            await tunnel.up()
    assert settings.known_hosts.read_text() == far.known_hosts_line() + "\n"


async def test_a_changed_host_key_halts_until_the_user_trusts_it(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        old = far.host_key()
        await far.change_host_key()
        tunnel.tell(Reconnect())
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert record.cause.code is Code.HOST_KEY_CHANGED
        assert old in record.cause.message
        assert far.host_key() in record.cause.message
        assert far.logins == 1, "no key of ours is shown to it"
        answer = await tunnel.call()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"host_key_changed"' in answer
        known = tunnel.config.known_hosts
        forget(f"[127.0.0.1]:{far.port}", known)
        tunnel.tell(TrustChanged())
        await tunnel.up()
        assert far.known_hosts_line() in known.read_text()


async def test_a_revoked_host_key_halts_and_is_not_called_unknown(far: Far, tmp_path: Path) -> None:
    settings = config_for(far, tmp_path, 1)
    known = far.known_hosts_line()
    settings.known_hosts.write_text(f"{known}\n@revoked * {known.partition(' ')[2]}\n")
    async with near(settings) as tunnel:
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert record.cause.code is Code.HOST_KEY_CHANGED
        assert "revoked" in record.cause.message
        assert far.logins == 0


async def test_an_unknown_host_halts_where_recording_is_not_allowed(far: Far, tmp_path: Path) -> None:
    async with near(config_for(far, tmp_path, 1, host_key="ask")) as tunnel:
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert record.cause.code is Code.HOST_KEY_UNKNOWN
        assert far.host_key() in record.cause.message
        assert far.logins == 0


@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "ed25519"])
async def test_of_several_host_keys_the_server_is_asked_for_the_known_one(kind: str, tmp_path: Path) -> None:
    """A server with several keys would show the one that we list first, and look changed."""
    paths = {}
    for name, algorithm in (("ecdsa", "ecdsa-sha2-nistp256"), ("rsa", "ssh-rsa"), ("ed25519", "ssh-ed25519")):
        paths[name] = tmp_path / f"host_{name}"
        paths[name].touch(mode=0o600)
        key = asyncssh.generate_private_key(algorithm)
        paths[name].write_bytes(key.export_private_key())
        paths[name].with_suffix(".pub").write_bytes(key.export_public_key())
    extra = "\n".join(f"HostKey {path}" for path in paths.values())
    async with Sshd(tmp_path, extra=extra) as sshd, service(hello) as port:
        known = asyncssh.read_public_key(paths[kind].with_suffix(".pub"))
        settings = config_for(sshd, tmp_path, port, host_key="strict")
        settings.known_hosts.write_text(line(f"[127.0.0.1]:{sshd.port}", known))
        async with near(settings) as tunnel:
            link = await tunnel.up()
            assert link.facts.host_key == known.get_fingerprint()


async def test_every_kind_of_line_may_stand_in_the_file(sshd: Sshd, tmp_path: Path) -> None:
    """Keys of kinds that nobody negotiates any more must not spoil the list of algorithms that we ask for."""
    security_key = (
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIEX/dQ0v4127bEo8eeG1EV0ApO2lW"
        "bSnN6RWusn/NWqIAAAABHNzaDo="
    )
    name = f"[127.0.0.1]:{sshd.port}"
    settings = config_for(sshd, tmp_path, 1, host_key="strict")
    settings.known_hosts.write_text(
        f"{name} {security_key}\n{line(name, RSA)}{line(name, KEY, '@cert-authority ')}{sshd.known_hosts_line}\n"
        f"{line('*.example,!bad.example', OTHER)}|1|broken ssh-ed25519 x\n"
    )
    async with service(hello) as port, near(config_for(sshd, tmp_path, port, host_key="strict")) as tunnel:
        await tunnel.up()


async def test_a_known_hosts_that_cannot_be_read_is_said_so(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").mkdir()
    async with near(config_for(sshd, tmp_path, 1)) as tunnel:
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert record.cause.code is Code.HOST_KEY_UNKNOWN
        assert "known_hosts" in record.cause.message
