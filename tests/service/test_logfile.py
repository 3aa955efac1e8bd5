"""`logs --since` where the log is a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from comfytunnel.errors import NotFoundError, UsageError
from comfytunnel.service.logfile import moment, newer, show

NOW = datetime(2026, 3, 5, 14, 30, 10)  # noqa: DTZ001 - a clock on the wall, as in the file
LINES = [
    "an old trace\n",
    "2026-03-05 14:00:00 [info] one\n",
    "2026-03-05 14:20:00 [error] two\n",
    "  its trace\n",
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10 min ago", "2026-03-05 14:20:10"),
        ("2h", "2026-03-05 12:30:10"),
        ("today", "2026-03-05 00:00:00"),
        ("yesterday", "2026-03-04 00:00:00"),
        ("08:15", "2026-03-05 08:15:00"),
        ("2026-01-31 12:00", "2026-01-31 12:00:00"),
    ],
)
def test_a_time_is_read_as_journalctl_reads_it(text: str, wanted: str) -> None:
    assert str(moment(text, NOW)) == wanted


def test_what_is_no_time_is_said() -> None:
    with pytest.raises(UsageError, match="no time"):
        moment("soon", NOW)


def test_the_lines_since_then_with_those_that_belong_to_them() -> None:
    assert list(newer(LINES, moment("14:10", NOW))) == LINES[2:]


def test_the_rest_is_shown_by_tail(tmp_path: Path) -> None:
    log = tmp_path / "l"
    told: list[str] = []
    with pytest.raises(NotFoundError):
        show(log, None, follow=False, tell=told.append)
    log.write_text("".join(LINES))
    assert show(log, None, follow=True, tell=told.append) == ["tail", "-n", "200", "-F", str(log)]
    assert show(log, "2026-03-05 14:10", follow=False, tell=told.append) is None
    assert told == [line.rstrip("\n") for line in LINES[2:]]
