"""A few things at a time: in order, never too many, and all ended when one fails."""

from __future__ import annotations

import asyncio

import pytest

from comfy_remote.aio import concurrent_map


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
