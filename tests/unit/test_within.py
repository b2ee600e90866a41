"""Waiting no longer than a while: results, errors, time, and cancels that must not be lost."""

from __future__ import annotations

import asyncio

import pytest

from comfy_remote.aio import within


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


async def test_a_cancel_at_the_very_moment_it_is_done() -> None:
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(done, 30))
    await asyncio.sleep(0.01)
    done.set_result("done")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


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
