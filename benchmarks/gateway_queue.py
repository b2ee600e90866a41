"""The gateway's queue on disk, against the queue in memory that it replaced.

Both are driven from outside, over HTTP, in turn, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from common import BENCH, ROOT, WARM_UPS, Skipped, prompt, size
from http_load import Endpoint, cancel, percentile, polling, rate, sdk_workers, submit
from measured_gateway import MeasuredGateway, measured_gateway

IN_MEMORY = "8c48db6"
"""The last commit whose gateway had its jobs in memory."""

_CLIENTS = 32
_WORKERS = 8
_POLLERS = size(500, 20)
_LIMITS = {
    "queued_jobs": 5000,
    "runsync_retention": 86400,
    "run_retention": 86400,
    "memory_bytes": 2**30,
}
"""Nothing ends while it is measured."""


def bench_jobs() -> None:
    """Tiny jobs a second, and how late the event loop is meanwhile."""
    with _in_turn(workers=_WORKERS) as (disk, memory):
        asyncio.run(_rates("gateway-jobs: workers in its process", disk, memory, "in memory"))
    with _in_turn() as (disk, memory):
        asyncio.run(_rates("gateway-jobs: workers by HTTP", disk, memory, "in memory", http=True))


def bench_submit() -> None:
    """How long a submission takes while 500 clients ask for their jobs."""
    with _in_turn() as (disk, memory):
        asyncio.run(_submissions("gateway-submit", disk, memory, "in memory"))


def bench_stored() -> None:
    """The same two with 100,000 finished jobs on the disk, against the same gateway without."""
    stored = size(100_000, 100)
    with ExitStack() as stack:
        full, empty = (
            stack.enter_context(measured_gateway(workers=_WORKERS, limits=_LIMITS))
            for _ in range(2)
        )
        asyncio.run(rate(full.endpoint, stored, clients=_CLIENTS))
        numbers = full.numbers()
        print(
            f"gateway-stored: {stored} finished jobs: {numbers['memory'] / 2**20:.0f} MiB in "
            f"memory (with none {empty.numbers()['memory'] / 2**20:.0f} MiB)"
        )
        asyncio.run(_rates("gateway-stored", full, empty, "with none"))
        asyncio.run(_submissions("gateway-stored", full, empty, "with none"))


def bench_results() -> None:
    """What large and small results take in memory, and in the database's log."""
    for jobs, result in ((size(5000, 20), 200_000), (size(20_000, 50), 4000)):
        with measured_gateway(workers=_WORKERS, result=result, limits=_LIMITS) as gateway:
            found = asyncio.run(rate(gateway.endpoint, jobs, clients=_CLIENTS))
            numbers = gateway.numbers()
        print(
            f"gateway-results: {jobs} results of {result} bytes, {found:.0f} a second: peak "
            f"memory {numbers['peak_memory'] / 2**20:.0f} MiB, largest WAL "
            f"{numbers['largest_wal'] / 2**20:.1f} MiB, the loop is late by "
            f"{1000 * numbers['late']['99']:.1f} ms at the 99th percentile"
        )


def bench_growth() -> None:
    """What 20,000 tiny jobs leave behind in the process."""
    jobs = size(20_000, 50)
    with measured_gateway(workers=_WORKERS, limits=_LIMITS) as gateway:
        asyncio.run(rate(gateway.endpoint, jobs // 10, clients=_CLIENTS))
        before = gateway.numbers()
        asyncio.run(rate(gateway.endpoint, jobs, clients=_CLIENTS))
        after = gateway.numbers()
    more = {
        name: after[name] - before[name]
        for name in ("objects", "descriptors", "threads", "tasks", "temporary_files")
    }
    print(
        f"gateway-growth: after {jobs} tiny jobs {after['memory'] / 2**20:.0f} MiB, before "
        f"{before['memory'] / 2**20:.0f} MiB; more "
        + ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in more.items())
    )


async def _rates(
    what: str,
    ours: MeasuredGateway,
    theirs: MeasuredGateway,
    against: str,
    *,
    http: bool = False,
) -> None:
    rates: tuple[list[float], list[float]] = ([], [])
    late: tuple[list[float], list[float]] = ([], [])
    work: tuple[list[float], list[float]] = ([], [])
    jobs = size(1500, 50)
    for turn in range(-WARM_UPS, size(12, 1)):
        for index, gateway in enumerate((ours, theirs)):
            async with _workers(gateway.endpoint, http):
                gateway.numbers()
                found = await rate(gateway.endpoint, jobs, clients=_CLIENTS)
                numbers = gateway.numbers()
            if turn >= 0:
                rates[index].append(found)
                late[index].append(numbers["late"]["99"])
                work[index].append(numbers["processor_time"] / jobs)
    print(
        f"{what}: {statistics.median(rates[0]):.0f} jobs a second, {against} "
        f"{statistics.median(rates[1]):.0f}, {_ratio(*rates)}; "
        f"{1000 * statistics.median(work[0]):.2f} ms of processor time a job, {against} "
        f"{1000 * statistics.median(work[1]):.2f} ms; the loop is late by "
        f"{1000 * statistics.median(late[0]):.1f} ms at the 99th percentile, {against} "
        f"{1000 * statistics.median(late[1]):.1f} ms"
    )


@asynccontextmanager
async def _workers(endpoint: Endpoint, http: bool) -> AsyncIterator[None]:
    if http:
        async with sdk_workers(endpoint, _WORKERS):
            yield
    else:
        yield


async def _submissions(
    what: str, ours: MeasuredGateway, theirs: MeasuredGateway, against: str
) -> None:
    """A submission every 20 ms; half of the pollers' jobs have ended, the others wait."""
    both = (ours, theirs)
    polled = [await _jobs_to_poll(gateway.endpoint) for gateway in both]
    worst: tuple[list[float], list[float]] = ([], [])
    middle: tuple[list[float], list[float]] = ([], [])
    late: tuple[list[float], list[float]] = ([], [])
    for _ in range(size(8, 1)):
        for index, gateway in enumerate(both):
            with polling(gateway.endpoint, polled[index], every=1.0):
                gateway.numbers()
                ids, took = await submit(
                    gateway.endpoint, size(500, 20), every=0.02, given=prompt(1)
                )
                late[index].append(gateway.numbers()["late"]["99"])
            await cancel(gateway.endpoint, ids)
            worst[index].append(percentile(took, 99))
            middle[index].append(statistics.median(took))
    print(
        f"{what}: a submission with {_POLLERS} pollers: {1000 * statistics.median(worst[0]):.1f} "
        f"ms at the 99th percentile, {against} {1000 * statistics.median(worst[1]):.1f} ms, "
        f"{_ratio(*worst)}; median {1000 * statistics.median(middle[0]):.1f} ms, {against} "
        f"{1000 * statistics.median(middle[1]):.1f} ms; the loop is late by "
        f"{1000 * statistics.median(late[0]):.1f} ms at the 99th percentile, {against} "
        f"{1000 * statistics.median(late[1]):.1f} ms"
    )


async def _jobs_to_poll(endpoint: Endpoint) -> list[str]:
    half = _POLLERS // 2
    ended, _ = await submit(endpoint, half, every=0.0, given=prompt(1))
    await cancel(endpoint, ended)
    waiting, _ = await submit(endpoint, half, every=0.0, given=prompt(1))
    return ended + waiting


@contextmanager
def _in_turn(workers: int = 0) -> Iterator[tuple[MeasuredGateway, MeasuredGateway]]:
    with ExitStack() as stack:
        disk, memory = (
            stack.enter_context(measured_gateway(version=version, workers=workers, limits=_LIMITS))
            for version in (None, checkout(IN_MEMORY))
        )
        yield disk, memory


def checkout(commit: str) -> Path:
    """A folder with the package as it was at that commit, below ``.bench``.

    Raises:
        Skipped: This is no clone of the repository that has that commit.
    """
    folder = BENCH / commit
    if not (folder / "comfy_remote").exists():
        try:
            packed = subprocess.run(
                ["git", "-C", str(ROOT), "archive", commit, "comfy_remote"],
                capture_output=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            raise Skipped(f"there is no commit {commit} here") from None
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
