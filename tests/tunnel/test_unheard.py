"""What a caller sends by a channel that was opened ahead, while nobody knows yet whether the link behind it is alive (decision 0011)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code, Phase
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import connected, inside
from tests.tunnel.conftest import DEADLINE, Near, becomes, config_for, idle, near, service
from tests.tunnel.test_caller import HandLink, knocking, next_link

GET = b"GET /history HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
POST = b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
GET_WITH_BODY = POST.replace(b"POST", b"GET")
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
OTHER = b"hello\n"  # neither HTTP nor anything else that we know


def unheard() -> HandLink:
    """A link that has a spare and has been silent since it was opened; its sign of life is `link.alive`'s to give."""
    link = HandLink()
    link.spoke = 0.0
    return link


# --- in which order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [POST, GET_WITH_BODY, GET + POST, OTHER])
async def test_what_may_not_be_sent_twice_waits_for_a_sign_of_life(request_: bytes) -> None:
    link = unheard()
    async with knocking(link) as (_, _, caller):
        caller.sendall(request_)
        await link.asked.wait()
        assert not any(told.startswith(request_[:3].decode()) for told in link.channel.told)
        link.alive.set_result(None)
        await becomes(lambda: request_.decode() in "".join(link.channel.told), "it is sent")


@pytest.mark.parametrize("request_", [POST, OTHER])
async def test_what_waited_for_a_sign_of_life_goes_by_the_next_link_instead(request_: bytes) -> None:
    first, second = unheard(), HandLink()
    async with knocking(first) as (door, view, caller):
        caller.sendall(request_)
        await first.asked.wait()
        (await first.sink).channel_lost(clean=False)
        first.alive.set_exception(LinkError(Cause(Code.CONNECTION_LOST)))
        next_link(view, second)
        await becomes(lambda: request_.decode() in second.channel.told, "it is sent")
        assert set(first.channel.told) <= {"abort"}
        assert not door.tally.lost


async def test_a_channel_that_is_lost_in_the_moment_of_the_sign_serves_nobody() -> None:
    first, second = unheard(), HandLink()
    async with knocking(first) as (_, view, caller):
        caller.sendall(POST)
        await first.asked.wait()
        first.alive.set_result(None)
        (await first.sink).channel_lost(clean=False)
        next_link(view, second)
        await becomes(lambda: POST.decode() in second.channel.told, "it is sent")
        assert not first.channel.told


@pytest.mark.parametrize("request_", [GET, HEAD, GET + HEAD])
async def test_what_changes_nothing_is_sent_at_once_and_again_by_the_next_link(request_: bytes) -> None:
    first, second = unheard(), HandLink()
    async with knocking(first) as (door, view, caller):
        caller.sendall(request_)
        await becomes(lambda: request_.decode() in first.channel.told, "it is sent")
        assert not first.asked.is_set()
        (await first.sink).channel_lost(clean=False)
        next_link(view, second)
        await becomes(lambda: request_.decode() in second.channel.told, "it is sent again")
        assert not door.tally.lost
        (await second.sink).data_received(ANSWER)
        assert await asyncio.get_running_loop().sock_recv(caller, 100) == ANSWER


async def test_a_request_on_a_link_that_was_heard_meanwhile_was_in_flight_and_is_reset() -> None:
    link, second = unheard(), HandLink()
    async with knocking(link) as (door, view, caller):
        caller.sendall(GET)
        await becomes(lambda: GET.decode() in link.channel.told, "it is sent")
        next_link(view, second)
        link.spoke = asyncio.get_running_loop().time()
        (await link.sink).channel_lost(clean=False)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(caller, 100)
        assert door.tally.lost == 1


async def test_a_request_behind_one_that_may_be_sent_twice_ends_that() -> None:
    """From then on more than the first would have to be sent again, and in part by nobody knows whom."""
    link, second = unheard(), HandLink()
    async with knocking(link) as (_, view, caller):
        caller.sendall(GET)
        await becomes(lambda: GET.decode() in link.channel.told, "it is sent")
        caller.sendall(POST)
        await becomes(lambda: POST.decode() in link.channel.told, "the next is sent, too")
        next_link(view, second)
        (await link.sink).channel_lost(clean=False)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(caller, 100)


async def test_a_caller_that_leaves_before_the_sign_of_life_is_not_delivered_and_leaves_no_channel() -> None:
    link = unheard()
    async with knocking(link) as (door, _, caller):
        caller.sendall(POST)
        await link.asked.wait()
        (inside_,) = door._callers
        inside_.reset()
        caller.close()
        await inside_.ended
        await becomes(lambda: link.channel.told == ["abort"], "its channel is given back")


async def test_a_service_that_speaks_first_is_heard_through_a_spare() -> None:
    link = unheard()
    async with knocking(link) as (_, _, caller):
        await link.asked.wait()
        link.alive.set_result(None)
        await becomes(lambda: link.channel.told == ["resume"], "the channel is read")
        (await link.sink).data_received(b"220 hello")
        assert await asyncio.get_running_loop().sock_recv(caller, 100) == b"220 hello"


# --- by real links --------------------------------------------------------------------------------------------------


async def test_calls_begun_after_a_silent_cut_are_served_once_each_by_the_next_link(
    sshd: Sshd, tmp_path: Path
) -> None:
    """More than there are spares, and nobody has noticed the cut when they come."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read(1000):
            got.append(data)
            writer.write(ANSWER)
            await writer.drain()

    async with (
        Relay(sshd.port) as relay,
        service(serve) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        for number, calls in enumerate(((GET, HEAD), (POST, OTHER), (GET, POST, OTHER)), 1):
            await spares(tunnel)
            got.clear()
            relay.swallow()
            assert await asyncio.gather(*map(tunnel.call, calls)) == [ANSWER] * len(calls)
            assert sorted(got) == sorted(calls)
            assert tunnel.record.link == number + 1
        assert not tunnel.door.tally.lost


async def test_a_post_by_a_spare_of_a_quiet_link_is_served_by_it(sshd: Sshd, tmp_path: Path) -> None:
    async with service(idle) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        await tunnel.up()
        await spares(tunnel)
        async with connected(tunnel.port) as (_, writer), asyncio.timeout(DEADLINE):
            writer.write(POST)
            await becomes(lambda: tunnel.door.tally.bytes_out == len(POST), "it is sent")
        assert (tunnel.record.phase, tunnel.record.link) == (Phase.UP, 1)


async def spares(tunnel: Near) -> None:
    view = tunnel.driver.view.value
    assert view.link is not None
    channels = inside(view.link)._channels
    await becomes(lambda: len(channels._spares) == 2, "spares are open")
