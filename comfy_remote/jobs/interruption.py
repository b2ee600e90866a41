"""Cancels jobs whose program is interrupted: a GPU that nobody waits for costs money."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Literal, TypeAlias

from ..advice import Hint
from ..errors import ComfyRemoteError
from .job import Job

__all__ = ["SUBMIT_PATIENCE", "OnInterrupt", "end_jobs", "is_interruption"]

OnInterrupt: TypeAlias = Literal["cancel", "leave"]
"""Whether the target cancels the job or continues it."""

SUBMIT_PATIENCE = 20.0
"""Seconds to wait for the answer to a submission, which alone tells how to stop the job."""

_CANCEL_PATIENCE = 10.0
_LOOK_PATIENCE = 2.0

_log = logging.getLogger(__name__)


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error ends a program in the middle of a job: Ctrl-C, a cancel, its own error.

    `SystemExit` as well: it is what a program's handler of SIGTERM raises. Our own errors tell of
    the job themselves.
    """
    return error is not None and not isinstance(error, ComfyRemoteError)


async def end_jobs(jobs: Iterable[Job], target: str, on_interrupt: OnInterrupt) -> None:
    """Cancel the jobs that have not ended, or leave them; either way the log says so."""
    open_jobs = [job for job in jobs if not job.state.final]
    if on_interrupt == "cancel":
        await asyncio.gather(*(_cancel(job, target) for job in open_jobs))
        return
    for job in open_jobs:
        _log.warning(
            "Interrupted: job %s goes on at %s. %s",
            job.id,
            target,
            Hint.RESUME_OR_CANCEL(job_id=job.id),
        )


async def _cancel(job: Job, target: str) -> None:
    try:
        await asyncio.wait_for(job.cancel(), _CANCEL_PATIENCE)
    except (ComfyRemoteError, asyncio.TimeoutError) as error:
        _log.warning(
            "Interrupted: job %s could not be cancelled at %s and may go on (%s). %s",
            job.id,
            target,
            error or "no answer",
            Hint.RESUME_OR_CANCEL(job_id=job.id),
        )
    else:
        _log.warning("Interrupted: job %s was cancelled at %s.", job.id, target)
        # A prompt that is taken out of a queue leaves no trace: only this connection knows that
        # it was cancelled, and the record should, too.
        with contextlib.suppress(ComfyRemoteError, asyncio.TimeoutError):
            await asyncio.wait_for(job.look(), _LOOK_PATIENCE)
