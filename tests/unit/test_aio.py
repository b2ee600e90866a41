"""Waiting and working side by side: results, errors, time, and cancels that must not be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from virtual_time import in_virtual_time

from comfy_remote.aio import Background, Upcoming, concurrent_map, first_of, within


@in_virtual_time
async def test_results_and_errors() -> None:
    async def give(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def fail() -> None:
        raise KeyError("x")

    assert await within(give(3), 5) == 3
    assert await within(give(3), None) == 3
    with pytest.raises(KeyError):
        await within(fail(), 5)


@in_virtual_time
async def test_out_of_time() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        await within(work(), 0.01)
    assert ended == [True]


@in_virtual_time
async def test_a_cancel_at_the_very_moment_it_is_done() -> None:
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(done, 30))
    await asyncio.sleep(0.01)
    done.set_result("done")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@in_virtual_time
async def test_a_cancel_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    waiting = asyncio.create_task(within(work(), 30))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


@in_virtual_time
async def test_results_keep_their_order_and_four_run_at_a_time() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01 * (number % 3))
        running -= 1
        return number * number

    assert await concurrent_map(work, range(20)) == [n * n for n in range(20)]
    assert most == 4


@in_virtual_time
async def test_when_one_fails_the_others_have_ended() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise ValueError("the second")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(number)

    with pytest.raises(ValueError, match="the second"):
        await concurrent_map(work, range(3))
    assert sorted(ended) == [0, 2]


@in_virtual_time
async def test_what_runs_in_the_background_is_held_until_it_ends() -> None:
    background, ended = Background(), asyncio.Event()

    async def work(end: asyncio.Event) -> None:
        await end.wait()

    first, second = background.start(work(ended)), background.start(work(asyncio.Event()))
    assert len(background) == 2
    ended.set()
    await first
    await background.wait(0.01)
    assert len(background) == 1
    await background.stop()
    assert second.cancelled()
    assert len(background) == 0
    await background.wait(1)


@in_virtual_time
async def test_when_the_first_has_ended_the_others_end_with_the_context() -> None:
    async def give(value: int) -> int:
        return value

    async with first_of(give(3), asyncio.Event().wait()) as (quick, slow):
        assert quick.result() == 3
        assert not slow.done()
    assert slow.cancelled()


async def test_an_upcoming_item_is_waited_for_in_steps_and_not_lost() -> None:
    given: asyncio.Queue[int] = asyncio.Queue()
    ended: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            while (item := await given.get()) >= 0:
                yield item
        finally:
            ended.append("closed")

    async with Upcoming(items()) as upcoming:
        assert not await upcoming.within(0)
        given.put_nowait(1)
        assert await upcoming.within(None)
        assert await upcoming.within(0)  # it is still there
        assert await upcoming.take() == 1
        given.put_nowait(2)
        assert await upcoming.take() == 2
        assert not await upcoming.within(-1)
    assert ended == ["closed"]  # also while it was waited for

    async with Upcoming(items()) as upcoming:
        given.put_nowait(-1)
        assert await upcoming.within(None)
        with pytest.raises(StopAsyncIteration):
            await upcoming.take()
