"""What happens to jobs whose program is interrupted: a GPU that nobody waits for costs money."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias, TypeVar

from ..advice import Hint
from ..aio import within
from ..errors import ComfyRemoteError
from ..events import Event, JobState
from ..targets.sending import Sending
from .job import PATIENCE, Job, Patience

__all__ = [
    "PATIENCE",
    "OnInterrupt",
    "Patience",
    "call_off",
    "end_jobs",
    "is_interruption",
    "started",
]

OnInterrupt: TypeAlias = Literal["cancel", "leave"]
"""Whether the target cancels the job or continues it."""


_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error ends a program in the middle of a job: Ctrl-C, a cancel, its own error.

    `SystemExit` as well: it is what a program's handler of SIGTERM raises. Our own errors say
    what happened to the job.
    """
    return error is not None and not isinstance(error, ComfyRemoteError)


async def started(
    sending: Awaitable[_T],
    undo: Callable[[_T], Awaitable[object]] | None = None,
    patience: Patience = PATIENCE,
    on_interrupt: Callable[[], object] | None = None,
) -> _T:
    """The answer to a submission. If interrupted, it still waits: the job may be there already.

    It does not as long as the job surely has not been sent; then it never is.

    Args:
        undo: Called with the answer, if it comes after the interruption.
        on_interrupt: Called at the interruption.
    """
    sent = Sending()
    with sent.watched():
        task = asyncio.ensure_future(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_interrupt is not None:
            on_interrupt()
        sent.stop()
        if not sent.surely_not:
            await asyncio.wait({task}, timeout=patience.submit)
        task.cancel()
        [answer] = await asyncio.gather(task, return_exceptions=True)
        if undo is not None and not isinstance(answer, BaseException):
            await undo(answer)
        raise


async def call_off(
    job: Job,
    patience: Patience = PATIENCE,
    on_event: Callable[[Event], object] | None = None,
) -> str | None:
    """Cancel a job that nobody waits for any more, and follow it to its end for a while.

    Returns:
        Why it may continue; ``None`` if the target has confirmed the cancel, or the job had ended.
    """

    async def end() -> None:
        async for event in job:
            if on_event is not None:
                on_event(event)

    if job.state.final:
        return None
    try:
        await within(job.cancel(), patience.cancel)
    except ComfyRemoteError as error:
        return error.message
    except asyncio.TimeoutError:
        return "There was no answer."
    try:
        # A prompt that is taken out of a queue leaves no trace: only this connection knows that
        # it was cancelled, and the record should, too.
        await within(end(), patience.end)
    except (ComfyRemoteError, asyncio.TimeoutError) as error:
        _log.debug("Job %s was not seen to end: %r", job.id, error)
    return None


async def end_jobs(
    jobs: Iterable[Job], target: str, on_interrupt: OnInterrupt, patience: Patience = PATIENCE
) -> None:
    """Cancel the jobs that have not ended, or leave them; either way the log says so."""

    async def cancel(job: Job) -> None:
        why = await call_off(job, patience)
        if why is None and job.state is JobState.CANCELLED:
            _log.warning("Interrupted: job %s was cancelled at %s.", job.id, target)
            return
        advice = Hint.RESUME_OR_CANCEL(job_id=job.id)
        if why is None and job.state.final:
            said = job.state.value
            _log.warning("Interrupted: job %s had ended at %s: %s.", job.id, target, said)
            return
        if why is None:
            _log.warning(
                "Interrupted: job %s was cancelled at %s, which has not said that it has ended. %s",
                *(job.id, target, advice),
            )
            return
        _log.warning(
            "Interrupted: job %s could not be cancelled at %s and may continue (%s). %s",
            *(job.id, target, why, advice),
        )

    open_jobs = [job for job in jobs if not job.state.final]
    if on_interrupt == "cancel":
        await asyncio.gather(*map(cancel, open_jobs))
        return
    for job in open_jobs:
        advice = Hint.RESUME_OR_CANCEL(job_id=job.id)
        _log.warning("Interrupted: job %s continues at %s. %s", job.id, target, advice)
