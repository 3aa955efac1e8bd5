"""The state table: one record for each phase, one event for each row, and what machine.step() makes of them.

docs/architecture.md carries it between two markers, test_table.py compares. After a change of the machine:
`python -m tests.tunnel.table` writes it anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfytunnel.tunnel.machine import Policy, Step, step
from comfytunnel.tunnel.state import (
    AboutToSleep,
    Answered,
    Ask,
    Cause,
    Code,
    ConfigChanged,
    Demand,
    DropLink,
    Effect,
    Elapsed,
    Event,
    Lost,
    Opened,
    OpenLink,
    Phase,
    Reconnect,
    Route,
    RouteChanged,
    Timer,
    TrustChanged,
    Tunnel,
    Unanswered,
    Want,
    Woke,
)

DOC = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- state table: begin -->", "<!-- state table: end -->"

NOW = 1000.0  # seconds; every link of the records below has come up at 0 and is not young
POLICY = Policy()
HERE, ELSEWHERE, NOWHERE = Route("192.0.2.1", True), Route("192.0.2.2", True), Route(None, True)

_some = Tunnel(since=900.0, wanted=True, route=HERE, failures=3, link=3, ask=7, rtt=0.1)
RECORDS: dict[str, Tunnel] = {
    "down": replace(_some, phase=Phase.DOWN, wanted=False, failures=0),
    "offline": replace(_some, phase=Phase.OFFLINE, until=NOW + 20, route=NOWHERE, cause=Cause(Code.NO_ROUTE)),
    "connecting": replace(_some, phase=Phase.CONNECTING),
    "up": replace(_some, phase=Phase.UP),
    "doubtful": replace(_some, phase=Phase.DOUBTFUL),
    "waiting": replace(
        _some, phase=Phase.WAITING, until=NOW + 20, cause=Cause(Code.CONNECT_REFUSED), failures=9
    ),
    "waiting, slowly": replace(_some, phase=Phase.WAITING, until=NOW + 20, cause=Cause(Code.AUTH_DENIED)),
    "halted": replace(_some, phase=Phase.HALTED, cause=Cause(Code.HOST_KEY_CHANGED)),
}

EVENTS: dict[str, Event] = {
    "Want(up)": Want(True),
    "Want(down)": Want(False),
    "Reconnect": Reconnect(),
    "ConfigChanged": ConfigChanged(),
    "TrustChanged": TrustChanged(),
    "RouteChanged, another": RouteChanged(ELSEWHERE),
    "RouteChanged, as before": RouteChanged(HERE),
    "RouteChanged, none": RouteChanged(NOWHERE),
    "RouteChanged, orphaned": RouteChanged(ELSEWHERE, orphaned=True),
    "Woke": Woke(5.0),
    "Woke, after long": Woke(600.0),
    "AboutToSleep, idle": AboutToSleep(streaming=False),
    "AboutToSleep, streaming": AboutToSleep(streaming=True),
    "Demand, begins": Demand(True),
    "Opened": Opened(3, 0.1),
    "Lost, retry": Lost(3, Cause(Code.CONNECTION_LOST)),
    "Lost, retry slowly": Lost(3, Cause(Code.AUTH_DENIED)),
    "Lost, halt": Lost(3, Cause(Code.HOST_KEY_CHANGED)),
    "Answered": Answered(7, 0.1),
    "Unanswered": Unanswered(7),
    "Elapsed": Elapsed(7),
    "Opened, stale": Opened(2),
    "Lost, stale": Lost(2, Cause(Code.HOST_KEY_CHANGED)),
    "Answered, stale": Answered(6),
    "Unanswered, stale": Unanswered(6),
    "Elapsed, stale": Elapsed(6),
}


def cell(record: Tunnel, event: Event) -> str:
    """`next phase: effects`; empty if nothing changes at all, `(noted)` if only the record remembers something."""
    return describe(record, step(record, event, NOW, POLICY))


def describe(before: Tunnel, outcome: Step) -> str:
    after, effects = outcome
    if after == before and not effects:
        return ""
    if after.phase is before.phase and not effects:
        return "(noted)"
    return ": ".join(filter(None, [after.phase.value, ", ".join(map(_word, effects))]))


def _word(effect: Effect) -> str:
    match effect:
        case OpenLink():
            return "open"
        case DropLink():
            return "drop"
        case Ask(_, after, _, _):
            return f"ask after {after:g} s" if after else "ask now"
        case Timer(_, seconds):
            return f"{seconds:g} s" if seconds >= POLICY.slow else "back-off"


def render() -> str:
    """The table in Markdown."""
    head = f"| event | {' | '.join(RECORDS)} |"
    rule = "|---" * (len(RECORDS) + 1) + "|"
    rows = [
        f"| {name} | {' | '.join(cell(record, event) for record in RECORDS.values())} |"
        for name, event in EVENTS.items()
    ]
    return "\n".join([head, rule, *rows])


def written(text: str) -> str:
    """What stands between the markers in the document's text."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    DOC.write_text(f"{before}{BEGIN}\n{render()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
