"""Jobs that a server runs for others: each is followed by a task, and found again after a restart.

A server has no list of its own: its jobs are in the record, under its name (their ``source``). What
it wants to know of one that is under way is a `ServedJob` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from ..aio import Background, within
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    JobNotFound,
    LocalStorageError,
    RateLimited,
    TargetError,
    TargetUnreachable,
)
from ..events import Event
from ..targets.base import server_of
from .client import Client, resume
from .job import Job
from .record import JobEntry

__all__ = ["ServedJob", "ServedJobs", "is_job_id"]

_log = logging.getLogger(__name__)
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# The job may well go on meanwhile, and its outputs may well be there later.
_ASKED_AGAIN = (TargetError, AuthenticationError, LocalStorageError)
# It was sent somewhere that cannot be used now: a key may be missing that is there later.
_OPENED_AGAIN = (TargetUnreachable, RateLimited, AuthenticationError, ConfigurationError)


def is_job_id(text: str) -> bool:
    """Whether a text is written as the id of a job: a lower-case UUID."""
    return _JOB_ID.fullmatch(text) is not None


class ServedJob:
    """A job that a task of this process follows.

    Attributes:
        job: Once the target has it.
        error: Why it has failed, once that is certain.
        sent: Set when the target has it, or has refused it.
        ended: Set when nothing more will happen to it here.
    """

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.job: Job | None = None
        self.error: ComfyRemoteError | None = None
        self.sent = asyncio.Event()
        self.ended = asyncio.Event()

    def note(self, event: Event) -> None:
        """Take one of its events."""

    def waits(self, error: ComfyRemoteError) -> None:
        """Take why its target, or its outputs, are asked for again later."""

    async def fetch(self, job: Job) -> None:
        """Bring here what is wanted of a job that has ended, however it did.

        Called again after one of the errors that `waits` gets.
        """

    async def over(self) -> None:
        """See to the rest: it has ended, and `error` says whether it failed."""


_Job = TypeVar("_Job", bound=ServedJob)


@dataclass
class ServedJobs(Generic[_Job]):
    """The jobs of one server that are under way.

    Args:
        source: What the record calls them.
        answered_within: Seconds that a request waits for a job to be sent to the target.
        again_after: Seconds after which a target that could not be reached is asked again.
        most: How many may be under way.
        patience: Seconds for which a target is asked again and again before a job is given up.
    """

    MOST: ClassVar[int] = 500

    client: Client
    source: str
    answered_within: float = 20.0
    again_after: float = 5.0
    most: int = MOST
    patience: float = float("inf")
    _under_way: dict[str, _Job] = field(default_factory=dict, init=False)
    _background: Background = field(default_factory=Background, init=False)

    def __len__(self) -> int:
        return len(self._under_way)

    def get(self, job_id: str) -> _Job | None:
        """One that is under way."""
        return self._under_way.get(job_id)

    @property
    def under_way(self) -> list[_Job]:
        """All that are."""
        return list(self._under_way.values())

    def id_of(self, key: str) -> str:
        """The id of a job that is named by a key of whoever asks for it."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfy-remote:{self.source}:{key}"))

    async def entry(self, job_id: str) -> JobEntry:
        """One in the record.

        Raises:
            JobNotFound: There is none of this server with that id.
        """
        if is_job_id(job_id):
            entry = await self.client.record.read(self.client.record.get, job_id)
            if entry.source == self.source:
                return entry
        raise JobNotFound("There is no such job here.", advice="Check its id.")

    def check_room(self) -> None:
        """Raise `RateLimited` if too many are under way."""
        if len(self._under_way) >= self.most:
            raise RateLimited(
                f"{self.most} jobs are under way already.", advice="Try again when some have ended."
            )

    async def start(self, served: _Job, submit: Callable[[], Awaitable[Job]]) -> None:
        """Follow a new job; return once the target has it, or when a request has waited enough.

        Raises:
            ComfyRemoteError: What ``submit`` raised meanwhile.
        """
        self._begin(served, self._run(served, submit))
        # A large file may take longer to send than a request may last.
        await self.sent(served)
        if served.job is None and served.error is not None:
            raise served.error

    def run(self, served: _Job, submit: Callable[[], Awaitable[Job]]) -> None:
        """`start`, without waiting."""
        self._begin(served, self._run(served, submit))

    def take_up(self, served: _Job, entry: JobEntry) -> None:
        """Follow a job that an earlier process began."""
        self._begin(served, self._resume(served, entry))

    async def sent(self, served: _Job) -> bool:
        """Whether a job is sent, waiting for that as long as a request may."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(served.sent.wait(), self.answered_within)
        return served.sent.is_set()

    async def cancel(self, served: _Job) -> None:
        """Ask the target to stop a job.

        Raises:
            TargetUnreachable: It has not got there yet.
            TargetError: The target could not be asked.
        """
        sent = await self.sent(served)
        if served.job is not None:
            await served.job.cancel()
        elif not sent:
            raise TargetUnreachable(
                "The job has not reached its target yet, or the target cannot be reached now.",
                advice="Cancel it again in a moment.",
            )

    async def stop(self) -> None:
        """Stop following. The jobs go on, and the next server follows them."""
        await self._background.stop()

    def _begin(self, served: _Job, work: Awaitable[None]) -> None:
        self._under_way[served.id] = served
        self._background.start(work)

    async def _run(self, served: _Job, submit: Callable[[], Awaitable[Job]]) -> None:
        async with self._ending(served):
            await self._follow(served, await submit())

    async def _resume(self, served: _Job, entry: JobEntry) -> None:
        async with self._ending(served):
            since = time.monotonic()
            while True:
                try:
                    async with self._resumed(entry) as job:
                        await self._follow(served, job)
                        return
                except _OPENED_AGAIN as error:
                    if served.job is not None:  # `_follow` has waited for long enough
                        raise
                    await self._later(served, error, since)

    @contextlib.asynccontextmanager
    async def _resumed(self, entry: JobEntry) -> AsyncIterator[Job]:
        """A recorded job, where it was sent: not every name still means what it meant then."""
        client, server = self.client, server_of(self.client.target)
        here = entry.target == client.target.name and (
            entry.ref is None or (bool(server) and server.items() <= entry.ref.details.items())
        )
        if here and entry.cached is None:
            yield await client.resume(entry)
            return
        async with resume(
            entry.id, record=client.record, config=client.config, on_interrupt=None
        ) as job:
            yield job

    async def _follow(self, served: _Job, job: Job) -> None:
        served.job = job
        served.sent.set()
        since: float | None = None
        while True:
            try:
                async for event in job:
                    since = None
                    served.note(event)
                await served.fetch(job)
                return
            except _ASKED_AGAIN as error:
                since = since or time.monotonic()
                await self._later(served, error, since)

    async def _later(self, served: _Job, error: ComfyRemoteError, since: float) -> None:
        """Wait before the next try. Raises the error if there were enough of them."""
        if time.monotonic() - since > self.patience:
            raise error
        served.waits(error)
        await asyncio.sleep(self.again_after)

    @contextlib.asynccontextmanager
    async def _ending(self, served: _Job) -> AsyncIterator[None]:
        """Note how it ends, whatever happens, and wake those who wait for that."""
        try:
            try:
                yield
                finished = None if served.job is None else served.job.finished
                served.error = None if finished is None else finished.error
            except ComfyRemoteError as error:
                served.error = error
            except Exception as error:  # noqa: BLE001  somebody waits for an answer, whatever it is
                _log.exception("A job failed unexpectedly.")
                served.error = ComfyRemoteError(
                    f"The server failed: {type(error).__name__}.", advice="Its log has more."
                )
            try:
                await served.over()
            except ComfyRemoteError as error:
                _log.error("How job %s ended could not be noted: %s", served.id, error)
        finally:
            served.sent.set()
            served.ended.set()
            if self._under_way.get(served.id) is served:
                del self._under_way[served.id]
