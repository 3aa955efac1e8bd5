"""The process: builds everything, ties feeds to gates, owns the one TaskGroup, and takes it all down in order.

Order of birth: config, lock, database, control socket (it answers, READY=1 is sent), then what is heavy to import. Order of death: streams and
new requests, jobs, doors, links, database; within two seconds of SIGTERM. A part that fails on its own takes the process down, so that
the service manager starts a whole one. No policy here.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from comfytunnel import __version__, config, fdstore, log, wire
from comfytunnel.api.context import Context
from comfytunnel.api.listen import Lock, control_socket, handed_over, place
from comfytunnel.api.message import messages
from comfytunnel.api.server import Server
from comfytunnel.ending import end
from comfytunnel.errors import ConfigError
from comfytunnel.folders import AGAIN, read_only
from comfytunnel.history import History
from comfytunnel.jobs.outbox import Outbox
from comfytunnel.jobs.place import Keep
from comfytunnel.jobs.scheduler import JobsSettings, Scheduler
from comfytunnel.named import Folder
from comfytunnel.notify import Notifier
from comfytunnel.opening import State, open_state
from comfytunnel.paths import workflows_dir
from comfytunnel.roster import Roster
from comfytunnel.supervised import beat, say_status
from comfytunnel.threads import in_thread
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.watch.world import World
from comfytunnel.weblistener import WebListener

if TYPE_CHECKING:
    from comfytunnel.tunnel.look import Look

logger = structlog.get_logger(__name__)

DISK_LOOK = 2.0  # seconds for a look at the folders of the config
MEND_LOOK = 5.0  # seconds between looks at a config file that could not be used
FILES_WANTED = 8192  # open files: each caller takes one here, and macOS gives 256 by default


def run_daemon(config_path: Path, socket_path: Path, state_dir: Path) -> int:
    """Run the daemon in the foreground until a signal stops it; returns the exit code.

    Raises RefusedError (another daemon), and StateError (our files) and ConfigError unless a service manager started us: then
    the control socket is served without tunnels until the file is mended, so that everybody can be told why.
    """
    handed = fdstore.inherited()  # first: nothing is open yet but what was passed
    given = handed_over(handed)
    notifier = Notifier(started=given is not None)
    if notifier.managed:
        faulthandler.enable()  # the watchdog's SIGABRT leaves in the log where the loop stood still
    found = _read(config_path, notifier)
    _raise_file_limit()
    where = place(socket_path, state_dir, given)
    with contextlib.ExitStack() as held:
        held.callback(where.lock.release)
        if (
            given is None
        ):  # what we bind is covered by the lock; the manager's socket is there before, to say why there is none
            where.lock.take()
        listener = held.enter_context(control_socket(where.path, where.lock, where.given))
        listeners = held.enter_context(Listeners(notifier, handed))
        daemon = _Daemon(config_path, state_dir, notifier, listeners)
        asyncio.run(daemon.run(found, listener, where.lock))
    return 0


def _read(path: Path, notifier: Notifier) -> config.Config | ConfigError:
    """The config, or what is wrong with it if a service manager started us; else that is raised."""
    try:
        loaded = config.load(path)
    except ConfigError as error:
        if not notifier.managed:
            raise
        log.setup()
        return error
    log.setup(loaded.log.level, loaded.log.format)
    return loaded


async def look_at_host_key(tunnel: config.TunnelConfig) -> Look:
    """The key that a tunnel's host shows now, beside known_hosts, without logging in: what `setup` shows. Never raises for
    what the host or the road does."""
    from comfytunnel.tunnel.look import look  # heavy to import, and the daemon has no use for it

    return await look(tunnel)


class _Daemon:
    def __init__(self, config_path: Path, state_dir: Path, notifier: Notifier, listeners: Listeners) -> None:
        self._path = config_path
        self._state_dir = state_dir
        self._notifier = notifier
        self._listeners = listeners
        self._lasting: wire.Cause | None = None  # trouble that no reload ends
        self._broken = asyncio.Event()  # set while the config cannot be used
        self._loaded: config.Config | None = None  # what is in force
        self._examining = asyncio.Lock()

    async def run(self, found: config.Config | ConfigError, listener: Any, lock: Lock) -> None:
        self._history = History(self._state_dir / "outages.jsonl")
        stop = _stop_signal()
        state = await open_state(
            self._state_dir,
            lock,
            config=self._path,
            notifier=self._notifier,
            listener=listener,
            stop=stop,
        )
        if state is None:
            return
        store = state.store
        try:
            if state.late:
                found = _read(self._path, self._notifier)
            if store.notice:
                logger.error("state", message=store.notice)
            async with asyncio.TaskGroup() as group:
                await self._live(group, stop, state, found, listener)
        finally:
            await self._history.close()
            await store.close()
            self._notifier.close()
            logger.info("stopped")

    async def _live(
        self,
        group: asyncio.TaskGroup,
        stop: asyncio.Event,
        state: State,
        found: config.Config | ConfigError,
        listener: Any,
    ) -> None:
        loaded = None if isinstance(found, ConfigError) else found
        store, self._assets, _ = state
        jobs = loaded.jobs if loaded else config.JobsConfig()
        self._scheduler = Scheduler(store, {}, _settings(jobs))
        await self._scheduler.take_up()  # before anybody asks: some 0.1 s with ten thousand jobs
        world = World(goodbye=self._before_sleep, on_wake=lambda: self._scheduler.sleep(asleep=False))
        self._tunnels = Roster(self._scheduler, world, self._listeners, group, self._history.add)
        self._store = store
        self._assets.max_upload = jobs.max_upload_mb * 10**6
        context = Context(
            tunnels=self._tunnels,
            store=store,
            assets=self._assets,
            scheduler=self._scheduler,
            outages=self._history,
            workflows=Folder(workflows_dir(self._path)),
            reload=self.reload,
            doctor=self.doctor,
            config=str(self._path),
            started_at=datetime.now(UTC),
            web=lambda: self._web.view(),
        )
        self._web = WebListener(context, self._listeners, group, self._tunnels.poke)
        outbox = Outbox(store, messages(context), self._state_dir / "webhook.secret")
        if store.notice:
            self._lasting = wire.Cause("state_broken", store.notice)
            self._tunnels.trouble(self._lasting)
        if loaded:
            self._loaded = loaded
            await self._tunnels.apply(loaded.tunnels, loaded.web.listen)
            self._web.serve(loaded.web)
        if isinstance(found, ConfigError):
            self._complain(found)
        async with Server(context, listener):
            logger.info("started", version=__version__, pid=os.getpid(), config=str(self._path))
            self._notifier.ready()
            others = [
                group.create_task(self._scheduler.run(), name="jobs"),
                group.create_task(self._assets.run(), name="assets"),
                group.create_task(outbox.run(), name="webhooks"),
                group.create_task(world.run(), name="world"),
                group.create_task(self._history.run(), name="outages"),
                group.create_task(self._follow_demand(), name="demand"),
                group.create_task(say_status(self._notifier, self._tunnels, store), name="status"),
                group.create_task(beat(self._notifier, self._tunnels), name="watchdog"),
                group.create_task(self._follow_config(), name="config"),
                group.create_task(self._reload_on_signal(), name="reload"),
            ]
            await self._tunnels.load()
            await stop.wait()
            logger.info("stopping")
            self._notifier.stopping()
            context.closing.set(True)
            web = group.create_task(self._web.leave(), name="web/end")
        await asyncio.wait([web])
        await end(others)
        await self._tunnels.stop()

    # --- config -----------------------------------------------------------------------------------------------------

    async def reload(self) -> dict[str, Any]:
        """Read the config again. Raises ConfigError and changes nothing if it cannot be used."""
        self._notifier.reloading()
        try:
            return await self._reload()
        finally:
            self._notifier.ready()

    async def _reload(self) -> dict[str, Any]:
        try:
            loaded = config.load(self._path)
        except ConfigError as error:
            logger.warning("config", message=error.message, hint=error.hint, kept="the config before")
            raise
        await self._web.leave(loaded.web)
        done = await self._tunnels.apply(loaded.tunnels, loaded.web.listen)
        self._web.serve(loaded.web)
        self._scheduler.apply(_settings(loaded.jobs))
        self._assets.max_upload = loaded.jobs.max_upload_mb * 10**6
        log.setup(loaded.log.level, loaded.log.format)
        before, self._loaded = self._loaded, loaded
        done["sections"] = [
            name
            for name in ("jobs", "web", "log")
            if before is None or getattr(before, name) != getattr(loaded, name)
        ]
        self._broken.clear()
        self._tunnels.trouble(self._lasting)
        logger.info("config", **done)
        return {"reloaded": str(self._path), **done, "read_only": await self._warn_of_read_only(loaded)}

    async def _warn_of_read_only(self, loaded: config.Config) -> list[str]:
        found: list[str] = []
        with contextlib.suppress(TimeoutError):  # a network disk that is away is no reason to wait
            async with asyncio.timeout(DISK_LOOK):
                found = await in_thread(
                    lambda: [str(path) for path in read_only(loaded, self._state_dir)], "folders"
                )
        for path in found:
            logger.warning("config", message=f"{path} is read-only to the daemon.", hint=AGAIN)
        return found

    def _complain(self, error: ConfigError) -> None:
        self._broken.set()
        self._tunnels.trouble(wire.Cause(error.code, error.message, error.hint))
        logger.error("config", message=error.message, hint=error.hint)

    async def _follow_config(self) -> None:
        """A config that could not be used is looked at again until it can: whoever mends the file need not tell us."""
        if self._loaded:
            await self._warn_of_read_only(self._loaded)
        while True:
            await self._broken.wait()
            await asyncio.sleep(MEND_LOOK)
            try:
                config.load(self._path)
            except ConfigError as error:
                self._tunnels.trouble(wire.Cause(error.code, error.message, error.hint))
            else:
                with contextlib.suppress(
                    ConfigError
                ):  # changed between the two readings: the next look decides
                    await self.reload()

    async def _reload_on_signal(self) -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        while True:
            await asked.wait()
            asked.clear()
            with contextlib.suppress(ConfigError):  # said in the log; the config before stays
                await self.reload()

    # --- asked ------------------------------------------------------------------------------------------------------

    async def doctor(self, name: str | None) -> wire.Doctor:
        """See api.context.Context. One at a time: each look at a host is a connection that it counts."""
        async with self._examining:
            patients: list[Any] = await self._tunnels.patients(name)
            from comfytunnel.doctor.house import House  # here, because most days nobody asks for a doctor
            from comfytunnel.doctor.road import examine

            output_dir = self._scheduler.settings.output_dir
            house = House(self._path, bool(self._tunnels.names()), self._state_dir, output_dir, self._store)
            async with asyncio.TaskGroup() as group:
                found = [group.create_task(examine(house, each)) for each in patients or [None]]
            return wire.Doctor(str(self._path), [each.result() for each in found])

    async def _before_sleep(self) -> None:
        """Close ComfyUI's websockets while there are links to close them through: it must keep no hung client."""
        self._scheduler.sleep(asleep=True)
        await self._scheduler.hushed()

    # --- feeds to gates ---------------------------------------------------------------------------------------------

    async def _follow_demand(self) -> None:
        async for jobs in self._scheduler.demand.changes():
            self._tunnels.demand(jobs)


def _settings(jobs: config.JobsConfig) -> JobsSettings:
    return JobsSettings(
        output_dir=jobs.output_dir,
        max_ahead=jobs.max_ahead,
        max_waiting=jobs.max_waiting,
        time_to_start=jobs.time_to_start,
        time_to_run=jobs.time_to_run,
        move_after=jobs.move_after,
        forward_partner_key=jobs.forward_partner_key,
        keep=Keep(
            jobs_age=jobs.keep_jobs_days * 86_400 or None,
            jobs_size=round(jobs.keep_jobs_mb * 1e6) or None,
            outputs_age=jobs.keep_outputs_days * 86_400 or None,
            outputs_size=round(jobs.keep_outputs_gb * 1e9) or None,
        ),
    )


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one does not wait for anybody."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    return stop


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # the limit that is there serves, with fewer callers
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
