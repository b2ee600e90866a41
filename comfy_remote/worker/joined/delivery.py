"""Brings a worker's results to its gateway, for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from functools import partial

from pydantic import JsonValue
from pydantic_core import to_json

from ...aio import Signal, in_thread, within
from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    LocalStorageError,
    OutputError,
    OutputLost,
    TargetUnreachable,
)
from ...media.files import sha256_of
from ...media.receive import Received
from ...net.retry import Backoff, retry_after
from ...wire.joined import Held, HolderState
from ...wire.runpod import failure_to_runpod
from ..loop import TakenJob
from ..storage import StoredFile
from .client import Gateway, HelloWanted, Refused
from .spool import Spool, Spooled

__all__ = ["Delivery", "DeliveryTimes", "SpoolStore"]

_log = logging.getLogger(__name__)
_NOBODY_THERE = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """How long a delivery waits.

    Attributes:
        backoff: Between two tries; there is no last one.
        spool: Seconds between two tries to write a result for which the disk has no room.
        retention: Seconds between two looks for results that are too old.
    """

    backoff: Backoff = Backoff(first=0.5, longest=60.0)  # noqa: RUF009 - frozen
    spool: float = 5.0
    retention: float = 60.0


@dataclass(slots=True)
class _InMemory:
    """A result for which the disk has no room yet."""

    attempt: int
    content: bytes = field(repr=False)


class SpoolStore:
    """A `worker.storage.Store` for the large outputs of one worker's job: its spool."""

    public = False

    def __init__(self, spool: Spool, worker: str) -> None:
        self._spool = spool
        self._worker = worker
        self.job: TakenJob | None = None
        """The job that runs now."""

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file, to be delivered before the job's result.

        Raises:
            LocalStorageError: There is no room for it, or the job is not this worker's any more.
        """
        del filename
        job = self.job
        if job is None or job.id != job_id:
            raise LocalStorageError(f"Job {job_id} does not run here any more.")
        await in_thread(self._spool.add_file, self._worker, job_id, job.attempt, file)
        return StoredFile(url=f"files/{job_id}/{file.sha256}")


class Delivery:
    """Stores the results of one worker, and delivers them one after the other.

    A result is stored before the gateway hears of it, and deleted when it has answered.
    """

    def __init__(self, gateway: Gateway, spool: Spool, times: DeliveryTimes) -> None:
        self._gateway = gateway
        self._spool = spool
        self._times = times
        self._unwritten: dict[str, _InMemory] = {}
        self._given_up: set[Spooled] = set()
        self._changed = Signal()
        self._again = asyncio.Event()

    def held(self) -> list[Held]:
        """The results that wait."""
        ended = HolderState.ENDED
        waiting = [Held(job=one.job, attempt=one.attempt, state=ended) for one in self._waiting()]
        in_memory = self._unwritten.items()
        return waiting + [Held(job=job, attempt=one.attempt, state=ended) for job, one in in_memory]

    def lack_of_room(self) -> str:
        """Why no further job should be taken; empty if there is room. Blocks."""
        if self._unwritten:
            return f"The disk that holds {self._spool.folder} has no room for a result"
        return self._spool.lack_of_room()

    async def add(self, job: TakenJob, output: JsonValue, error: JsonValue) -> None:
        """Store a result, and have it delivered.

        While there is no room for it on the disk, it stays in memory.
        """
        given: JsonValue = {
            key: value for key, value in (("output", output), ("error", error)) if value is not None
        }
        content = await asyncio.to_thread(to_json, given, inf_nan_mode="null")
        try:
            await in_thread(self._spool.add, self._gateway.worker, job.id, job.attempt, content)
        except LocalStorageError as full:
            _log.error("The result of job %s is in memory only. %s", job.id, full)
            self._unwritten[job.id] = _InMemory(job.attempt, content)
        self.wake()

    async def drop(self, job: str, attempt: int) -> None:
        """Delete a result that the gateway has, or does not want; or what a job had stored."""
        self._unwritten.pop(job, None)
        await in_thread(self._spool.remove, self._gateway.worker, job, attempt)
        self._changed.notify()

    def wake(self) -> None:
        """Try now: there is something new, or the gateway answers again."""
        self._again.set()

    async def wait_until_empty(self) -> None:
        """Return when nothing waits any more."""
        while self._waiting() or self._unwritten:
            await self._changed.wait(60.0)

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            AuthenticationError: The gateway does not take the token any more.
        """
        failures = 0
        while True:
            self._again.clear()
            wait = self._times.retention
            problem: Exception | None = None
            deliveries = [partial(self._write_again, *one) for one in self._unwritten.items()]
            if deliveries:
                wait = self._times.spool
            deliveries += [partial(self._deliver, one) for one in await in_thread(self._tidied)]
            for deliver in deliveries:
                try:
                    await deliver()
                    failures = 0 if problem is None else failures
                except AuthenticationError:
                    raise
                except (ComfyRemoteError, HelloWanted, OSError) as error:
                    problem = error
                    if not _is_of_one_result(error):
                        break
            if problem is not None:
                failures += 1
                wait = self._wait_after(problem, failures)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._again.wait(), wait)

    def _wait_after(self, error: Exception, failures: int) -> float:
        """Seconds until the next try. There is no last one."""
        if isinstance(error, HelloWanted):  # it is said, and wakes this
            return self._times.backoff.seconds(failures)
        level = logging.WARNING if failures == 1 else logging.DEBUG
        _log.log(level, "A result could not be delivered, and waits. %s", error)
        said = error.details.get("retry_after") if isinstance(error, ComfyRemoteError) else None
        return self._times.backoff.seconds(failures, retry_after(said))

    def _waiting(self) -> list[Spooled]:
        worker = self._gateway.worker
        return [one for one in self._spool.waiting() if one.worker == worker]

    def _tidied(self) -> list[Spooled]:
        """What is to be delivered. Results that are too old are given up."""
        with contextlib.suppress(OSError):  # a full disk gets room by what is delivered
            self._spool.save_clock()
        for old in self._spool.give_up_old():
            _log.error(
                "The result of job %s could not be delivered for too long, and is deleted.", old.job
            )
            if old in self._given_up:
                self._given_up.discard(old)
                continue
            # The gateway hears that: it would take a job that is not here for one that never came.
            given_up = OutputLost(
                "The job's result could not be delivered for too long, and was deleted.",
                advice="Run the job again.",
            )
            with contextlib.suppress(LocalStorageError):
                error = _as_result(given_up)
                self._given_up.add(self._spool.add(old.worker, old.job, old.attempt, error))
        return self._waiting()

    async def _write_again(self, job: str, one: _InMemory) -> None:
        worker = self._gateway.worker
        try:
            await in_thread(self._spool.add, worker, job, one.attempt, one.content)
        except LocalStorageError:
            # The gateway may have room where this disk has none.
            await self._deliver_all(job, one.attempt, one.content)
        else:
            self._unwritten.pop(job, None)

    async def _deliver(self, spooled: Spooled) -> None:
        job, attempt = spooled.job, spooled.attempt
        try:
            content = await in_thread(self._spool.result, self._gateway.worker, job, attempt)
        except FileNotFoundError:
            if spooled not in self._waiting():
                return  # it was dropped meanwhile
            deleted = OutputLost(
                "The job's result was deleted from the worker's disk before it was delivered.",
                advice=f"Run the job again, and see who cleans up in {self._spool.folder}.",
            )
            content = _as_result(deleted)
        await self._deliver_all(job, attempt, content)

    async def _deliver_all(self, job: str, attempt: int, content: bytes) -> None:
        if (problem := await self._deliver_files(job, attempt)) is not None:
            content = _as_result(problem)
        await self._post(job, attempt, content)

    async def _deliver_files(self, job: str, attempt: int) -> ComfyRemoteError | None:
        """Deliver a result's large outputs; why the job fails, if one will never be there."""
        for file in await in_thread(self._spool.files, self._gateway.worker, job, attempt):
            try:
                await self._gateway.deliver_file(job, attempt, file)
            except Refused as error:
                if error.status == 404:
                    # The job is not this worker's any more; the answer to its result says so, too.
                    return None
                return OutputError(f"The gateway does not take an output of job {job}: {error}")
            except TargetUnreachable:
                # Also what a gateway answers to a damaged file.
                if await in_thread(sha256_of, file) == file.name:
                    raise
                return OutputLost(
                    f"An output of job {job} was damaged on the worker's disk.",
                    advice="Run the job again, and check that disk.",
                )
        return None

    async def _post(self, job: str, attempt: int, content: bytes) -> None:
        try:
            answer = await self._gateway.deliver(job, attempt, content)
        except Refused as error:
            _log.error("The gateway refused the result of job %s: %s", job, error)
            if not error.by_gateway:
                await self._say_refused(job, attempt, error)
        else:
            if answer.taken:
                _log.info("The result of job %s is delivered.", job)
            else:
                _log.info("The result of job %s came too late, and is dropped.", job)
        await self.drop(job, attempt)

    async def _say_refused(self, job: str, attempt: int, why: Refused) -> None:
        """Fail a job whose result a proxy refuses: the gateway has not heard of it, and would have
        the job run again and again.
        """
        refused = OutputError(
            f"The job's result was refused on its way to the gateway: {why}.",
            advice="A proxy in between may limit the size of requests: allow 20 MB there.",
        )
        try:
            await self._gateway.deliver(job, attempt, _as_result(refused))
        except Refused as error:
            if not error.by_gateway:
                raise TargetUnreachable(
                    f"The result of job {job} is refused on its way to the gateway: {error}."
                ) from None


def _as_result(error: ComfyRemoteError) -> bytes:
    return to_json(failure_to_runpod(error))


def _is_of_one_result(problem: Exception) -> bool:
    """Whether other results may be delivered nevertheless."""
    if isinstance(problem, OSError):
        return True  # it cannot be read
    status = problem.details.get("http_status") if isinstance(problem, ComfyRemoteError) else None
    return isinstance(status, int) and status not in _NOBODY_THERE
