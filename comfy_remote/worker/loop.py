"""Takes jobs from wherever they come, one after the other, and awaits a handler for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from pydantic import JsonValue
from pydantic_core import from_json

from ..aio import first_of
from ..errors import ComfyRemoteError, ConfigurationError, ExecutionFailed, OutputLost
from ..net.retry import Backoff

__all__ = [
    "Closes",
    "GetsReady",
    "Handler",
    "JobSource",
    "MayLeaveRuns",
    "Report",
    "TakenJob",
    "work",
]

Report: TypeAlias = Callable[[dict[str, JsonValue]], Awaitable[None]]
"""Shows a dictionary as the job's ``output`` while it is in progress."""

_BACKOFF = Backoff(first=1.0, longest=60.0)
_QUICKLY_PARSED = 16 * 1024  # bytes: a thread would take longer to begin
_log = logging.getLogger(__name__)


class Handler(Protocol):
    """Runs jobs; `worker.handler.JobHandler` is one."""

    async def __call__(
        self, job_id: str, payload: JsonValue, report: Report
    ) -> dict[str, JsonValue]:
        """Run one job. Cancelled when the job is.

        Returns:
            What a RunPod handler returns: the job's output, and under ``error`` a string if it
            failed.
        """


@runtime_checkable
class GetsReady(Protocol):
    """A handler that has to get ready before it takes a job."""

    async def ready(self) -> None:
        """Wait until it can.

        Raises:
            ComfyRemoteError: It cannot.
        """


@runtime_checkable
class MayLeaveRuns(Protocol):
    """A handler whose engine may go on with a job that was stopped."""

    async def left_running(self) -> bool:
        """Whether the job that was stopped last may still run. This waits some seconds for it."""


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A job that a worker has taken.

    Attributes:
        attempt: Which start of the job this is.
        content: Its input, as JSON.
    """

    id: str
    attempt: int
    content: bytes


@runtime_checkable
class Closes(Protocol):
    """A handler with something to close when it takes no more jobs."""

    async def close(self) -> None:
        """Close it."""


class JobSource(Protocol):
    """Where a worker's jobs come from, and where their results go."""

    @property
    def closed(self) -> bool:
        """Whether there are no more jobs."""

    async def take(self) -> TakenJob | None:
        """The next job; ``None`` if there is none yet."""

    async def progress(self, job: TakenJob, snapshot: dict[str, JsonValue]) -> None:
        """Show a snapshot while the job runs."""

    async def stopped(self, job: TakenJob) -> None:
        """Wait until the job is to be stopped: it was cancelled, or is somebody else's now."""

    async def dropped(self, job: TakenJob) -> None:
        """The job was stopped, and has ended here."""

    async def finish(self, job: TakenJob, *, output: JsonValue, error: JsonValue) -> None:
        """End the job: failed if there is an ``error``."""

    async def fail(self, job: TakenJob, error: ComfyRemoteError) -> None:
        """End the job with one of our errors."""

    async def put_back(self, job: TakenJob) -> None:
        """The worker ends before the job was done; another may do it."""

    def not_ready(self, error: ComfyRemoteError) -> None:
        """No job can run here now, and none is taken."""


async def work(source: JobSource, handler: Handler, *, backoff: Backoff = _BACKOFF) -> None:
    """Take and run jobs until the source is closed.

    A job is taken only when the handler is ready: until then it can go to another worker.

    Args:
        backoff: The waits between two tries to get ready.

    Raises:
        ConfigurationError: The handler cannot get ready, and never will.
    """
    gets_ready = handler if isinstance(handler, GetsReady) else None
    try:
        while not source.closed:
            if gets_ready is not None and not await _is_ready(source, gets_ready, backoff):
                return
            if (job := await source.take()) is not None:
                await _run(source, handler, job)
    finally:
        if isinstance(handler, Closes):
            await handler.close()


async def _is_ready(source: JobSource, handler: GetsReady, backoff: Backoff) -> bool:
    """Wait until the handler can take a job; ``False`` if there will be none any more."""
    failures = 0
    while not source.closed:
        try:
            await handler.ready()
            break
        except ConfigurationError:
            raise  # it would be no better the next time
        except ComfyRemoteError as error:
            source.not_ready(error)
            _log.error("The worker takes no job. %s", error)
        failures += 1
        await asyncio.sleep(backoff.seconds(failures))
    return not source.closed


async def _run(source: JobSource, handler: Handler, job: TakenJob) -> None:
    try:
        async with first_of(_handled(source, handler, job), source.stopped(job)) as (handled, _):
            stopped = not handled.done()
            if not stopped and handled.cancelled():
                await source.fail(job, ExecutionFailed("The worker gave the job up by itself."))
            elif not stopped:
                handled.result()
        if stopped:
            await source.dropped(job)
    except BaseException:
        # Whoever ends this worker waits for that.
        with contextlib.suppress(ComfyRemoteError):
            if isinstance(handler, MayLeaveRuns) and await handler.left_running():
                await source.fail(job, _left_running())
            else:
                await source.put_back(job)
        raise


def _left_running() -> OutputLost:
    return OutputLost(
        "The worker was stopped, and the ComfyUI that ran the job, which runs by itself, may not "
        "have stopped it.",
        advice="Look there for its outputs before you run it again.",
    )


async def _handled(source: JobSource, handler: Handler, job: TakenJob) -> None:
    async def report(snapshot: dict[str, JsonValue]) -> None:
        await source.progress(job, snapshot)

    try:
        result = dict(await handler(job.id, await _parsed(job.content), report))
        failed = result.pop("error", None) or None
        # For RunPod's workers. In here, the handler has already ended its engine, if need be.
        result.pop("refresh_worker", None)
        await source.finish(job, output=result or None, error=failed)
    except ComfyRemoteError as error:
        await source.fail(job, error)
    except Exception as error:  # noqa: BLE001  a job must not end the worker, as in the SDK
        _log.exception("The handler failed on job %s.", job.id)
        failure = ExecutionFailed(
            f"The worker failed: {type(error).__name__}: {error}",
            details={"exception_type": type(error).__name__},
        )
        await source.fail(job, failure)


async def _parsed(content: bytes) -> JsonValue:
    large = len(content) > _QUICKLY_PARSED
    payload: JsonValue = (
        await asyncio.to_thread(from_json, content) if large else from_json(content)
    )
    return payload
