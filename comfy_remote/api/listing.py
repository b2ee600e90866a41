"""Lists of jobs, page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..jobs.record import JobLine, Record
from ..jobs.served import is_job_id
from ..wire.comfy_api import ApiStatus, JobList, JobSummary
from .assets import AssetStore
from .errors import ApiRefusal
from .stored import StoredJob, utc

__all__ = ["JobsWanted", "job_page"]

_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class JobsWanted:
    """Which jobs a list has.

    Attributes:
        labels: Those with all of these labels.
        states: Those in one of these; in any if it is empty.
        limit: The most on a page.
        cursor: What the last page gave as ``next_cursor``; ``None`` for the first page.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    states: frozenset[ApiStatus] = frozenset()
    limit: int = 100
    cursor: str | None = None


async def job_page(
    wanted: JobsWanted,
    assets: AssetStore,
    record: Record,
    status_of: Callable[[JobLine], ApiStatus],
) -> JobList:
    """The newest jobs first. A page may have fewer than the limit, and others behind it.

    Args:
        assets: Has the labels.
        record: Has the states, as far as they are recorded.
        status_of: What a job's state is now.

    Raises:
        ApiRefusal: ``invalid_cursor``.
    """
    found: list[JobSummary] = []
    before, more = wanted.cursor, True
    if before is not None and not is_job_id(before):
        raise ApiRefusal("invalid_cursor", "cursor is the next_cursor of a page before.")
    for _ in range(_MOST_ROUNDS):
        stored = await assets.jobs_labelled(wanted.labels, limit=wanted.limit, before=before)
        more = len(stored) == wanted.limit
        lines = await record.read(record.lines_of, [one.id for one in stored])
        by_id = {line.id: line for line in lines}
        for one in stored:
            before = one.id
            line = by_id.get(one.id)
            if line is None or (wanted.states and status_of(line) not in wanted.states):
                continue
            found.append(_summary(one, line, status_of(line)))
            if len(found) == wanted.limit:
                more = more or one is not stored[-1]
                return JobList(jobs=found, next_cursor=before if more else None)
        if not more:
            break
    return JobList(jobs=found, next_cursor=before if more else None)


def _summary(stored: StoredJob, line: JobLine, status: ApiStatus) -> JobSummary:
    return JobSummary(
        id=stored.id,
        status=status,
        create_time=utc(line.created),
        update_time=utc(line.updated),
        metadata=dict(stored.labels),
    )
