"""Tries from inside the unit what should be denied and what we need, writes what came of it, then passes bytes between its
own streams and HOST PORT, as a ProxyCommand does: probe.py RESULT AGENT HOST PORT. Nothing is imported that the interpreter does not bring."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NEW_USER, NETWORK_NEWS = 0x10000000, 0x1 | 0x10  # CLONE_NEWUSER; RTMGRP_LINK | RTMGRP_IPV4_IFADDR
TRACE_ME = 0  # PTRACE_TRACEME
FIXED_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE: a personality that is not ours
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int) -> None:
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def tried(what: Callable[[], object]) -> str:
    try:
        what()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "done"


def new_file(folder: str) -> None:
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def set_user_id(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        Path(file.name).chmod(0o4755)


def writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def map_file(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096) as view:
            view[0] = 1


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


def network_news() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.bind((0, NETWORK_NEWS))


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(field))


def own_group() -> str:
    place = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
    return f"/sys/fs/cgroup{place}/cgroup.procs"


def look(result: Path, agent: str) -> dict[str, dict[str, object]]:
    home, runtime, state = str(Path.home()), os.environ["XDG_RUNTIME_DIR"], result.parent
    return {
        "tried": {
            "a new file in the home folder": tried(lambda: new_file(home)),
            "a new file in /tmp": tried(lambda: new_file("/tmp")),
            "a new file beside the manager's sockets": tried(lambda: new_file(runtime)),
            "a set-user-id file": tried(lambda: set_user_id(state)),
            "a user namespace": tried(lambda: call("unshare", NEW_USER)),
            "memory to write and execute": tried(writable_code),
            "another personality": tried(lambda: call("personality", FIXED_ADDRESSES)),
            "a packet socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
            "a socket to a hypervisor": tried(lambda: socket.socket(socket.AF_VSOCK).close()),
            "a higher priority": tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, 5)),
            "to be another user": tried(lambda: call("setuid", 12345)),
            "to be looked into": tried(lambda: call("ptrace", TRACE_ME, 0, 0, 0)),
            "real time": tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
            "known_hosts written": tried(lambda: new_file(str(state.parent))),
            "an internet socket": tried(lambda: socket.socket(socket.AF_INET6).close()),
            "a Unix socket": tried(lambda: socket.socket(socket.AF_UNIX).close()),
            "news of the network": tried(network_news),
            "the system bus": tried(lambda: connect("/run/dbus/system_bus_socket")),
            "memory maps": tried(lambda: map_file(state)),
            "the agent's socket": tried(lambda: connect(agent)),
            "a program of the person's": tried(lambda: subprocess.run(["/bin/true"], check=True)),
        },
        "facts": {
            "no new privileges": status("NoNewPrivs") == "1",
            "users known": sum(
                int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines()
            ),
            "capabilities left": int(status("CapBnd"), 16),
            "umask": int(status("Umask"), 8),
            "own control group writable": os.access(own_group(), os.W_OK),
            "tunables writable": not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY,
            "largest core": resource.getrlimit(resource.RLIMIT_CORE)[1],
            "foreign devices": sorted(
                {path.name for path in Path("/dev").iterdir()}
                & {"kvm", "fuse", "mem", "kmsg", "net", "input"}
            ),
        },
    }


def main() -> None:
    result, agent, host, port = Path(sys.argv[1]), *sys.argv[2:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    result.write_text(json.dumps(look(result, agent)))
    with socket.create_connection((host, int(port))) as sock, contextlib.suppress(OSError):
        while True:
            for ready in select.select([0, sock.fileno()], [], [])[0]:
                data = os.read(ready, 65536)
                if not data:
                    return
                sock.sendall(data) if ready == 0 else os.write(1, data)


main()
