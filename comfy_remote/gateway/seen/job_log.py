"""The log of a gateway's jobs and workers: a line for each thing that happens to them.

What a prompt says, and what its files are called, is nobody's business here.
"""

from __future__ import annotations

import json
import logging
import re

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

_PLAIN = re.compile(r"[\w.:@+-]+")
_log = logging.getLogger(__name__)

_ENDS = {
    RunPodState.COMPLETED: "was completed",
    RunPodState.FAILED: "failed",
    RunPodState.CANCELLED: "was cancelled",
    RunPodState.TIMED_OUT: "timed out",
}


def log_event(event: QueueEvent) -> None:
    """Log what happens. A watch of a queue (`queue_events`)."""
    level = logging.WARNING if isinstance(event, (JobRepeated, WorkerSilent)) else logging.INFO
    if _log.isEnabledFor(level):
        _log.log(level, "%s", _words(event))  # the handlers clean it: config.log


def _words(event: QueueEvent) -> str:
    match event:
        case JobAccepted(job):
            return f"Job {job.id}{_whose(job)} waits."
        case JobStarted(job):
            again = f" (attempt {job.attempt})" if job.attempt > 1 else ""
            waited = seconds_text(max(0.0, (job.started or job.queued) - job.queued))
            return f"Job {job.id} runs on {job.worker_id}{again}, after waiting {waited}."
        case JobEnded(job):
            return _end(job)
        case JobPutBack(job, why=why):
            return f"Job {job.id} waits again: {why}"
        case JobRepeated(job, why=why):
            return f"Job {job.id} is to be started once more: {why}"
        case WorkerJoined(worker_id):
            return f"Worker {worker_id} asks for jobs."
        case WorkerSilent(worker_id, seconds):
            return f"Worker {worker_id} has been silent for {seconds_text(seconds)}."
        case WorkerBack(worker_id):
            return f"Worker {worker_id} is back."
        case WorkerGone(worker_id, why):
            name = f"Worker {worker_id}"
            return why if why.startswith(f"{name} ") else f"{name} is gone: {why}"


def _whose(job: Job) -> str:
    words = [f"of {_name(job.client)}"] if job.client else []
    words += [f"batch {_name(job.batch)}"] if job.batch else []
    return f" ({', '.join(words)})" if words else ""


def _name(given: str) -> str:
    """What a client calls itself or its batch; in quotes if it could be taken for words of ours."""
    return given if _PLAIN.fullmatch(given) else json.dumps(given, ensure_ascii=False)


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
