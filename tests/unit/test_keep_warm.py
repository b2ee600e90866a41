"""Workers that are kept waiting: how often they are asked, and until when."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click
import pytest

from comfy_remote.cli.targets.warm import moment
from comfy_remote.errors import ConfigurationError, TargetUnreachable
from comfy_remote.jobs.keep_warm import WarmTimes, keep_warm
from comfy_remote.targets.base import Health


class Endpoint:
    """As much of a target as it takes."""

    name, server, can_hold = "gpu", {"endpoint": "ep"}, True

    def __init__(self, idle: float) -> None:
        self.idle, self.set_to = idle, list[float]()
        self.wakes, self.running, self.broken = 0, 0, False
        self.woken, self.asked = asyncio.Event(), asyncio.Event()

    async def wake(self) -> None:
        self.woken.set()
        if self.broken:
            raise TargetUnreachable("gpu could not be reached.")
        self.wakes += 1

    async def health(self) -> Health:
        self.asked.set()
        return Health(0, self.running, 0)

    async def idle_time(self) -> float:
        return self.idle

    async def set_idle_time(self, seconds: float) -> None:
        self.idle = seconds
        self.set_to.append(seconds)


def keeping(
    endpoint: Any, folder: Path, until: list[float], times: WarmTimes
) -> asyncio.Task[None]:
    # A stand-in: the protocol has methods that are not used here.
    return asyncio.ensure_future(keep_warm(endpoint, lambda: until[0], folder=folder, times=times))


async def again(happens: asyncio.Event) -> None:
    happens.clear()
    await asyncio.wait_for(happens.wait(), 60)


@pytest.fixture(autouse=True)
def it_is_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("HoldsWorkers", "WakesWorkers"):
        monkeypatch.setattr(f"comfy_remote.jobs.keep_warm.{module}", Endpoint)


async def test_a_worker_is_asked_before_it_stops_and_not_while_it_works(tmp_path: Path) -> None:
    endpoint, until = Endpoint(0.02), [time.time() + 60]
    task = keeping(endpoint, tmp_path, until, WarmTimes(shortest=0.0))
    while endpoint.wakes < 3:
        await again(endpoint.woken)
    endpoint.broken = True  # a network that is away for a moment ends nothing
    await again(endpoint.woken)
    endpoint.broken, endpoint.running = False, 1
    await again(endpoint.asked)  # a small job that was under way has ended by now
    before = endpoint.wakes
    for _ in range(3):
        await again(endpoint.asked)
    assert endpoint.wakes == before
    until[0] = time.time()
    await asyncio.wait_for(task, 60)
    assert endpoint.set_to == []


async def test_a_short_idle_time_is_made_longer_and_put_back(tmp_path: Path) -> None:
    endpoint, until = Endpoint(5), [time.time() + 0.05]
    await keeping(endpoint, tmp_path, until, WarmTimes())
    assert (endpoint.wakes, endpoint.set_to) == (1, [600, 5])


async def test_what_does_not_start_is_put_back_at_once(tmp_path: Path) -> None:
    endpoint = Endpoint(5)
    endpoint.broken = True
    with pytest.raises(TargetUnreachable):
        await keeping(endpoint, tmp_path, [time.time() + 60], WarmTimes())
    assert endpoint.set_to == [600, 5]
    endpoint.can_hold = False
    with pytest.raises(ConfigurationError, match="no idle workers"):
        await keeping(endpoint, tmp_path, [time.time() + 60], WarmTimes())


def test_a_moment_is_a_time_of_day_or_a_length_of_time() -> None:
    now = time.mktime((2026, 11, 30, 17, 0, 0, 0, 0, -1))

    def hours(typed: str) -> float:
        at = moment(None, None, typed, now=lambda: now)
        assert at is not None
        return (at - now) / 3600

    assert (hours("18:00"), hours("17:00"), hours("90m")) == (1, 24, 1.5)
    for wrong in ("25:00", "2d", "0m", "soon"):
        with pytest.raises(click.BadParameter):
            hours(wrong)
