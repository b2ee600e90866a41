"""Jobs of the API that have ended, as the record and the store have them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import OutputLost
from ..events import JobState
from ..jobs.record import JobEntry
from ..wire.comfy_api import ApiJob, ApiProgress, ApiStatus, JobError
from .errors import job_error
from .shown import job_metrics, job_urls, shown_output
from .stored import StoredAsset, utc

__all__ = ["NOT_FETCHED", "STATUS", "EndedJob", "EndedJobs"]

_MOST_REMEMBERED = 1000

STATUS = {
    JobState.QUEUED: ApiStatus.QUEUED,
    JobState.RUNNING: ApiStatus.RUNNING,
    JobState.SUCCEEDED: ApiStatus.SUCCEEDED,
    JobState.FAILED: ApiStatus.FAILED,
    JobState.CANCELLED: ApiStatus.CANCELED,
    JobState.EXPIRED: ApiStatus.EXPIRED,
}
"""What the API calls a state of the record."""

NOT_FETCHED = "Not fetched: "
"""How a warning in the record begins that says which output is not here."""


@dataclass
class EndedJob:
    """A job that has ended, and all of its outputs are here."""

    id: str
    status: ApiStatus
    created: float
    started: float | None
    completed: float
    expires: datetime
    outputs: Sequence[StoredAsset]
    error: JobError | None
    run_seconds: float | None
    labels: Mapping[str, str]
    progress: ApiProgress | None = None

    @classmethod
    def of(
        cls,
        entry: JobEntry,
        labels: Mapping[str, str],
        expires: datetime,
        outputs: Sequence[StoredAsset],
    ) -> EndedJob:
        """As the record has it.

        Args:
            outputs: Those that are in the store.
        """
        status = STATUS[entry.state]
        if status is ApiStatus.EXPIRED and outputs:
            status = ApiStatus.FAILED  # what is here has not expired
        started, seconds = entry.started, entry.run_seconds
        if started is None and seconds is not None:
            started = max(entry.created, entry.updated - seconds)
        return cls(
            id=entry.id,
            status=status,
            created=entry.created,
            started=started,
            completed=entry.updated,
            expires=expires,
            outputs=outputs,
            error=_error_of(entry),
            run_seconds=seconds,
            labels=labels,
        )

    def shown(self, base: str) -> ApiJob:
        """As the API shows it."""
        return ApiJob(
            id=self.id,
            status=self.status,
            created_at=utc(self.created),
            started_at=None if self.started is None else utc(self.started),
            completed_at=utc(self.completed),
            expires_at=self.expires,
            queue_position=None,
            progress=self.progress,
            outputs=[shown_output(one, base, self.expires) for one in self.outputs],
            error=self.error,
            metrics=job_metrics(self.created, self.started, self.run_seconds),
            urls=job_urls(self.id, base),
            metadata=dict(self.labels),
        )


class EndedJobs:
    """The jobs that ended last, a thousand of them, for whoever asks about one.

    Args:
        now: Seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._jobs: OrderedDict[str, EndedJob] = OrderedDict()

    def add(self, job: EndedJob) -> None:
        """Remember a job, and forget the oldest of too many."""
        self._jobs[job.id] = job
        if len(self._jobs) > _MOST_REMEMBERED:
            self._jobs.popitem(last=False)

    def get(self, job_id: str) -> EndedJob | None:
        """A job that has not expired."""
        job = self._jobs.get(job_id)
        if job is not None and job.expires <= utc(self._now()):
            del self._jobs[job_id]
            return None
        return job


def _error_of(entry: JobEntry) -> JobError | None:
    """Why a job failed; of one that did not, which of its outputs are not here."""
    if entry.state in (JobState.FAILED, JobState.EXPIRED):
        return None if entry.error is None else job_error(entry.error)
    missing = [
        said.message.removeprefix(NOT_FETCHED)
        for said in entry.said
        if said.message.startswith(NOT_FETCHED)
    ]
    if not missing:
        return None
    return JobError(
        code=OutputLost.code,
        message=f"Not all of its outputs are here. {' '.join(dict.fromkeys(missing))}",
    )
