"""What a service manager passes at the start, and what the environment may say wrongly about it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfytunnel.endpoints import Unix
from comfytunnel.fdstore import name_of
from tests.fakes.manager import becoming

TELL = """
import json, os, sys
from comfytunnel import fdstore
handed = fdstore.inherited()
one = handed.take("one")
print(json.dumps({
    "one": [[sock.fileno(), sock.getblocking(), sock.get_inheritable()] for sock in one],
    "rest": [[name, sock.fileno()] for name, sock in handed.take_all_but([])],
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
    "open": [fd for fd in range(3, 10) if os.path.exists(f"/dev/fd/{fd}")],
}))
"""


@pytest.fixture
def two() -> Iterator[list[int]]:
    """Two listening sockets."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield [one.fileno(), other.fileno()]


def told(fds: list[int], **said: str) -> dict[str, list[object]]:
    done = subprocess.run(
        [*becoming(fds), sys.executable, "-c", TELL],
        env=os.environ | {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": "one:two"} | said,
        pass_fds=fds,
        stdout=subprocess.PIPE,
        timeout=20,
        check=True,
    )
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


def test_each_socket_comes_under_its_name_and_goes_to_no_child(two: list[int]) -> None:
    """Non-blocking, not inheritable, and the variables are gone."""
    found = told(two)
    assert found["one"] == [[3, False, False]]
    assert found["rest"] == [["two", 4]]
    assert found["left"] == []


@pytest.mark.parametrize(
    "said",
    [
        {"LISTEN_PID": "1"},
        {"LISTEN_PID": ""},
        {"LISTEN_FDS": ""},
        {"LISTEN_FDS": "many"},
        {"LISTEN_FDS": "-2"},
        {"LISTEN_FDS": "99999999999"},
    ],
    ids=str,
)
def test_what_is_not_meant_for_this_process_or_no_number_is_left_alone(
    two: list[int], said: dict[str, str]
) -> None:
    found = told(two, **said)
    assert (found["one"], found["rest"], found["left"]) == ([], [], [])


@pytest.mark.parametrize("names", ["", "one", "one:two:three"])
def test_names_that_are_not_one_each_name_nothing(two: list[int], names: str) -> None:
    assert told(two, LISTEN_FDNAMES=names)["rest"] == [["unknown", 3], ["unknown", 4]]


@pytest.mark.parametrize("name", ["", "a\nREADY=1", "ä", "x" * 256])
def test_a_name_that_no_manager_would_give_is_none(two: list[int], name: str) -> None:
    """It would be sent back to the manager as a part of a message."""
    assert told(two, LISTEN_FDNAMES=f"one:{name}")["rest"] == [["unknown", 4]]


def test_more_is_said_than_passed(two: list[int]) -> None:
    assert told(two, LISTEN_FDS="9999")["rest"] == [["unknown", 3], ["unknown", 4]]


def test_a_file_is_no_socket_and_stays_open(two: list[int], tmp_path: Path) -> None:
    """Its number may be somebody else's in this process."""
    with (tmp_path / "file").open("w") as file:
        found = told([file.fileno(), two[0]])
    assert found["one"] == []
    assert found["rest"] == [["two", 4]]
    assert 3 in found["open"]


def test_the_path_of_a_door_may_be_as_long_as_a_path_can_be() -> None:
    """Quoted it would be too long for a name in the store."""
    long = Unix(Path("/" + "ü" * 53))
    assert len(name_of(long)) < 255
    assert name_of(long) != name_of(Unix(Path("/" + "ä" * 53)))
