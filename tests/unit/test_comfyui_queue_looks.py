"""One look at ComfyUI's queue serves all who follow a prompt in it."""

from __future__ import annotations

import asyncio

import pytest

from comfy_remote.errors import TargetError
from comfy_remote.targets.comfyui.queue import QueueItem
from comfy_remote.targets.comfyui.queue_looks import Queue, QueueLooks


class ComfyUI:
    """Its queue, which is answered when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails = False
        self.now = 100.0

    def looks(self) -> QueueLooks:
        return QueueLooks(self.queue, fresh=1.0, clock=lambda: self.now)

    async def queue(self) -> Queue:
        self.asked += 1
        answer = [QueueItem(float(n), name, ()) for n, name in enumerate(self.waiting)]
        await self.may_answer.wait()
        if self.fails:
            raise TargetError("away")
        return [], answer


async def test_one_look_serves_all_whose_prompts_it_has() -> None:
    comfyui = ComfyUI()
    looks, comfyui.waiting = comfyui.looks(), [f"p{number}" for number in range(200)]
    answers = await asyncio.gather(*map(looks.for_prompt, comfyui.waiting))
    assert comfyui.asked == 1
    assert [item.prompt_id for item in answers[7][1]] == comfyui.waiting
    comfyui.now += 0.9
    await looks.for_prompt("p3")
    assert comfyui.asked == 1
    comfyui.now += 0.2
    await looks.for_prompt("p3")
    assert comfyui.asked == 2


async def test_that_a_prompt_is_not_there_is_never_said_by_an_earlier_look() -> None:
    comfyui = ComfyUI()
    looks = comfyui.looks()
    comfyui.may_answer.clear()
    early = asyncio.create_task(looks.for_prompt("first"))
    while not comfyui.asked:
        await asyncio.sleep(0)
    comfyui.waiting = ["first", "late"]  # the look under way does not have them
    late = [asyncio.create_task(looks.for_prompt("late")) for _ in range(5)]
    await asyncio.sleep(0)
    comfyui.may_answer.set()
    assert await early == ([], [])  # it asked before
    for _, waiting in await asyncio.gather(*late):
        assert [item.prompt_id for item in waiting] == ["first", "late"]
    assert comfyui.asked == 2
    assert await looks.for_prompt("gone") == await comfyui.queue()
    assert comfyui.asked == 4


async def test_a_look_that_failed_is_not_remembered_and_one_who_goes_away_ends_it_for_nobody() -> (
    None
):
    comfyui = ComfyUI()
    looks, comfyui.waiting = comfyui.looks(), ["one"]
    comfyui.may_answer.clear()
    waits = [asyncio.create_task(looks.for_prompt("one")) for _ in range(3)]
    while not comfyui.asked:
        await asyncio.sleep(0)
    waits[0].cancel()
    comfyui.fails = True
    comfyui.may_answer.set()
    for wait in waits[1:]:
        with pytest.raises(TargetError, match="away"):
            await wait
    comfyui.fails = False
    assert len((await looks.for_prompt("one"))[1]) == 1
    assert comfyui.asked == 2
    await looks.stop()
