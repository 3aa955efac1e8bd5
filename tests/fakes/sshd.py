"""A real OpenSSH server for one test: own keys, own config, own loopback port, gone at the end.

Nothing about SSH is imitated here: what the far side can do to us (cut, freeze, another host key, refused
key, refused forward) is done to the real processes, found as descendants of the listener that we started.
Works as root and as an ordinary user; the login is always the current user. Directives given as `extra`
stand first in the config, where sshd lets the first value win: `LogLevel DEBUG1`, `MaxStartups 1:100:1`,
`MaxSessions 0` (a session channel is refused, a forward is not).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

import asyncssh

START_DEADLINE = 5.0  # seconds; listening takes 15 ms, a loaded machine some hundred
STOP_DEADLINE = 2.0  # seconds; SIGSTOP takes microseconds
POLL = 0.005  # seconds between two looks at a process or a file, which have no event to wait for
PORT_TRIES = 5  # a free port can be taken by somebody else between our look and sshd's bind


def find_sshd() -> str | None:
    """The absolute path of the server's program (sshd insists on an absolute one), or None."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sshd:
    """`async with Sshd(tmp_path) as sshd:`; raises RuntimeError, with the log, if the server does not start.

    `authorized` holds public key lines; None means `.client_key` alone, [] refuses everybody.
    `permit_open` is sshd's PermitOpen ("none", "127.0.0.1:8188"); None allows every target.
    `before` stands before sshd's own command: "ip netns exec NAME" runs it in another network, where it has the address `host`.
    """

    def __init__(
        self,
        tmp: Path,
        *,
        authorized: list[str] | None = None,
        permit_open: str | None = None,
        extra: str = "",
        port: int = 0,
        host: str = "127.0.0.1",
        before: tuple[str, ...] = (),
    ) -> None:
        self.host = host
        self._before = before
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = port
        self._fixed_port = port != 0
        self._permit_open = permit_open
        self._extra = extra
        self._process: asyncio.subprocess.Process | None = None
        self._frozen: set[int] = set()
        self._folder = Path(tempfile.mkdtemp(prefix="sshd-", dir=tmp)).resolve()
        self._log = self._folder / "log"
        self._log.touch()
        self._pid_file = self._folder / "pid"
        self.client_key = self._folder / "client_key"
        client = asyncssh.generate_private_key("ssh-ed25519", comment="test client")
        _write_key(self.client_key, client)
        self.client_public = client.export_public_key().decode().strip()
        self._new_host_key()
        self.set_authorized([self.client_public] if authorized is None else authorized)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- what it is --------------------------------------------------------------------------------

    @property
    def host_key_fingerprint(self) -> str:
        """`SHA256:...` of the host key that new connections see."""
        return self._host_key.get_fingerprint()

    @property
    def known_hosts_line(self) -> str:
        """The line that makes a client trust this server, without a newline."""
        return self.known_hosts_line_at(self.port)

    def known_hosts_line_at(self, port: int) -> str:
        """The same for a client that comes through a relay on `port` of this host."""
        kind, blob = self._host_key.export_public_key().decode().split()[:2]
        return f"[{self.host}]:{port} {kind} {blob}"

    def log(self) -> str:
        """All that the server has logged so far, at VERBOSE unless `extra` says otherwise."""
        return self._log.read_text(errors="replace")

    @property
    def accepted(self) -> int:
        """How many logins have succeeded since the beginning."""
        return self.log().count("Accepted publickey for ")

    @property
    def sessions(self) -> list[int]:
        """Process ids of the connections' first processes, logged in or not yet; one per connection."""
        listener = self._pid()
        return [process.pid for process in _processes() if process.parent == listener]

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts listening; after stop() on the same port, with the same keys."""
        if self._process is not None:
            raise RuntimeError("this sshd is already running")
        program = find_sshd()
        if program is None:
            _give_up("no sshd here: install openssh-server")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation's empty folder
        for remaining in reversed(range(PORT_TRIES)):
            self.port = self.port or free_port()
            self._write_config()
            self._pid_file.unlink(missing_ok=True)
            self._process = await asyncio.create_subprocess_exec(
                *self._before,
                program,
                "-f",
                str(self._config),
                "-E",
                str(self._log),
                "-D",
                stdin=asyncio.subprocess.DEVNULL,
            )
            try:
                await self._until(self._serves, "listen")
            except RuntimeError:
                await self.stop()
                if self._fixed_port or not remaining or "Address already in use" not in self.log():
                    raise
                self.port = 0
            else:
                self._fixed_port = True  # whoever has been told the port finds us there again
                return

    async def stop(self) -> None:
        """Kills the connections and the listener: from now on, connection refused."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            os.kill(process.pid, signal.SIGSTOP)  # no new children while the old ones are killed
            _kill_below(process.pid)
            process.kill()
        await process.wait()

    async def wait_sessions(self, count: int, *, deadline: float = START_DEADLINE) -> None:
        """Returns when exactly `count` connections are open; RuntimeError after `deadline` seconds."""
        await self._until(lambda: len(self.sessions) == count, f"have {count} connections", deadline)

    # -- what it does to its clients ---------------------------------------------------------------

    async def cut(self) -> int:
        """Kills the processes of all connections (the kernel closes the sockets); returns how many."""
        victims = self.sessions
        _kill_below(self._pid())
        self._frozen.clear()
        await self._until(lambda: not set(victims) & set(self.sessions), "lose its connections")
        return len(victims)

    def freeze(self) -> None:
        """Stops all present connections (SIGSTOP): sockets stay open, nothing moves. New ones are served."""
        self._frozen |= _stop_below(self._pid())

    def thaw(self) -> None:
        """Lets the frozen connections go on (SIGCONT)."""
        for pid in self._frozen & set(_descendants(self._pid())):
            _signal(pid, signal.SIGCONT)
        self._frozen.clear()

    async def change_host_key(self) -> str:
        """Gives the server another host key and returns its fingerprint; open connections stay."""
        self._new_host_key()
        await self._reload()
        return self.host_key_fingerprint

    def set_authorized(self, lines: list[str]) -> None:
        """Replaces the authorized keys; sshd reads them anew at each login."""
        keys = self._folder / "authorized_keys"
        keys.write_text("".join(f"{line}\n" for line in lines))
        keys.chmod(0o600)

    async def set_permit_open(self, permit_open: str | None) -> None:
        """Replaces PermitOpen for new connections; open ones keep what they were given."""
        self._permit_open = permit_open
        self._write_config()
        await self._reload()

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _config(self) -> Path:
        return self._folder / "config"

    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("this sshd is not running")
        return self._process.pid

    def _new_host_key(self) -> None:
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        _write_key(self._folder / "host_key", self._host_key)

    def _write_config(self) -> None:
        lines = [
            self._extra,
            f"ListenAddress {self.host}",
            f"Port {self.port}",
            f'HostKey "{self._folder}/host_key"',
            f'AuthorizedKeysFile "{self._folder}/authorized_keys"',
            f'PidFile "{self._pid_file}"',
            "LogLevel VERBOSE",
            "PermitRootLogin prohibit-password",
            "PubkeyAuthentication yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            *([f"PermitOpen {self._permit_open}"] if self._permit_open else []),
            *(["PerSourcePenalties no"] if _punishes_addresses() else []),
        ]
        self._config.write_text("\n".join(lines) + "\n")

    async def _reload(self) -> None:
        # The pid file is written last, once sockets listen and signal handlers stand; the log line comes too
        # early, and a second HUP before the handlers would kill the server.
        self._pid_file.unlink(missing_ok=True)
        os.kill(self._pid(), signal.SIGHUP)
        await self._until(self._serves, "listen again")

    def _serves(self) -> bool:
        try:
            return self._pid_file.read_text().strip() == str(self._pid())
        except FileNotFoundError:
            return False

    async def _until(self, holds: Callable[[], bool], what: str, deadline: float = START_DEADLINE) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        while not holds():
            dead = self._process is None or self._process.returncode is not None
            if dead or loop.time() > end:
                why = "it has ended" if dead else f"{deadline} s have passed"
                raise RuntimeError(f"sshd does not {what}: {why}; its log:\n{self.log()}")
            await asyncio.sleep(POLL)


def _give_up(reason: str) -> NoReturn:
    import pytest  # here, because the benchmarks use this file without pytest

    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _write_key(path: Path, key: asyncssh.SSHKey) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())


@functools.cache
def _punishes_addresses() -> bool:
    """OpenSSH 9.8 and later shuns an address for a while after failures; our clients share one."""
    program = find_sshd() or "sshd"
    told = subprocess.run(
        [program, "-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"], capture_output=True
    )
    return b"PerSourcePenalties" not in told.stderr


class _Process(NamedTuple):
    pid: int
    state: str  # T: stopped
    parent: int


def _processes() -> list[_Process]:
    """All living processes: from /proc, or from ps where there is none (macOS)."""
    if not Path("/proc/self/stat").exists():
        told = subprocess.run(
            ["ps", "-A", "-o", "pid=,state=,ppid="], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in told.stdout.splitlines()]
    else:
        rows = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended since the listing
                    # the program's name stands in brackets and may hold anything, brackets too
                    rows.append([folder.name, *(folder / "stat").read_text().rpartition(")")[2].split()[:2]])
    return [_Process(int(pid), state[0], int(parent)) for pid, state, parent in rows if state[0] != "Z"]


def _descendants(root: int) -> dict[int, str]:
    """State of each process below `root`: with privilege separation a connection has two or three."""
    table = _processes()
    found: dict[int, str] = {}
    layer = {root}
    while layer:
        below = [process for process in table if process.parent in layer and process.pid not in found]
        found |= {process.pid: process.state for process in below}
        layer = {process.pid for process in below}
    return found


def _stop_below(root: int) -> set[int]:
    """Stops every process below `root` and returns once all have stopped: a fork in flight would slip through."""
    end = time.monotonic() + STOP_DEADLINE
    while True:
        found = _descendants(root)
        running = [pid for pid, state in found.items() if state != "T"]
        if not running:
            return set(found)
        if time.monotonic() > end:
            raise RuntimeError(f"processes {running} do not stop")
        for pid in running:
            _signal(pid, signal.SIGSTOP)


def _kill_below(root: int) -> None:
    for pid in _stop_below(root):  # stopped first, or a child born meanwhile would outlive its parent
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.kill(pid, number)
