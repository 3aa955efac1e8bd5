"""`python -m tests.soak`: a daemon, callers that never stop, and one fault after the other in random order (`make soak`).

SOAK_SECONDS sets the length (600), SOAK_SEED repeats an order. After each fault: up within its bound, the status agrees with what calls
see, links kept or renewed as the fault demands, nobody hung or misled. At the end: no descriptor, socket, job or memory left behind, no
error in the log. Exit status 1 and a list when something is not so. Linux only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from comfytunnel import wire
from comfytunnel.errors import Error
from tests.soak.clients import ALWAYS_WRONG, Clients, Outcome
from tests.soak.faults import ALL, Fault, Leave
from tests.soak.ledger import Holdings, holdings, sockets_to
from tests.soak.site import START_DEADLINE, Broken, Site

QUIET = 1.0  # seconds of calls after each fault, none of which may fail
REST = 40.0  # seconds for what ends by itself: aiohttp looks every 15 for connections that were unused for 15
JOB_EVERY = 3.0  # seconds between two jobs
JOBS_DEADLINE = 60.0  # seconds for the last jobs, at the end
GROWTH = 15.0  # MB that memory may grow after a process has been through WARM faults; ten minutes took 5
WARM = 3
API_EVERY = 0.3  # seconds between two looks at the control socket
API_DEADLINE = 2.0  # seconds for an answer of the control socket while the daemon is not standing still
OWN = 16 + 1  # connections of the daemon to one of its own doors: those that it shares, and its websocket
WORST = 20  # findings after which it is pointless to go on


class Soak:
    def __init__(self, site: Site, seconds: float) -> None:
        self.site = site
        self.seconds = seconds
        self.findings: list[str] = []
        self.now = "the start"
        self.leave = Leave()
        self.strict_since: float | None = None
        self.clients = Clients(site, self.judge)
        self.jobs: list[str] = []
        self.times: dict[str, list[float]] = {}
        self.memory: list[tuple[int, float]] = []  # (which daemon, RSS) after each fault

    def found(self, what: str) -> None:
        self.findings.append(f"{self.now}: {what}")
        print(f"!! {self.now}: {what}", flush=True)

    def judge(self, outcome: Outcome) -> None:
        """Each call, as it ends."""
        wrong = outcome.what in ALWAYS_WRONG
        wrong |= outcome.what == "shortened" and not self.leave.shortened
        wrong |= outcome.what == "refused" and not self.leave.refused
        wrong |= outcome.what == "turned away" and not self.leave.turned_away
        calm = self.strict_since is not None and outcome.began >= self.strict_since
        wrong |= calm and outcome.what != "served"
        if wrong:
            self.found(str(outcome))

    async def run(self) -> None:
        site = self.site
        await site.start()
        await site.settled(START_DEADLINE)
        before = await self.holdings_at_rest()
        end = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            works = (self.clients.run(), self.submit_jobs(), self.watch_api())
            working = [group.create_task(work) for work in works]
            for fault in deck(site.rng):
                if time.monotonic() > end or len(self.findings) >= WORST:
                    break
                await self.go_through(fault)
            for fault in (
                ALL
            ):  # each new link hides what the one before has leaked: the last one has to bear something
                if fault.links == "kept":
                    await self.go_through(fault)
            self.now = "the end"
            for task in working:
                task.cancel()
        await self.check_jobs()
        await self.check_rest(before)
        self.check_memory()
        try:
            await site.stop()
        except Broken as broken:
            self.found(str(broken))
        self.check_log()

    # --- during -----------------------------------------------------------------------------------------------------

    async def go_through(self, fault: Fault) -> None:
        site, self.now = self.site, fault.name
        links, starts, began = await site.links(), site.starts, time.monotonic()
        self.strict_since = None
        try:
            await fault.do(site, self.leave)
            took = await site.settled(fault.bound, after=links if fault.links == "lost" else None)
        except Broken as broken:
            self.found(str(broken))
            await self.recover()
            return
        self.times.setdefault(fault.name, []).append(took)
        print(f"{fault.name}: up after {took:.2f} s", flush=True)
        if site.starts == starts:
            await self.check_links(fault, links, began)
        self.strict_since = time.monotonic()
        await asyncio.sleep(QUIET)
        self.take_leave_back()
        self.memory.append((site.starts, holdings(site.pid).rss))

    async def recover(self) -> None:
        """After a finding: go on if it comes up at all."""
        try:
            await self.site.settled(60)
        except Broken as broken:
            self.found(f"stuck: {broken}")
            raise
        self.take_leave_back()

    def take_leave_back(self) -> None:
        self.leave.refused = self.leave.turned_away = self.leave.silent = self.leave.shortened = False

    async def check_links(self, fault: Fault, before: dict[str, int], began: float) -> None:
        for name, now in (await self.site.links()).items():
            if fault.links == "kept" and now != before[name]:
                self.found(f"{name} has made {now - before[name]} new links, and the old one was good")
        old = [who for who, since in self.clients.websockets.items() if since < began]
        if fault.links == "lost" and old:
            self.found(f"{old} still hang on the link that is gone")
        if fault.links == "kept" and not fault.far_end and len(old) < 2:
            self.found(f"only {old} of two websockets have outlived a fault that concerned nobody")

    async def submit_jobs(self) -> None:
        """Whatever happens, each job that was accepted must succeed."""
        colour = 0
        while True:
            colour += 1
            image = {"width": 32, "height": 32, "batch_size": 1, "color": colour}
            graph = {
                "1": {"class_type": "EmptyImage", "inputs": image},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "soak"}},
            }
            try:
                job = await self.site.ask(partial(self.site.client.submit, graph, tunnel="comfy"))
            except Error:  # no daemon just now, or one that stands still
                pass
            else:
                self.jobs.append(job.id)
            await asyncio.sleep(JOB_EVERY)

    async def watch_api(self) -> None:
        """The control socket answers at once, whatever goes on."""
        while True:
            allowed, began, why = self.leave.silent, time.monotonic(), "late"
            try:
                await self.site.ask(self.site.client.status)
            except Error as error:
                why = error.message
            took = time.monotonic() - began
            if (took > API_DEADLINE or why != "late") and not (allowed or self.leave.silent):
                self.found(f"the control socket, after {took:.1f} s: {why}")
            await asyncio.sleep(API_EVERY)

    # --- at the end -------------------------------------------------------------------------------------------------

    async def holdings_at_rest(self) -> Holdings:
        """After a moment without callers."""
        await asyncio.sleep(2 * QUIET)
        found = self.held()
        self.far = self.far_sockets()
        return found

    def held(self) -> Holdings:
        """What the daemon holds, but for the connections that it keeps to its own doors: each is two sockets, and a channel far away.

        aiohttp takes the one that has rested longest, so while it looks every two seconds for a submission that may come late (for ten
        minutes), all that a busy moment has made stay in use."""
        found = holdings(self.site.pid)
        found.descriptors["socket"] -= 2 * sum(self.own().values())
        return found

    def own(self) -> dict[str, int]:
        return {name: sockets_to(port, self.site.pid).total() for name, port in self.site.ports.items()}

    def far_sockets(self) -> dict[str, int]:
        site, own = self.site, self.own()
        return {
            "sockets to ComfyUI": sockets_to(site.comfyui.port).total() - own["comfy"],
            "sockets to the file server": sockets_to(site.files.port).total() - own["files"],
            "sessions of sshd": len(site.sshd.sessions),
            "connections to the relays": sum(
                sockets_to(relay.port, site.pid).total() for relay in (site.relay, site.detour, site.thin)
            ),
        }

    async def check_jobs(self) -> None:
        jobs: dict[str, wire.Job] = {}
        end = time.monotonic() + JOBS_DEADLINE
        waiting = list(self.jobs)
        while waiting and time.monotonic() < end:
            for job in waiting:
                jobs[job] = await self.site.ask(partial(self.site.client.job, job))
            waiting = [job for job in waiting if jobs[job].status in ("queued", "running")]
            await asyncio.sleep(0.2)
        for job in self.jobs:
            if jobs[job].status != "succeeded":
                self.found(f"job {job} is {jobs[job].status}: {jobs[job].error or jobs[job].comfytunnel}")
        executions = self.site.comfyui.executions
        for first, last in zip(self.site.lives, [*self.site.lives[1:], len(executions)], strict=True):
            for job, times in Counter(executions[first:last]).items():
                if times > 1:
                    self.found(f"job {job} ran {times} times in one life of ComfyUI")

    async def check_rest(self, before: Holdings) -> None:
        """Nothing more than at the beginning, given time for what ends by itself."""
        end = time.monotonic() + REST
        while leaks := self.leaks(before):
            if time.monotonic() > end:
                for leak in leaks:
                    self.found(leak)
                break
            await asyncio.sleep(0.2)
        for name, tunnel in (await self.site.ask(self.site.client.tunnels)).items():
            if tunnel.counters.held:
                self.found(f"{name} still holds {tunnel.counters.held} callers")

    def leaks(self, before: Holdings) -> list[str]:
        now = self.held()
        far = self.far_sockets()
        more = now.descriptors - before.descriptors
        leaks = [f"{number} more descriptors of {kind}" for kind, number in more.items()]
        leaks += [f"{far[what]} {what}, {was} before" for what, was in self.far.items() if far[what] > was]
        leaks += [
            f"{number} connections to its own door {name}"
            for name, number in self.own().items()
            if number > OWN
        ]
        return leaks

    def check_memory(self) -> None:
        last = [rss for start, rss in self.memory if start == self.site.starts][WARM:]
        print(f"memory of the last daemon after each fault, MB: {' '.join(f'{rss:.0f}' for rss in last)}")
        if last and last[-1] > last[0] + GROWTH:
            self.found(f"memory has grown from {last[0]:.0f} to {last[-1]:.0f} MB")

    def check_log(self) -> None:
        for line in self.site.log.read_text(errors="replace").splitlines():
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError):
                self.found(f"in the log: {line}")
            else:
                if level in ("error", "critical"):
                    self.found(f"in the log: {line}")

    def report(self) -> None:
        for name, times in sorted(self.times.items()):
            print(f"{name:40} {len(times)} times, up after {min(times):.2f}..{max(times):.2f} s")
        whats: Counter[str] = Counter()
        for (_, what), number in self.clients.counts.items():
            whats[what] += number
        print(f"calls: {dict(whats)}; the longest took {self.clients.longest:.1f} s; jobs: {len(self.jobs)}")


def deck(rng: random.Random) -> Iterator[Fault]:
    """All faults in random order, again and again; those that end the daemon only in the first round."""
    first = True
    while True:
        cards = [fault for fault in ALL if first or not fault.once]
        rng.shuffle(cards)
        cards.sort(key=lambda fault: not fault.once)
        yield from cards
        first = False


async def soak(seed: int, seconds: float, base: Path) -> int:
    async with Site(base, random.Random(seed)) as site:
        it = Soak(site, seconds)
        try:
            await it.run()
        except* Broken:
            pass  # it is among the findings
        it.report()
        if it.findings:
            print(f"\n{len(it.findings)} findings with seed {seed} (SOAK_SEED={seed} repeats the order):")
            print("\n".join(it.findings))
            return 1
        print(f"nothing stuck, leaked or wrongly told in {seconds:.0f} s; seed {seed}")
        return 0


def main() -> int:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    seconds = float(os.environ.get("SOAK_SECONDS") or 600)
    logging.getLogger("aiohttp").setLevel(
        logging.CRITICAL
    )  # the stand-in's complaints about callers that were cut off
    print(f"soak for {seconds:.0f} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as base:
        return asyncio.run(soak(seed, seconds, Path(base)))


if __name__ == "__main__":
    sys.exit(main())
