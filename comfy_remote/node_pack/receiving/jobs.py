"""Jobs that bring something here: what they say, the part that they wait for, how they end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...aio import Signal
from ...errors import (
    ComfyRemoteError,
    ExecutionFailed,
    JobCancelled,
    JobNotFound,
    RateLimited,
)
from ...media.receive import receive_file
from ...types import JsonValue
from ...wire.receiving import LARGEST_PART, JobState

__all__ = ["ReceivingJob", "ReceivingJobs", "Times"]

_log = logging.getLogger(__name__)
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take at most, in seconds.

    Attributes:
        silence: Without a word from whoever began a job, until it is cancelled.
        quiet: Likewise, until it gives way to another job that brings the same.
        wait: That a question waits for something new.
        remembered: That the answer of a job that has ended can be asked for.
    """

    silence: float = 120.0
    quiet: float = 5.0
    wait: float = 20.0
    remembered: float = 900.0


@dataclass(eq=False)
class _Wanted:
    """A part that a job waits for."""

    sha256: str
    path: Path
    taken: asyncio.Future[bool]
    receiving: asyncio.Task[None] | None = None


@dataclass(eq=False)
class ReceivingJob:
    """One job. Its client asks for it again and again; if it does not, it has gone."""

    times: Times
    _signal: Signal = field(default_factory=Signal)
    _number: int = 0
    _said: str = ""
    _wanted: _Wanted | None = None
    _answer: JsonValue = None
    _error: ComfyRemoteError | None = None
    _work: asyncio.Future[JsonValue] | None = None
    _why: ComfyRemoteError | None = None
    _asking: int = 0
    _heard: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def state(self) -> JobState:
        """As the client is to know it."""
        known = self._number, self._said
        if self.ended is None:
            wants = self._wanted.sha256 if self._wanted is not None else None
            return JobState(state="running", number=known[0], said=known[1], wants=wants)
        if self._error is not None:
            error = self._error.to_json()
            return JobState(state="failed", number=known[0], said=known[1], error=error)
        return JobState(state="succeeded", number=known[0], said=known[1], answer=self._answer)

    def say(self, words: str) -> None:
        """Tell the client."""
        self._said = words
        self._changed()

    async def since(self, number: int) -> JobState:
        """The state, as soon as it is another than that of a number; after a while, as it is."""
        return await self._when(lambda: self._number != number)

    async def _when(self, true: Callable[[], bool]) -> JobState:
        """The state once something is true of it, or it has ended, or after a while."""
        self._heard = time.monotonic()
        deadline = self._heard + self.times.wait
        self._asking += 1
        try:
            while self.ended is None and not true():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                await self._signal.wait(left)
        finally:
            self._asking -= 1
            self._heard = time.monotonic()
        return self.state

    @property
    def seems_left(self) -> bool:
        """Whether its client has gone, most likely: it was killed, and begins another."""
        return not self._asking and time.monotonic() - self._heard > self.times.quiet

    async def fetch(self, sha256: str, path: Path) -> bool:
        """Wait until the client has sent a part. See `worker.models.placing.FetchPart`."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._wanted = _Wanted(sha256, path, taken)
        self._changed()
        try:
            return await taken
        finally:
            if self._wanted.receiving is not None:
                self._wanted.receiving.cancel()
            self._wanted = None
            self._changed()

    async def receive(self, sha256: str, chunks: AsyncIterable[bytes]) -> JobState:
        """Take the part that is waited for; the state after it. Any other is not read.

        A part that comes again takes the place of one that is on its way: its connection is
        dead, and this machine has not noticed yet.

        Raises:
            ValueInvalid: It is damaged.
            LocalStorageError: It cannot be written.
        """
        wanted = self._wanted
        if wanted is None or wanted.sha256 != sha256 or wanted.taken.done():
            return self.state
        if wanted.receiving is not None:
            wanted.receiving.cancel()
        receiving = asyncio.ensure_future(self._receive(wanted, chunks))
        wanted.receiving = receiving
        try:
            await asyncio.shield(receiving)
        except asyncio.CancelledError:
            if receiving.cancelled():
                return self.state
            receiving.cancel()
            raise
        return await self._when(lambda: self._wanted is not None and self._wanted is not wanted)

    async def _receive(self, wanted: _Wanted, chunks: AsyncIterable[bytes]) -> None:
        await receive_file(
            self._noticed(chunks), wanted.path, sha256=wanted.sha256, limit=LARGEST_PART
        )
        if not wanted.taken.done():
            wanted.taken.set_result(True)

    async def _noticed(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._heard = time.monotonic()
            yield chunk

    def cancel(self, why: ComfyRemoteError | None = None) -> None:
        """End it; what has come stays for the next one.

        Args:
            why: For the client; that it was cancelled, by default.
        """
        self._why = self._why or why
        if self._work is not None:
            self._work.cancel()

    async def run(self, work: Awaitable[JsonValue]) -> None:
        """Do what the job is for, as long as its client is there."""
        self._work = asyncio.ensure_future(work)
        gone = False
        try:
            while not self._work.done():
                left = self._heard + self.times.silence - time.monotonic()
                if left <= 0 and not gone:
                    gone = True
                    self._work.cancel()
                await asyncio.wait({self._work}, timeout=max(left, 0.0) if not gone else None)
            self._answer = self._work.result()
        except ComfyRemoteError as error:
            self._error = error
        except asyncio.CancelledError:
            self._work.cancel()
            self._error = self._why or JobCancelled(
                "Its client was silent for too long." if gone else "It was cancelled.",
                advice="What has arrived stays: the same request continues from there.",
            )
        except Exception as error:  # noqa: BLE001 - a bug of ours, and the client waits
            _log.exception("a job that brings something here has failed")
            self._error = ExecutionFailed(f"It failed: {type(error).__name__}: {error}")
        finally:
            self.ended = time.monotonic()
            self._changed()

    def _changed(self) -> None:
        self._number += 1
        self._signal.notify()


class ReceivingJobs:
    """Those that are under way, and those whose answer may still be asked for.

    Args:
        do: Does what a payload asks for.
    """

    def __init__(
        self,
        do: Callable[[dict[str, JsonValue], ReceivingJob], Awaitable[JsonValue]],
        times: Times = Times(),
    ) -> None:
        self._do = do
        self._times = times
        self._jobs: dict[str, ReceivingJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, job_id: str, payload: dict[str, JsonValue]) -> ReceivingJob:
        """Begin a job; the same one if it has begun: the answer may have been lost.

        Raises:
            RateLimited: Enough are under way.
        """
        self._forget_old()
        if (known := self._jobs.get(job_id)) is not None:
            return known
        if sum(one.ended is None for one in self._jobs.values()) >= _AT_ONCE:
            raise RateLimited(
                f"{_AT_ONCE} jobs are bringing something to this ComfyUI already.",
                advice="Try later.",
            )
        job = self._jobs[job_id] = ReceivingJob(self._times)
        task = asyncio.ensure_future(job.run(self._do(payload, job)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def job(self, job_id: str) -> ReceivingJob:
        """One of them.

        Raises:
            JobNotFound: There is none; ComfyUI has been restarted, perhaps.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFound(
                "There is no such job: ComfyUI may have been restarted there.",
                advice="Run the same sync again: it continues where it stopped.",
            )
        return job

    async def close(self) -> None:
        """Cancel all, and wait for them. Their clients begin them again when ComfyUI is back."""
        for job in self._jobs.values():
            job.cancel(JobNotFound("ComfyUI is being stopped there."))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget_old(self) -> None:
        old = time.monotonic() - self._times.remembered
        for job_id in [
            job_id
            for job_id, job in self._jobs.items()
            if job.ended is not None and job.ended < old
        ]:
            del self._jobs[job_id]
