"""A type that two threads read for the first time: none of them may meet it half learnt (see decoding.py)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from comfytunnel.decoding import convert, decode, schemas

ROOT = Path(__file__).parents[1]
OWNER = ROOT / "daemon" / "comfytunnel" / "decoding.py"
DEADLINE = 20.0  # seconds

# The first thread stands still while it learns the hints of Inner: what Outer's class was given by then is a table of null pointers. The other one reads
# an Outer meanwhile, or would.
TWO_THREADS = """
import faulthandler
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from comfytunnel.decoding import convert, decode, decoder, schemas

begun, done = threading.Event(), threading.Event()


def halted():
    if not begun.is_set():
        begun.set()
        done.wait(0.5)
    return int


class Inner(msgspec.Struct):
    at: "halted()"


class Outer(msgspec.Struct):
    inner: Inner


def read(kind):
    value = {"inner": {"at": 7}}
    return WAY


def second():
    begun.wait()
    try:
        return read(Outer).inner.at
    finally:
        done.set()


faulthandler.enable()
with ThreadPoolExecutor(2) as pool:
    print(*[each.result() for each in (pool.submit(second), pool.submit(FIRST))])
"""
DECODE = "decode(msgspec.json.encode(value), kind)"
CONVERT = "convert(value, kind)"


@pytest.mark.parametrize(
    ("first", "way"),
    [
        pytest.param("lambda: read(Outer).inner.at", DECODE, id="decode"),
        pytest.param("lambda: read(Outer).inner.at", CONVERT, id="convert"),
        pytest.param("lambda: decoder(list[Outer]).decode('[]') or 7", DECODE, id="within another type"),
        pytest.param("lambda: len(schemas([Outer])[0]) and 7", DECODE, id="schema"),
    ],
)
def test_two_threads_read_a_type_for_the_first_time(first: str, way: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TWO_THREADS.replace("WAY", way).replace("FIRST", first)],
        cwd=ROOT / "daemon",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "7 7\n"), ran.stderr


def learning(text: str) -> Iterator[str]:
    """Where a module has msgspec learn a type, or takes a piece of msgspec under another name so that one could not see it."""
    tree = ast.parse(text)
    untyped = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords
    }
    within = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                wrong = any(
                    each.name.startswith("msgspec.") or (each.name == "msgspec" and each.asname)
                    for each in names
                )
            case ast.ImportFrom(module=str(source)):
                wrong = source.partition(".")[0] == "msgspec" and source != "msgspec.structs"
            case ast.Attribute(value=ast.Name(id="msgspec"), attr="json"):
                wrong = node not in within
            case ast.Attribute(value=ast.Name(id="msgspec"), attr=name):
                wrong = name in {"convert", "inspect", "msgpack", "toml", "yaml"}
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="msgspec"), attr="json"), attr="decode"):
                wrong = node not in untyped
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="msgspec"), attr="json"), attr=name):
                wrong = name not in {"encode", "format"}
            case _:
                continue
        if wrong:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_types_are_learnt_in_one_place() -> None:
    """The tests' processes have threads of ours as well."""
    files = {path for folder in ("daemon", "tests", "bench") for path in (ROOT / folder).rglob("*.py")} - {
        OWNER,
        Path(__file__),
    }
    assert len(files) > 100
    assert [f"{path} {found}" for path in sorted(files) for found in learning(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    "text",
    [
        "msgspec.json.decode(raw, type=Job)",
        "msgspec.json.decode(raw, **how)",
        "read = msgspec.json.decode",
        "msgspec.json.Decoder(Job)",
        "msgspec.json.schema(Job)",
        "msgspec.json.schema_components([Job])",
        "msgspec.convert(value, Job)",
        "msgspec.msgpack.Decoder(Job)",
        "msgspec.inspect.type_info(Job)",
        "json = msgspec.json",
        "from msgspec import convert",
        "from msgspec.json import Decoder",
        "import msgspec.json",
        "import msgspec as fast",
    ],
)
def test_another_place_is_seen(text: str) -> None:
    assert list(learning(text))


def test_what_learns_no_type_is_allowed() -> None:
    text = (
        "import msgspec\nfrom msgspec.structs import replace\n"
        "msgspec.json.encode(msgspec.json.decode(raw))\nmsgspec.json.format(raw, indent=2)\nmsgspec.structs.asdict(job)"
    )
    assert list(learning(text)) == []


class Place(msgspec.Struct):
    at: int


def test_a_type_is_read_from_json_and_from_plain_values() -> None:
    assert decode(b'{"at":1}', Place) == convert({"at": 1}, Place) == Place(1)
    assert convert("1", int, strict=False) == 1
    with pytest.raises(msgspec.ValidationError):
        convert("1", int)
    with pytest.raises(msgspec.DecodeError):
        decode(b"{", Place)
    found, parts = schemas([Place], "#/parts/{name}")
    assert (found, list(parts)) == ([{"$ref": "#/parts/Place"}], ["Place"])
