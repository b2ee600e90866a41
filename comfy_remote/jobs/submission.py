"""Sending a recorded job to its target, and recording how that went."""

from __future__ import annotations

import asyncio
import logging
import time

from ..advice import Hint
from ..aio import Deadline
from ..errors import ComfyRemoteError, JobTimedOut, LocalStorageError, SubmissionUnknown
from ..events import DidItRun, JobState
from ..targets.base import RemoteRef, RunRequest, Target
from .record import Record

__all__ = ["submit"]

_log = logging.getLogger(__name__)


async def submit(
    target: Target, record: Record, request: RunRequest, deadline: Deadline
) -> RemoteRef:
    """Submit a request whose job the record has.

    Args:
        deadline: By when the target has to answer.

    Raises:
        ComfyRemoteError: As `Client.submit`.
    """
    began = time.monotonic()
    try:
        ref = await deadline.within(target.submit(request))
    except asyncio.TimeoutError:
        late = _unanswered(request.job_id, target.name, deadline)
        record.post(_not_recorded, record.state, request.job_id, JobState.QUEUED, late)
        raise late from None
    except SubmissionUnknown as error:
        # Still open: `resume` may find it.
        DidItRun.UNKNOWN.noted_in(error)
        record.post(_not_recorded, record.state, request.job_id, JobState.QUEUED, error)
        raise
    except ComfyRemoteError as error:
        DidItRun.UNKNOWN.noted_in(error)  # unless the target knows better
        record.post(_not_recorded, record.state, request.job_id, JobState.FAILED, error)
        raise
    try:
        await record.write(record.submitted, ref)
    except LocalStorageError as error:
        # The GPU is at work: better a job that this program alone knows than none.
        _log.warning("%s The job is %s at %s.", error, ref.remote_id, target.name)
    _log.debug(
        "%s has job %s as %s, %.2f s after its submission began.",
        target.name,
        request.job_id,
        ref.remote_id,
        time.monotonic() - began,
    )
    return ref


def _unanswered(job_id: str, target: str, deadline: Deadline) -> JobTimedOut:
    late = JobTimedOut(
        f"{target} did not answer the submission within {deadline}. It may have the job.",
        advice=Hint.FIND_JOB(job_id=job_id),
        details={"job_id": job_id},
    )
    DidItRun.UNKNOWN.noted_in(late)
    return late


def _not_recorded(error: LocalStorageError) -> None:
    _log.warning("%s", error)
