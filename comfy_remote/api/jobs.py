"""The jobs that are started through the API. They are jobs in the record, and nothing besides.

Where a job stands is in the record; the task that follows it, and what it says live, are of this
process. After a restart the record says which jobs have not ended, and they are followed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..jobs.client import Client
from ..wire.comfy_api import ApiJob, ApiStatus, JobList, JobWorkflow
from .assets import AssetStore
from .live import LiveJob
from .prompts import PostedJob

__all__ = ["ApiJobs", "JobsWanted"]


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


class ApiJobs:
    """The jobs of one front. Used as an asynchronous context manager, inside its client and store.

    Args:
        client: Of the target; made with ``on_interrupt=None``: jobs go on when the front ends.
        assets: What prompts refer to, and where outputs go.
        name: Of the front: two with one record have two names.
        partner_keys: Whether a submitter's key for partner nodes may be passed on to the target.
        retention: Seconds after its end for which a job, and what it made, stay.
        answered_within: Seconds that a request waits for a job to be sent to the target.
        again_after: Seconds after which a target that could not be reached is asked again.
        most_at_a_time: Jobs that may be under way.
    """

    def __init__(
        self,
        client: Client,
        assets: AssetStore,
        name: str,
        *,
        partner_keys: bool = False,
        retention: float = 24 * 3600.0,
        answered_within: float = 20.0,
        again_after: float = 5.0,
        most_at_a_time: int = 500,
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> ApiJobs:
        raise NotImplementedError

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop following. The jobs go on, and the next front follows them."""

    async def start(
        self, posted: PostedJob, *, base: str, key: str | None = None, token: str = ""
    ) -> ApiJob:
        """Record a job and send it to the target.

        Args:
            base: The address of the API, for links: ``http://HOST:PORT/api/v2``.
            key: The ``Idempotency-Key``, if there is one.
            token: Of whoever sent it: keys of two tokens are different ones.
        """
        raise NotImplementedError

    async def get(self, job_id: str, *, base: str) -> ApiJob:
        """A job as it stands. Raises `JobNotFound`, also for one that has expired."""
        raise NotImplementedError

    async def workflow(self, job_id: str) -> JobWorkflow:
        """The prompt of a job, as it was posted. Raises `JobNotFound`."""
        raise NotImplementedError

    async def cancel(self, job_id: str, *, base: str) -> ApiJob:
        """Ask the target to stop a job; one that has ended stays as it is. Raises `JobNotFound`."""
        raise NotImplementedError

    async def live(self, job_id: str) -> LiveJob:
        """What a job says live; of one that has ended, its end alone. Raises `JobNotFound`."""
        raise NotImplementedError

    async def page(self, wanted: JobsWanted) -> JobList:
        """The newest jobs first."""
        raise NotImplementedError
