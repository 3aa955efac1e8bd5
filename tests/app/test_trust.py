"""A changed host key and the person's answer, over the whole road: a daemon, its socket, its command."""

from __future__ import annotations

import json
from time import monotonic

import pytest

from comfytunnel.errors import NotFoundError, RefusedError
from tests.app.world import DEADLINE, World


async def halted(world: World) -> None:
    """The world with a daemon that a changed host key has stopped."""
    await world.start()
    world.remote.change_host_key()
    world.remote.cut()
    await world.until(lambda: world.client.tunnel("default"), lambda found: found.phase == "halted")


async def test_the_key_that_was_seen_is_trusted_and_the_tunnel_serves_at_once(world: World) -> None:
    await halted(world)
    known = world.base / "known_hosts"
    before = known.read_text()
    tunnel = await world.ask(lambda: world.client.tunnel("default"))
    assert tunnel.cause is not None
    assert "`comfytunnel trust default`" in tunnel.cause.hint
    seen = await world.ask(lambda: world.client.trust("default"))
    assert (seen.status, known.read_text()) == ("changed", before)
    with pytest.raises(RefusedError) as refused:
        await world.ask(lambda: world.client.trust("default", f"SHA256:{'x' * 43}"))
    assert refused.value.details["offered"]["fingerprint"] == seen.offered.fingerprint
    assert known.read_text() == before
    done = await world.ask(lambda: world.client.trust("default", seen.offered.fingerprint))
    assert (done.replaced, known.read_text()) == (True, world.remote.known_hosts_line + "\n")
    looked = monotonic()
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    assert monotonic() - looked < 4.0, "not when known_hosts is looked at for the next time"
    assert (await world.fetch())[0] == 200
    with pytest.raises(NotFoundError):
        await world.ask(lambda: world.client.trust("defalt"))


async def test_the_command_trusts_the_fingerprint_that_it_is_given_and_no_other(world: World) -> None:
    await halted(world)
    code, out, _ = await world.run("trust", "--json", "--fingerprint", f"SHA256:{'x' * 43}")
    assert (code, json.loads(out)["error"]["code"]) == (5, "host_key_mismatch")
    offered = json.loads(out)["error"]["details"]["offered"]["fingerprint"]
    code, out, err = await world.run("trust", "default", "--fingerprint", offered)
    assert (code, err) == (0, "")
    assert out.count("SHA256:") == 2
    assert "until now" in out
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    code, out, _ = await world.run("trust")
    assert (code, "Already trusted" in out) == (0, True)


async def test_an_instance_that_is_gone_is_no_reason_to_trust_anything(world: World) -> None:
    await halted(world)
    world.remote.refuse_connections = True
    await world.remote.unbind()
    code, _, err = await world.run("trust", "--yes")
    assert code == 1
    assert "refused" in err
