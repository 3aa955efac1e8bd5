"""compare(): what a difference of two snapshots means to a tunnel, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comfytunnel.tunnel.state import Route, RouteChanged
from comfytunnel.watch.snapshot import Snapshot, compare

WIFI, WIRE, SIX = "192.168.1.5", "10.0.0.7", "2001:db8::5"
HOP, OTHER_HOP = "198.51.100.9", "198.51.100.10"


def at(address: str | None, *, local: str | None = None, gone: bool = False) -> Snapshot:
    """The first hop is known, and everything leads from one address."""
    return Snapshot(HOP, Route(address, known=True), address, local, gone)


def blind(default: str | None) -> Snapshot:
    """The first hop is not known yet, or a proxy."""
    return Snapshot(None, Route(default, known=False), default, None, gone=False)


LINKED = at(WIFI, local=WIFI)
OFFLINE = at(None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(LINKED, LINKED, id="nothing at all"),
        pytest.param(at(WIFI), LINKED, id="the link came up meanwhile"),
        pytest.param(LINKED, at(WIFI), id="the link ended meanwhile"),
        pytest.param(OFFLINE, OFFLINE, id="offline stays offline"),
        pytest.param(LINKED, replace(LINKED, default=WIRE), id="the default route moved, the one to the hop did not"),
        pytest.param(blind(WIFI), at(WIFI), id="the first hop became known"),
        pytest.param(blind(WIFI), replace(LINKED, route=Route(SIX, known=True), local=SIX), id="it became known, over IPv6"),
        pytest.param(LINKED, replace(LINKED, peer=OTHER_HOP, route=Route(SIX, known=True)), id="another first hop"),
        pytest.param(LINKED, blind(WIFI), id="the first hop is a proxy now"),
        pytest.param(
            replace(LINKED, gone=True), replace(LINKED, gone=True), id="the same address is still gone"
        ),
    ],
)  # fmt: skip
def test_what_does_not_concern_the_tunnel_is_nothing_and_says_why(before: Snapshot, after: Snapshot) -> None:
    found = compare(before, after)
    assert found.event is None
    assert found.reason


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        pytest.param(
            LINKED, at(WIRE, local=WIFI), RouteChanged(Route(WIRE, known=True)), id="another interface, the address stays"
        ),
        pytest.param(
            LINKED, at(WIRE, local=WIFI, gone=True), RouteChanged(Route(WIRE, known=True), orphaned=True), id="moved"
        ),
        pytest.param(
            LINKED, at(WIFI, local=WIRE, gone=True), RouteChanged(Route(WIFI, known=True), orphaned=True), id="only gone"
        ),
        pytest.param(LINKED, at(None, local=WIFI), RouteChanged(Route(None, known=True)), id="no route"),
        pytest.param(
            LINKED, at(None, local=WIFI, gone=True), RouteChanged(Route(None, known=True), orphaned=True), id="gone and no route"
        ),
        pytest.param(OFFLINE, LINKED, RouteChanged(Route(WIFI, known=True)), id="a route again"),
        pytest.param(OFFLINE, blind(None), RouteChanged(Route(None, known=False)), id="no longer known that there is none"),
        pytest.param(blind(None), blind(WIFI), RouteChanged(Route(WIFI, known=False)), id="a network while the hop is unknown"),
        pytest.param(blind(WIFI), at(WIRE), RouteChanged(Route(WIRE, known=True)), id="the hop became known on a new network"),
        pytest.param(blind(WIFI), OFFLINE, RouteChanged(Route(None, known=True)), id="it became known without a route"),
    ],
)  # fmt: skip
def test_what_concerns_the_tunnel_is_told_with_the_new_route(
    before: Snapshot, after: Snapshot, event: RouteChanged
) -> None:
    found = compare(before, after)
    assert found.event == event
    assert found.reason


def test_an_event_is_never_one_that_the_machine_holds_for_no_change() -> None:
    """The machine ignores a route equal to the one it was told last, unless the link is orphaned."""
    every = [LINKED, at(WIRE), OFFLINE, blind(None), blind(WIFI), blind(WIRE)]
    for before in every:
        for after in every:
            event = compare(before, after).event
            assert event is None or event.orphaned or event.route != before.route
