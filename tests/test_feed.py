"""A feed: the latest value and its readers."""

from __future__ import annotations

import asyncio

from comfytunnel.feed import Feed

DEADLINE = 5.0  # seconds


async def test_a_reader_gets_the_value_now_and_then_each_change() -> None:
    feed = Feed(1)
    seen = []
    async with asyncio.timeout(DEADLINE):
        async for value in feed.changes():
            seen.append(value)
            if value == 3:
                break
            feed.set(value + 1)
    assert seen == [1, 2, 3]


async def test_a_slow_reader_misses_values_in_between_and_never_the_last() -> None:
    feed = Feed(0)
    changes = feed.changes()
    assert await anext(changes) == 0
    for value in range(1, 100):
        feed.set(value)
    async with asyncio.timeout(DEADLINE):
        assert await anext(changes) == 99


async def test_an_equal_value_wakes_nobody() -> None:
    feed = Feed("same")
    changes = feed.changes()
    await anext(changes)
    reader = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    feed.set("same")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reader.done()
    feed.set("other")
    async with asyncio.timeout(DEADLINE):
        assert await reader == "other"


async def test_until_returns_at_once_if_the_value_is_there_and_wakes_all_who_wait() -> None:
    feed = Feed(5)
    assert await feed.until(lambda value: value == 5) == 5
    readers = [asyncio.create_task(feed.until(lambda value: value > 6)) for _ in range(3)]
    await asyncio.sleep(0)
    feed.set(6)
    await asyncio.sleep(0)
    feed.set(7)
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*readers) == [7, 7, 7]


async def test_a_value_that_comes_and_goes_between_two_looks_is_not_seen() -> None:
    feed = Feed(0)
    reader = asyncio.create_task(feed.until(lambda value: value == 1))
    await asyncio.sleep(0)
    feed.set(1)
    feed.set(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reader.done()
    feed.set(1)
    async with asyncio.timeout(DEADLINE):
        assert await reader == 1


async def test_a_reader_that_gives_up_leaves_the_feed_to_the_others() -> None:
    feed = Feed(0)
    leaver, stayer = (asyncio.create_task(feed.until(bool)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    feed.set(1)
    async with asyncio.timeout(DEADLINE):
        assert await stayer == 1
        assert (await asyncio.gather(leaver, return_exceptions=True))[0].__class__ is asyncio.CancelledError
