"""`status --history`, and an outage in `events`: words and JSON."""

from __future__ import annotations

import json

from comfytunnel import wire
from tests.api.conftest import Api, an_outage
from tests.cli.conftest import Cli

LINES = """2026-01-02 03:04:05  default: 12.5 s. The connection was lost: the other side went silent.
  silent, noticed by asking after 9.0 s, back 3.5 s later; 3 callers held, 1 lost"""


async def test_status_history_prints_for_people_and_as_json(api: Api, cli: Cli) -> None:
    cli.environ["TZ"] = "UTC"
    assert (await cli("status", "--history")).out == "No outage is on record.\n"
    api.outages.add(an_outage())
    hostile = wire.Cause("connect_refused", "no \x1b[31mway")
    api.tunnels.outages["default"] = an_outage(
        ended=None, recover_seconds=None, last_failure=hostile, detected_by="sleep", seconds=600.0
    )
    ran = await cli("status", "--history")
    assert ran.code == 0
    first, rest = ran.out.split("\n2026", 1)
    assert f"2026{rest}" == f"{LINES}\n"
    assert "10 min so far" in first
    assert "closed before the sleep" in first
    assert "2 tries; the last that failed: no " in first
    assert "\x1b" not in ran.out
    told = json.loads((await cli("status", "--history", "--json")).out)
    assert [found["seconds"] for found in told] == [600.0, 12.5]


async def test_events_shows_an_outage_on_a_line(api: Api, cli: Cli) -> None:
    async with cli.running("events") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        api.outages.add(an_outage(recover_seconds=None))
        line = (await process.stdout.readline()).decode()
    assert "outage default: 12.5 s, not recovered. The connection was lost" in line
