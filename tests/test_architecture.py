"""The walls of the house: who may import whom (docs/architecture.md), how long a file may be, and that it says its law.

A new top-level module or room fails here until it stands in ROOMS: decide where it belongs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "daemon" / "comfytunnel"
LINES_MOST = 400

# Level 6: values, texts and small tools that every room may use. jobs.model and tunnel.state are the nouns of their rooms.
NOUNS = {
    "wire", "wireasked", "wirecause", "wirejobs", "wireworkflows", "words", "workflow", "jobs.model", "tunnel.state", "config", "configfields", "decoding", "endpoints", "sshline", "sshparts", "errors",
    "ending", "feed", "folders", "log", "named", "paths", "notify", "fdstore", "printable", "protocol", "multipart",
    "peer", "threads",
}  # fmt: skip
# The composition root, in a few files.
ROOT = {"announced", "app", "assembly", "history", "opening", "roster", "supervised", "weblistener"}
# What each room may import besides itself.
ROOMS = {
    "": {"client", "errors"},  # `from comfytunnel import Client`, when it is asked for
    "__main__": NOUNS | {"cli"},
    "cli": NOUNS | {"client"},
    "service": NOUNS,
    "demo": NOUNS,
    "app": NOUNS | {"api", "doctor", "jobs", "tunnel", "watch", "comfy"},
    "doctor": NOUNS | {"jobs", "tunnel", "comfy"},
    "api": NOUNS | {"jobs", "tunnel", "watch", "comfy"},
    "jobs": NOUNS - {"tunnel.state"} | {"comfy"},
    "tunnel": NOUNS - {"jobs.model"},
    "watch": NOUNS,
    "comfy": NOUNS,
    "client": NOUNS,
    **dict.fromkeys(NOUNS, NOUNS),
}
LATE = {
    "cli": {"app", "service", "demo"}
}  # besides, but only inside the one command that needs them, or for their types
BESIDES = {"demo.run": {"client"}}  # it plays the user of a daemon, through the socket as any user does
OWNERS = {
    "asyncssh": {"tunnel", "demo"},
    "sqlite3": {"jobs"},
    "typer": {"cli"},
    "dbus_fast": {"watch"},
}


@dataclass(frozen=True)
class Import:
    importer: str  # dotted, below comfytunnel: "tunnel.ssh"
    imported: str  # the same, or a foreign top-level name if `foreign`
    line: int
    foreign: bool
    late: bool  # inside a function
    typing: bool  # under TYPE_CHECKING

    def __str__(self) -> str:
        return f"{self.importer} line {self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room that a module stands in; the nouns stand for themselves."""
    if module in ROOT:
        return "app"
    return module if module in NOUNS else module.partition(".")[0]


def imports_of(module: str, text: str) -> Iterator[Import]:
    def visit(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield found(alias.name, node.lineno, late, typing)
            case ast.ImportFrom(module=None):
                raise AssertionError(f"{module} line {node.lineno}: a relative import")
            case ast.ImportFrom(module=str(source), level=level, names=names):
                assert level == 0, f"{module} line {node.lineno}: a relative import"
                for alias in names:
                    whole = f"{source}.{alias.name}"
                    is_module = whole.removeprefix("comfytunnel.") in FILES
                    yield found(whole if is_module else source, node.lineno, late, typing)
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        only_types = typing or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, only_types)

    def found(name: str, line: int, late: bool, typing: bool) -> Import:
        top, _, rest = name.partition(".")
        ours = top == "comfytunnel"
        return Import(module, rest if ours else top, line, not ours, late, typing)

    return visit(ast.parse(text), late=False, typing=False)


IMPORTS = [found for module, path in FILES.items() for found in imports_of(module, path.read_text("utf-8"))]


def wrongs(imports: list[Import]) -> list[str]:
    """Every import that breaks a wall, in words."""
    told = []
    for found in imports:
        room = room_of(found.importer)
        if found.foreign:
            if found.imported in OWNERS and room not in OWNERS[found.imported]:
                told.append(f"{found}, which belongs to {', '.join(sorted(OWNERS[found.imported]))}")
            continue
        target = room_of(found.imported)
        if found.imported == "" or target == room:  # comfytunnel itself holds the version, and nothing else
            continue
        if target in ROOMS[room] | BESIDES.get(found.importer, set()) or (
            (found.late or found.typing) and target in LATE.get(room, ())
        ):
            continue
        told.append(str(found))
    return told


def test_every_module_stands_in_a_room() -> None:
    homeless = {room_of(module) for module in FILES if module} - set(ROOMS)
    assert not homeless, f"put {sorted(homeless)} into ROOMS"


def test_no_import_breaks_a_wall() -> None:
    assert wrongs(IMPORTS) == []


def test_handlers_do_not_know_the_server_that_routes_to_them() -> None:
    assert [
        str(found)
        for found in IMPORTS
        if found.imported == "api.server" and found.importer not in ("app", "api.tcp")
    ] == []


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checkers only may go back within one room: nothing runs at import."""
    graph: dict[str, set[str]] = {module: set() for module in FILES}
    for found in IMPORTS:
        back = found.typing and room_of(found.importer) == room_of(found.imported)
        if found.imported in FILES and found.imported and not back:
            graph[found.importer].add(found.imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=name or "comfytunnel") for name, path in FILES.items()]
)
def test_a_file_is_short_and_says_its_law(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= LINES_MOST, "split it"
    assert ast.get_docstring(ast.parse(text)), "a file opens with what lives here and what is never done here"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("tunnel.ssh", "import comfytunnel.comfy.client"),
        ("tunnel.ssh", "from comfytunnel.jobs.model import Job"),
        ("tunnel.ssh", "from comfytunnel import app"),
        ("jobs.run", "from comfytunnel.tunnel.driver import Driver"),
        ("jobs.run", "from comfytunnel.tunnel.state import Phase"),
        ("jobs.run", "import asyncssh.public_key"),
        ("jobs.model", "from comfytunnel.jobs.store import Store"),
        ("jobs.run", "if TYPE_CHECKING:\n    from comfytunnel.api.server import Server"),
        ("watch.world", "def late():\n    from comfytunnel.tunnel.driver import Driver"),
        ("watch.world", "from comfytunnel.assembly import Assembly"),
        ("tunnel.driver", "from comfytunnel.watch.world import World"),
        ("jobs.run", "from comfytunnel.watch.sleep import Sleep"),
        ("notify", "def late():\n    import dbus_fast"),
        ("cli.main", "from comfytunnel import app"),
        ("demo.remote", "from comfytunnel.tunnel.ssh import SshLink"),
        ("client", "from comfytunnel.comfy.client import Client"),
        ("api.server", "def late():\n    import sqlite3"),
        ("wire", "from comfytunnel.tunnel.driver import View"),
        ("api.doctor", "from comfytunnel.doctor.road import examine"),
        ("tunnel.look", "from comfytunnel.doctor.chain import Chain"),
    ],
)
def test_these_imports_would_break_a_wall(module: str, text: str) -> None:
    assert len(wrongs(list(imports_of(module, text)))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("cli.main", "def command():\n    from comfytunnel import app"),
        ("wire", "from comfytunnel.tunnel.state import Phase\nfrom comfytunnel.jobs.model import Job"),
        ("tunnel.ssh", "import asyncssh\nfrom comfytunnel.tunnel import keys\nfrom comfytunnel import feed"),
        ("api.tunnels", "from comfytunnel.tunnel.driver import View"),
        (
            "watch.world",
            "from comfytunnel.tunnel.state import RouteChanged\nfrom comfytunnel.watch import route",
        ),
        ("watch.logind", "def late():\n    import dbus_fast"),
        ("assembly", "from comfytunnel.watch.world import World"),
    ],
)
def test_these_imports_would_not(module: str, text: str) -> None:
    assert wrongs(list(imports_of(module, text))) == []
