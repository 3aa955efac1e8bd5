"""Trusting what a real server shows: only the key that was named, only at the word of the one who saw it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from comfytunnel.errors import Error, RefusedError, StateError
from comfytunnel.tunnel.state import Phase, Reconnect, TrustChanged
from comfytunnel.tunnel.trust import trust
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.conftest import Far, config_for, hello, near, service
from tests.tunnel.test_hostkeys import KEY, line

NOBODY = f"SHA256:{'x' * 43}"


async def test_a_changed_key_is_trusted_by_its_fingerprint_and_the_tunnel_goes_on(
    far: Far, tmp_path: Path
) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        old, known = far.host_key(), tunnel.config.known_hosts
        known.write_text(known.read_text() + line("other.example", KEY))
        await far.change_host_key()
        tunnel.tell(Reconnect())
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert "`comfytunnel trust t`" in record.cause.hint

        before = known.read_text()
        seen = await trust(tunnel.config, None)
        assert (seen.status, seen.replaced, seen.backup) == ("changed", False, None)
        assert [key.fingerprint for key in seen.known] == [old]
        assert seen.offered.fingerprint == far.host_key()
        assert seen.host == f"[127.0.0.1]:{far.port}"
        assert known.read_text() == before, "a look changes nothing"

        done = await trust(tunnel.config, seen.offered.fingerprint)
        assert (done.status, done.replaced, done.known) == ("trusted", True, seen.known)
        assert known.read_text() == line("other.example", KEY) + far.known_hosts_line() + "\n"
        assert done.backup is not None
        assert Path(done.backup).read_text() == before
        tunnel.tell(TrustChanged())
        await tunnel.up()

        again = await trust(tunnel.config, seen.offered.fingerprint)
        assert (again.status, again.replaced) == ("trusted", False)


async def test_a_key_that_was_not_named_is_not_trusted(sshd: Sshd, tmp_path: Path) -> None:
    """Between the look of the person and the word of the person somebody may have come in between."""
    config = config_for(sshd, tmp_path, 1, host_key="ask")
    seen = await trust(config, None)
    assert seen.status == "unknown"
    await sshd.change_host_key()
    with pytest.raises(RefusedError) as refused:
        await trust(config, seen.offered.fingerprint)
    assert refused.value.code_on_wire == "host_key_mismatch"
    assert refused.value.details["named"] == seen.offered.fingerprint
    assert refused.value.details["offered"].fingerprint == sshd.host_key_fingerprint
    assert not config.known_hosts.exists()


async def test_a_known_key_is_no_reason_to_agree_to_another_name(sshd: Sshd, tmp_path: Path) -> None:
    config = config_for(sshd, tmp_path, 1)
    config.known_hosts.write_text(sshd.known_hosts_line + "\n")
    with pytest.raises(RefusedError, match="not the key that was named"):
        await trust(config, NOBODY)


@pytest.mark.parametrize("policy", ["ask", "strict"])
async def test_an_unknown_host_is_trusted_by_its_fingerprint(policy: str, far: Far, tmp_path: Path) -> None:
    async with (
        service(hello) as port,
        near(config_for(far, tmp_path, port, host_key=policy)) as tunnel,
    ):
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert "`comfytunnel trust t`" in record.cause.hint
        done = await trust(tunnel.config, far.host_key())
        assert (done.replaced, done.known, done.backup) == (True, [], None)
        tunnel.tell(TrustChanged())
        await tunnel.up()
    assert tunnel.config.known_hosts.read_text() == far.known_hosts_line() + "\n"


async def test_a_revoked_key_is_refused_by_any_name(sshd: Sshd, tmp_path: Path) -> None:
    config = config_for(sshd, tmp_path, 1)
    text = f"{line(f'[127.0.0.1]:{sshd.port}', KEY)}@revoked * {sshd.known_hosts_line.partition(' ')[2]}\n"
    config.known_hosts.write_text(text)
    assert (await trust(config, None)).status == "revoked"
    with pytest.raises(RefusedError, match="revoked") as refused:
        await trust(config, sshd.host_key_fingerprint)
    assert refused.value.code_on_wire == "host_key_revoked"
    assert config.known_hosts.read_text() == text


async def test_a_pattern_in_the_way_is_said_and_left(sshd: Sshd, tmp_path: Path) -> None:
    config = config_for(sshd, tmp_path, 1, host_key="strict")
    config.known_hosts.write_text(line("[127.0.0.*]:*", KEY))
    assert (await trust(config, None)).status == "changed"
    done = await trust(config, sshd.host_key_fingerprint)
    (note,) = done.notes
    assert "[127.0.0.*]:*" in note
    assert config.known_hosts.read_text() == line("[127.0.0.*]:*", KEY) + sshd.known_hosts_line + "\n"
    async with (
        service(hello) as port,
        near(replace(config, remote=config_for(sshd, tmp_path, port).remote)) as it,
    ):
        await it.up()


async def test_a_host_that_cannot_be_reached_is_said_with_its_cause(tmp_path: Path, sshd: Sshd) -> None:
    with pytest.raises(Error, match="cannot be seen") as unreachable:
        await trust(config_for(sshd, tmp_path, 1, port=free_port()), NOBODY)
    assert unreachable.value.code_on_wire == "host_unreachable"
    assert unreachable.value.details == {"cause": "connect_refused"}
    assert unreachable.value.hint


async def test_a_known_hosts_that_cannot_be_written_is_said_and_trusts_nobody(
    sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    config = config_for(sshd, tmp_path, 1, known_hosts=tmp_path / "file" / "known_hosts")
    with pytest.raises((StateError, Error)) as failed:
        await trust(config, sshd.host_key_fingerprint)
    assert re.search(r"cannot be (read|changed)", str(failed.value))
