"""A worker that is kept ready costs money, and its user's caps hold for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_target import FakeTarget
from helpers import until
from owner import configure

from comfy_remote.errors import SpendingCap
from comfy_remote.events import JobState
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.keep_warm import WarmTimes
from comfy_remote.jobs.kept_ready import KEPT_READY, keep_ready
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.record.ledger import Booked, Booking
from comfy_remote.schedule.caps import Cap

# A second costs a dollar.
GPU = """
cap_per_day = 100
[targets.gpu]
target = "runpod:abc123xyz"
price_per_hour = 3600
"""
TIMES = WarmTimes(shortest=0.0)


class Endpoint(FakeTarget):
    """Its workers can be kept, and stop after two hundredths of a second."""

    name = "gpu"
    can_hold = True
    wakes = 0

    while_waking: Callable[[], object] = staticmethod(lambda: None)

    async def wake(self) -> None:
        self.wakes += 1
        self.while_waking()

    async def idle_time(self) -> float:
        return 0.02

    async def set_idle_time(self, seconds: float) -> None:
        raise AssertionError("it is long enough")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    configure(tmp_path / "home", GPU)
    with Record(tmp_path / "home") as made:
        yield made


def booked(record: Record) -> Booking:
    [booking] = [one for one in record.ledger.bookings(0.0) if one.workflow == KEPT_READY]
    return booking


async def test_what_it_costs_is_reserved_and_settled_without_what_ran(
    record: Record, tmp_path: Path
) -> None:
    ends = [time.time() + 60]
    async with Client(Endpoint(), record=record, on_interrupt=None) as client:
        began = time.time()
        keeping = asyncio.create_task(
            keep_ready(client, lambda: ends[0], folder=tmp_path, times=TIMES)
        )
        await until(lambda: bool(record.ledger.bookings(0.0)))
        held = booked(record)
        assert (held.booked, held.target) == (Booked.HELD, "gpu")
        assert held.reserved == pytest.approx(60, abs=30)
        with pytest.raises(SpendingCap, match=r"\$\d\d\.\d\d spent or reserved today"):
            await client.submit({"1": {"class_type": "KSampler", "inputs": {}}})
        job = await client.submit({"1": {"class_type": "KSampler", "inputs": {}}}, over_cap=True)
        await record.write(record.state, job.id, JobState.SUCCEEDED, billed=0.0)
        ends[0] = 0.0
        await keeping
        took = time.time() - began
    settled = booked(record)
    assert settled.booked is Booked.SETTLED
    assert settled.seconds is not None and 0 < settled.seconds <= took
    assert settled.amount == pytest.approx(settled.seconds)


async def test_the_time_of_runs_does_not_count_twice(record: Record, tmp_path: Path) -> None:
    ends = [time.time() + 60]
    async with Client(Endpoint(), record=record, on_interrupt=None) as client:
        keeping = asyncio.create_task(
            keep_ready(client, lambda: ends[0], folder=tmp_path, times=TIMES)
        )
        await until(lambda: bool(record.ledger.bookings(0.0)))
        job = await client.submit({"1": {"class_type": "KSampler", "inputs": {}}}, over_cap=True)
        await record.write(record.state, job.id, JobState.SUCCEEDED, billed=500.0)
        ends[0] = 0.0
        await keeping
    assert booked(record).amount == 0.0


async def test_no_worker_is_started_over_a_cap(record: Record, tmp_path: Path) -> None:
    endpoint = Endpoint()
    async with Client(endpoint, record=record, on_interrupt=None) as client:
        late = time.time() + 7200
        with pytest.raises(SpendingCap) as caught:
            await keep_ready(client, lambda: late, folder=tmp_path, times=TIMES)
        assert caught.value.message.startswith("Keeping a worker ready may cost $7,")
        assert endpoint.wakes == 0
        keeping = asyncio.create_task(
            keep_ready(client, lambda: late, over_cap=True, folder=tmp_path, times=TIMES)
        )
        await until(lambda: endpoint.wakes > 0)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert booked(record).booked is Booked.SETTLED


async def test_a_cancel_at_the_moment_in_which_the_worker_answers_ends_it(
    record: Record, tmp_path: Path
) -> None:
    endpoint = Endpoint()
    async with Client(endpoint, record=record, on_interrupt=None) as client:
        late = time.time() + 60
        keeping = asyncio.create_task(
            keep_ready(client, lambda: late, folder=tmp_path, times=TIMES)
        )
        endpoint.while_waking = keeping.cancel
        await asyncio.gather(keeping, return_exceptions=True)
    assert keeping.cancelled()
    assert endpoint.wakes == 1


async def test_it_is_kept_longer_only_as_far_as_a_cap_allows(
    record: Record,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("comfy_remote.jobs.kept_ready._LOOKS_EVERY", 0.01)
    began = time.time()
    ends = [began + 30]
    async with Client(Endpoint(), record=record, on_interrupt=None) as client:
        keeping = asyncio.create_task(
            keep_ready(client, lambda: ends[0], folder=tmp_path, times=TIMES)
        )
        await until(lambda: bool(record.ledger.bookings(0.0)))
        ends[0] = began + 90
        await until(lambda: booked(record).bound > 60)
        with caplog.at_level(logging.WARNING):
            ends[0] = began + 900
            await until(lambda: "is not kept longer" in caplog.text)
        assert "over the cap of $100.00 a day" in caplog.text
        assert record.ledger.used(Cap(100.0, "day")) == pytest.approx(90, abs=30)
        ends[0] = 0.0
        await keeping
