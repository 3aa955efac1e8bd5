"""What the kernel says of loopback, which every machine has; real routes are in test_network.py."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from comfytunnel.tunnel.state import Route
from comfytunnel.watch.route import address_exists, default_address, local_address
from tests.watch.conftest import need


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one more file can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_route_to_loopback_leads_from_loopback() -> None:
    assert local_address("127.0.0.1") == Route("127.0.0.1", known=True)


def test_a_name_is_not_looked_up_but_unknown() -> None:
    assert local_address("localhost") == Route()
    assert address_exists("localhost")


def test_an_address_that_the_kernel_never_routes_has_no_route() -> None:
    need()
    assert local_address("255.255.255.255") == Route(None, known=True)


def test_the_scope_of_a_link_local_address_names_an_interface_that_must_exist() -> None:
    assert local_address("fe80::1%nosuch0") == Route(None, known=True)
    assert not address_exists("fe80::1%nosuch0")


def test_an_address_exists_if_it_is_ours() -> None:
    assert address_exists("127.0.0.1")
    assert not address_exists("203.0.113.7")


def test_without_means_to_ask_nothing_is_called_gone_or_unreachable() -> None:
    with no_descriptors():
        route, exists, default = local_address("127.0.0.1"), address_exists("203.0.113.7"), default_address()
    assert route == Route()
    assert route.usable
    assert exists
    assert default is None


@pytest.mark.parametrize("junk", ["", "127.0.0.1:22", "x" * 1000, "\0"])
def test_junk_instead_of_an_address_is_unknown(junk: str) -> None:
    assert local_address(junk) == Route()
