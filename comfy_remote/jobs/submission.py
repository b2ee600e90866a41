"""Sending a recorded job to its target, and recording how that went."""

from __future__ import annotations

import asyncio

from ..errors import ComfyRemoteError, JobTimedOut, SubmissionUnknown
from ..events import JobState
from ..targets.base import RemoteRef, RunRequest, Target
from ..targets.within import within
from .record import Record

__all__ = ["submit"]


async def submit(
    target: Target, record: Record, request: RunRequest, timeout: float | None
) -> RemoteRef:
    """Submit a request whose job the record has.

    Args:
        timeout: Seconds that the target may take to answer.

    Raises:
        ComfyRemoteError: As `Client.submit`.
    """
    try:
        ref = await within(target.submit(request), timeout)
    except asyncio.TimeoutError:
        late = _unanswered(request.job_id, target.name, timeout or 0.0)
        record.state(request.job_id, JobState.QUEUED, late)
        raise late from None
    except SubmissionUnknown as error:
        # Still open: `resume` may find it.
        record.state(request.job_id, JobState.QUEUED, error)
        raise
    except ComfyRemoteError as error:
        record.state(request.job_id, JobState.FAILED, error)
        raise
    record.submitted(ref)
    return ref


def _unanswered(job_id: str, target: str, timeout: float) -> JobTimedOut:
    return JobTimedOut(
        f"{target} did not answer the submission within {timeout:g} s. It may have the job.",
        advice=f"Look for it with `comfy-remote jobs resume {job_id}`.",
        details={"job_id": job_id},
    )
