"""The log of a gateway's jobs and workers: a line for each thing that happens to them.

What a prompt says, and what its files are called, is nobody's business here.
"""

from __future__ import annotations

import logging

from ...units import seconds_text, size_text
from ...wire.runpod import RunPodState
from ..job import Job
from ..queue_events import (
    JobAccepted,
    JobEnded,
    JobPutBack,
    JobRepeated,
    JobStarted,
    QueueEvent,
    WorkerBack,
    WorkerGone,
    WorkerJoined,
    WorkerSilent,
)

__all__ = ["log_event"]

_log = logging.getLogger(__name__)

_ENDS = {
    RunPodState.COMPLETED: "was completed",
    RunPodState.FAILED: "failed",
    RunPodState.CANCELLED: "was cancelled",
    RunPodState.TIMED_OUT: "timed out",
}


def log_event(event: QueueEvent) -> None:
    """Log what happens. A watch of a queue (`queue_events`)."""
    if not _log.isEnabledFor(logging.INFO):
        return
    line, level = words(event)
    _log.log(level, "%s", line)  # the handlers clean it: config.log


def words(event: QueueEvent) -> tuple[str, int]:
    """What an event's line says, before it is cleaned, and its level."""
    info, warning = logging.INFO, logging.WARNING
    if isinstance(event, JobAccepted):
        return f"Job {event.job.id}{_whose(event.job)} waits.", info
    if isinstance(event, JobStarted):
        job = event.job
        waited = max(0.0, (job.started or job.queued) - job.queued)
        again = f" (attempt {job.attempt})" if job.attempt > 1 else ""
        said = f"Job {job.id} runs on {job.worker_id}{again}, after waiting {seconds_text(waited)}."
        return said, info
    if isinstance(event, JobEnded):
        return _end(event.job), warning if event.job.may_be_retried else info
    if isinstance(event, JobPutBack):
        return f"Job {event.job.id} waits again: {event.why}", info
    if isinstance(event, JobRepeated):
        return f"Job {event.job.id} is to be started once more: {event.why}", warning
    return _worker(event)


def _worker(event: WorkerJoined | WorkerSilent | WorkerBack | WorkerGone) -> tuple[str, int]:
    name = f"Worker {event.worker_id}"
    if isinstance(event, WorkerJoined):
        return f"{name} asks for jobs.", logging.INFO
    if isinstance(event, WorkerSilent):
        return f"{name} has been silent for {seconds_text(event.seconds)}.", logging.WARNING
    if isinstance(event, WorkerBack):
        return f"{name} is back.", logging.INFO
    return f"{name} is gone: {event.why}", logging.WARNING


def _whose(job: Job) -> str:
    words = [f"of {job.client}"] if job.client else []
    words += [f"batch {job.batch}"] if job.batch else []
    return f" ({', '.join(words)})" if words else ""


def _end(job: Job) -> str:
    said, ending = f"Job {job.id} {_ENDS.get(job.state, job.state.value)}", job.ending
    if job.started is None or job.finished is None:
        return f"{said} before it ran."
    said += f" on {job.worker_id} after {seconds_text(max(0.0, job.finished - job.started))}"
    if ending.code:
        return f"{said}: {ending.code}."
    if ending.files:
        many = f"{ending.files} files" if ending.files > 1 else "1 file"
        return f"{said}: {many}, {size_text(ending.size)}."
    return f"{said}."
