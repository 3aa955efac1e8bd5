"""What do ten thousand waiting jobs cost: each call's time, the start with them, memory?

One daemon as a real process whose only tunnel leads to a port that refuses. Jobs are submitted one after the other, then list,
job, status and submit take turns while an event stream is read; every figure is of one call, from its sending to its last byte, on a connection of
its own as curl makes it. Linux only (/proc). There is no peer: the bounds are those of the issue, and one that is passed sets the exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.idle import memory

GRAPH = {
    str(n): {
        "class_type": "KSampler",
        "inputs": {"seed": n, "model": [str(max(n - 1, 1)), 0], "text": "a cat " * 20},
    }
    for n in range(1, 21)
}  # some 4 kB, as an ordinary workflow
CALL, START, MEMORY = 50.0, 2.0, 30.0  # ms at the 99th percentile, s, MB of growth
PATIENCE = 60.0  # seconds for anything
WARM = 200  # calls before the memory is first looked at: buffers and caches are no growth


class Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


class Daemon:
    def __init__(self, base: Path) -> None:
        self.socket = base / "run" / "control.sock"
        self.environment = os.environ | {
            "COMFYTUNNEL_CONFIG": str(base / "config.toml"),
            "COMFYTUNNEL_SOCKET": str(self.socket),
            "COMFYTUNNEL_STATE_DIR": str(base / "state"),
        }
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
            ports = free.getsockname()[1], other.getsockname()[1]
        (base / "config.toml").write_text(
            f'[tunnels.default]\nhost = "127.0.0.1"\nport = {ports[0]}\nssh_config = ""\n'
            f'known_hosts = "{base}/known_hosts"\nlisten = "127.0.0.1:{ports[1]}"\n[jobs]\noutput_dir = "{base}/out"\n'
        )
        self.log = (base / "daemon.log").open("wb")

    def start(self) -> float:
        """Seconds from the process to its first answer of /v1/status."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "comfytunnel", "daemon"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)
        while True:
            try:
                self.call("GET", "/v1/status")
            except (OSError, http.client.HTTPException):
                if self.process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise
                time.sleep(0.005)  # a process that starts tells nobody; PATIENCE ends it
            else:
                return time.perf_counter() - began

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[float, Any]:
        """Milliseconds, and the answer."""
        connection = Unix(self.socket)
        try:
            began = time.perf_counter()
            connection.request(method, path, body)
            answer = connection.getresponse()
            raw = answer.read()
            took = (time.perf_counter() - began) * 1000
            assert answer.status < 300, raw
            return took, json.loads(raw)
        finally:
            connection.close()

    def memory(self) -> float:
        return memory(self.process.pid)["PSS"]


class Events:
    """/v1/events, read on a thread: when each job was told."""

    def __init__(self, path: Path) -> None:
        self.told: dict[str, float] = {}
        self.connection = Unix(path)
        self.connection.request("GET", "/v1/events")
        self.answer = self.connection.getresponse()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        kind = b""
        with contextlib.suppress(OSError, ValueError):
            while line := self.answer.readline():
                if line.startswith(b"event: "):
                    kind = line[7:].strip()
                elif line.startswith(b"data: ") and kind == b"job":
                    self.told[json.loads(line[6:])["id"]] = time.perf_counter()


def p99(samples: list[float]) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * 0.99))]


@contextlib.contextmanager
def a_daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="ct-") as base:
        daemon = Daemon(Path(base))
        try:
            yield daemon
        finally:
            daemon.process.kill()
            daemon.process.wait()
            daemon.log.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=300, help="of each kind, once all jobs wait")
    arguments = parser.parse_args()
    body = json.dumps({"workflow": GRAPH}).encode()
    figures: list[tuple[str, float, str, float]] = []
    with a_daemon() as daemon:
        empty = daemon.start()
        ids = [daemon.call("POST", "/api/v2/jobs", body)[1]["id"] for _ in range(WARM)]
        before = daemon.memory()
        times: list[float] = []
        for _ in range(arguments.jobs - WARM):
            took, job = daemon.call("POST", "/api/v2/jobs", body)
            times.append(took)
            ids.append(job["id"])
        grown = daemon.memory() - before
        figures.append(("submit, all of them", p99(times), "ms", CALL))
        figures.append(("memory, grown", grown, "MB", MEMORY))
        daemon.stop()
        figures.append(("start, with no job", empty, "s", START))
        figures.append(("start, with all", daemon.start(), "s", START))
        figures += taking_turns(daemon, ids, body, arguments.calls)
        figures.append(("memory after the calls, grown", daemon.memory() - before, "MB", MEMORY))
        daemon.stop()
    worst = 0
    print(f"{arguments.jobs} waiting jobs; calls at the 99th percentile")
    for what, value, unit, bound in figures:
        verdict = "" if value <= bound else "  OVER"
        worst = max(worst, value > bound)
        print(f"  {what:<32} {value:8.2f} {unit:<3} (at most {bound:g}){verdict}")
    return int(worst)


def taking_turns(
    daemon: Daemon, ids: list[str], body: bytes, calls: int
) -> list[tuple[str, float, str, float]]:
    events = Events(daemon.socket)
    chance = random.Random(1)
    samples: dict[str, list[float]] = {}
    sent: dict[str, float] = {}
    cursor = ""
    for _ in range(calls):
        began = time.perf_counter()
        took, job = daemon.call("POST", "/api/v2/jobs", body)
        sent[job["id"]] = began
        samples.setdefault("submit", []).append(took)
        took, page = daemon.call("GET", f"/api/v2/jobs?limit=100{cursor}")
        samples.setdefault("list, a page of 100", []).append(took)
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        took, _ = daemon.call("GET", f"/api/v2/jobs/{chance.choice(ids)}")
        samples.setdefault("one job", []).append(took)
        took, _ = daemon.call("GET", "/v1/status")
        samples.setdefault("status", []).append(took)
        took, _ = daemon.call("POST", f"/v1/jobs/{chance.choice(ids)}/priority", b'{"priority": 3}')
        samples.setdefault("another priority", []).append(took)
    deadline = time.perf_counter() + 5
    while sent.keys() - events.told.keys() and time.perf_counter() < deadline:
        time.sleep(0.01)  # the thread that reads the events has five seconds for the last of them
    samples["submit until its event"] = [
        (events.told.get(job_id, deadline) - began) * 1000 for job_id, began in sent.items()
    ]
    return [(what, p99(taken), "ms", CALL) for what, taken in samples.items()]


if __name__ == "__main__":
    sys.exit(main())
