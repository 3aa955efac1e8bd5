"""What the log looks like to the journal, to a program and to a person."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator

import pytest
import structlog

from comfytunnel import log


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The set-up is the process's: give it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_journal_gets_a_priority_on_every_line_and_no_time() -> None:
    out = io.StringIO()
    log.setup("debug", "journal", stream=out)
    logger = structlog.get_logger("t")
    logger.info("tunnel up", name="default", why="all is well", detail=None)
    logger.warning("bad\x1b[31m news", empty="")
    try:
        raise ValueError("bo\x1b[2Jom")
    except ValueError:
        logger.exception("failed")
    lines = out.getvalue().splitlines()
    assert lines[0] == "<6>tunnel up name=default why='all is well'"
    assert lines[1] == "<4>bad news empty=''"
    assert lines[2] == "<3>failed"
    assert lines[-1] == "<3>ValueError: boom"
    assert all(line.startswith("<3>") for line in lines[2:])


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    log.setup("info", "json", stream=out)
    structlog.get_logger("t").error("x", count=2)
    found = json.loads(out.getvalue())
    assert (found["event"], found["level"], found["count"]) == ("x", "error", 2)
    assert found["timestamp"].endswith("Z")


def test_below_the_level_nothing_is_written_and_libraries_are_quiet() -> None:
    out = io.StringIO()
    log.setup("info", "journal", stream=out)
    structlog.get_logger("t").debug("no")
    logging.getLogger("asyncssh").info("no")
    logging.getLogger("asyncssh").warning("Connection lost to %s", "host\x1b[2J")
    assert out.getvalue() == "<4>Connection lost to host\n"


def test_no_colours_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    log.setup("info", "auto", stream=out, environ={"JOURNAL_STREAM": "1:2"})
    structlog.get_logger("t").info("hello", a=1)
    assert "\x1b" not in out.getvalue()
    assert "hello" in out.getvalue()


def test_the_journal_is_known_by_its_own_stream_only() -> None:
    """JOURNAL_STREAM is inherited: a child whose stderr goes to a file must not write priorities into it."""
    with tempfile.TemporaryFile("w+") as file:
        found = os.fstat(file.fileno())
        for named, is_journal in ((f"{found.st_dev}:{found.st_ino}", True), ("8:1", False)):
            file.seek(0)
            file.truncate()
            log.setup("info", "auto", stream=file, environ={"JOURNAL_STREAM": named})
            structlog.get_logger("t").info("hello")
            file.seek(0)
            assert file.read().startswith("<6>hello") is is_journal


def test_a_persons_log_shows_the_trace_and_obeys_none_of_it() -> None:
    out = io.StringIO()
    log.setup("info", "console", stream=out)
    try:
        raise ValueError("bo\x1b[2Jom")
    except ValueError:
        structlog.get_logger("t").exception("failed")
    assert "ValueError: boom" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_an_equal_fault_of_the_disk_is_a_warning_once_and_not_for_ever() -> None:
    """Whatever the job was; another reason is another fault, and what has no reason of the disk is always told."""
    now = [0.0]
    repeats = log._Repeats(drop=False, clock=lambda: now[0])

    def level(why: str, event: str = "state") -> str:
        return str(
            repeats(None, "", {"event": event, "level": "warning", "why": why, "job": now[0]})["level"]
        )

    assert [level("full"), level("full"), level("read-only")] == ["warning", "debug", "warning"]
    assert [level("lost", "tunnel"), level("lost", "tunnel")] == ["warning", "warning"]
    now[0] = log.AGAIN
    assert [level("full"), level("full")] == ["warning", "debug"]
    for number in range(log.FAULTS_KEPT):
        level(str(number))
    assert level("full") == "warning", "what is remembered is bounded"


def test_the_repeated_fault_is_not_written_at_info() -> None:
    out = io.StringIO()
    log.setup("info", "journal", stream=out)
    for job in range(3):
        structlog.get_logger("t").warning("state", job=job, why="full")
    assert out.getvalue() == "<4>state job=0 why=full\n"
