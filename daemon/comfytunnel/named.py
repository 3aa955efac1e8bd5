"""The folder of the workflows that have a name: NAME.json (API format), and NAME.toml beside it for whoever wants to adjust it.

Read only, and anew whenever a file has changed: nobody need be told. Whatever lies there is bounded, plain files only (no links: what a link names
may lie anywhere); what cannot be used is listed with the reason and hides nothing else. The daemon never writes here; `comfytunnel workflow add` does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from comfytunnel.errors import ConfigError, Error, NotFoundError, Problem, UsageError, WorkflowError
from comfytunnel.printable import printable
from comfytunnel.wirecause import Cause
from comfytunnel.wireworkflows import Workflow
from comfytunnel.workflow.adjust import adjust
from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.graph import parse_api_graph
from comfytunnel.workflow.parameters import find_parameters
from comfytunnel.workflow.tracing import Known

MAX_WORKFLOWS = 500
MAX_BYTES = 4 * 1024**2
"""Of one workflow; a large one that people share has about one."""
MAX_TOTAL = 64 * 1024**2
"""Of all workflows together: so much of the answer and of the memory they may take."""
MAX_TOML = 256 * 1024
MAX_ENTRIES = 10_000
"""Files that are looked at in the folder."""

_NAME = re.compile(r"[^\W_][\w .()+-]{0,63}")


_TAKEN = "convert"
"""What stands where a name might: POST /v1/workflows/convert."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for, as it was read. `graph` None: it cannot be used, and `problem` says why. `table`: the TOML."""

    name: str
    graph: dict[str, Any] | None = None
    table: dict[str, Any] | None = None
    problem: Error | None = None
    size: int = 0


def check_name(name: str) -> str:
    """Return a name that a workflow may have. Raises UsageError."""
    if not _NAME.fullmatch(name) or name != name.strip():
        raise UsageError(
            f"{printable(name[:80])!r} is not a name for a workflow.",
            hint="A name has up to 64 letters, digits, spaces and any of _.()+- and begins with a letter or a digit.",
        )
    if name == _TAKEN:
        raise _taken()
    return name


def _taken() -> UsageError:
    return UsageError(
        f"No workflow can be named {_TAKEN!r}: the API has a route of that name.",
        hint="Give it another one.",
    )


class Folder:
    """The workflows in one folder. Synchronous; it may be asked from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[str, tuple[object, Found]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Sorted; none where there is no folder. Names that nothing could be asked for by are left out."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for _, entry in zip(range(MAX_ENTRIES), entries, strict=False):
                name = entry.name.removesuffix(".json")
                if name != entry.name and _NAME.fullmatch(name) and name == name.strip():
                    found.append(name)
        return sorted(found)[:MAX_WORKFLOWS]

    def all(self) -> list[Found]:
        with self._lock:
            return self._all()

    def _all(self) -> list[Found]:
        names = self.names()
        self._read = {name: self._read[name] for name in names if name in self._read}
        found, total = [], 0
        for name in names:
            each = self._one(name)
            total += each.size
            if total > MAX_TOTAL:
                much = f"The workflows in {self.path} have more than {MAX_TOTAL // 1024**2} MiB together."
                each = Found(name, problem=WorkflowError(much, hint="Take some of them away."))
                self._read.pop(name, None)
            found.append(each)
        return found

    def get(self, name: str) -> Found:
        """Raises NotFoundError."""
        if name not in self.names():
            close = close_matches(name, self.names())
            raise NotFoundError(
                f"There is no workflow {printable(name[:80])!r}.",
                hint=f"Did you mean {close[0]!r}?"
                if close
                else "`comfytunnel workflow list` shows those that there are, `comfytunnel workflow add FILE` adds one.",
                code="workflow_not_found",
            )
        with self._lock:
            return self._one(name)

    def _one(self, name: str) -> Found:
        if name == _TAKEN:
            return Found(name, problem=_taken())
        files = (self.path / f"{name}.json", self.path / f"{name}.toml")
        stamp = tuple(_stamp(path) for path in files)
        known = self._read.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = _load(name, *files)
        self._read[name] = (stamp, found)
        return found


def described(found: Found, known: Known = lambda _: None) -> Workflow:
    """A named workflow as the API shows it; `known` as `find_parameters` takes it."""
    title, graph = found.name.replace("_", " "), found.graph
    if graph is None or found.problem is not None:
        error = found.problem or WorkflowError("It cannot be read.")
        cause = Cause(error.code_on_wire, error.message, error.hint)
        return Workflow(name=found.name, title=title, problem=cause, workflow=graph)
    parameters = find_parameters(graph, known)
    try:
        adjusted = adjust(graph, parameters, found.table or {}, f"{found.name}.toml")
    except ConfigError as error:
        cause = Cause(error.code_on_wire, error.message, error.hint)
        return Workflow(name=found.name, title=title, parameters=parameters, problem=cause, workflow=graph)
    return Workflow(
        name=found.name,
        title=adjusted.title or title,
        description=adjusted.description,
        parameters=adjusted.parameters,
        workflow=adjusted.workflow,
    )


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _load(name: str, graph_file: Path, table_file: Path) -> Found:
    try:
        data = _bytes(graph_file, MAX_BYTES)
        if data is None:
            raise WorkflowError(f"{graph_file} is gone.")
        try:
            graph = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise WorkflowError(
                f"{graph_file} is not JSON ({error}).", hint="Export it from ComfyUI again."
            ) from error
        parse_api_graph(graph)
    except WorkflowError as error:
        return Found(name, problem=error)
    try:
        table = _table(table_file)
    except (ConfigError, WorkflowError) as error:
        return Found(name, graph, problem=error, size=len(data))
    return Found(name, graph, table, size=len(data))


def _table(path: Path) -> dict[str, Any]:
    data = _bytes(path, MAX_TOML)
    try:
        return {} if data is None else tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([Problem("", f"this is not TOML: {error}.")], source=path.name) from error


def _bytes(path: Path, most: int) -> bytes | None:
    """The file, None if there is none. Raises WorkflowError for what is no plain file, too long, or not ours to read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WorkflowError(f"{path} is a link.", hint="Put the file itself there.") from error
        raise WorkflowError(f"{path} cannot be read ({error.strerror}).") from error
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise WorkflowError(f"{path} is no plain file.")
        with os.fdopen(number, "rb", closefd=False) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise WorkflowError(f"{path} cannot be read ({error.strerror}).") from error
    finally:
        os.close(number)
    if len(data) > most:
        raise WorkflowError(f"{path} is longer than {most // 1024} KiB.")
    return data
