"""What the unit's settings deny and leave, seen from inside: the probe is started by the daemon itself, as a ProxyCommand."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path

import asyncssh

from tests.app.world import World, workflow
from tests.system.conftest import Unit, run

PROBE = Path(__file__).with_name("probe.py")

DENIED = {
    "a new file in the home folder": "EROFS",  # ProtectHome, ProtectSystem
    "a new file in /tmp": "EROFS",  # ProtectSystem
    "a new file beside the manager's sockets": "EROFS",
    "a set-user-id file": "EPERM",  # RestrictSUIDSGID
    "a user namespace": "EPERM",  # RestrictNamespaces
    "memory to write and execute": "EPERM",  # MemoryDenyWriteExecute
    "another personality": "EPERM",  # LockPersonality
    "a packet socket": "EAFNOSUPPORT",  # RestrictAddressFamilies
    "a socket to a hypervisor": "EAFNOSUPPORT",
    "a higher priority": "EPERM",  # SystemCallFilter ~@resources
    "to be another user": "EPERM",  # SystemCallFilter ~@privileged, NoNewPrivileges
    "to be looked into": "EPERM",  # SystemCallFilter without @debug
    "real time": "EPERM",  # RestrictRealtime; an ordinary user has none without it, either
}
FACTS = {
    "no new privileges": True,  # NoNewPrivileges
    "users known": 1,  # PrivateUsers
    "capabilities left": 0,  # CapabilityBoundingSet
    "umask": 0o077,  # UMask
    "own control group writable": False,  # ProtectControlGroups
    "tunables writable": False,  # ProtectKernelTunables
    "largest core": 0,  # LimitCORE
    "foreign devices": [],  # PrivateDevices
}
NEEDED = (
    "known_hosts written",
    "an internet socket",
    "a Unix socket",
    "news of the network",
    "the system bus",
    "memory maps",
    "the agent's socket",
    "a program of the person's",
)


async def test_what_is_denied_and_what_we_need(unit: Unit, world: World) -> None:
    """One tunnel goes through the probe, which becomes a pipe to the SSH server; its key is in an agent in /tmp."""
    agent, key = world.base / "agent", world.base / "agent-key"
    process = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(agent), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await world.until(agent.is_socket, bool)
        private = asyncssh.generate_private_key("ssh-ed25519")
        key.touch(mode=0o600)
        key.write_bytes(private.export_private_key())
        assert (await run("ssh-add", "-q", str(key), SSH_AUTH_SOCK=str(agent))).code == 0
        key.unlink()
        world.remote.authorized[:] = [private.convert_to_public()]
        result = world.base / "state" / "probe.json"
        command = [sys.executable, str(PROBE), str(result), str(agent), "127.0.0.1", str(world.remote.port)]
        text = world.config_text(agent=str(agent), proxy_command=shlex.join(command))
        world.config.write_text(
            "\n".join(line for line in text.splitlines() if not line.startswith("identity_file"))
        )
        await unit.install()
        await world.answers()
        job = await world.end_of(await world.submit(workflow()))
        found = json.loads(result.read_text())
    finally:
        process.terminate()
        await process.wait()
    assert job.status == "succeeded"
    assert list((world.base / "pictures").rglob("*.png"))
    assert (world.base / "known_hosts").read_text()
    print(json.dumps(found, indent=2))
    assert {name: found["tried"].get(name) for name in DENIED} == DENIED
    assert {name: found["facts"].get(name) for name in FACTS} == FACTS
    assert {name: found["tried"].get(name) for name in NEEDED} == dict.fromkeys(NEEDED, "done")
