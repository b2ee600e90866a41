"""The jobs of one server: how they are referred to, asked for and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from ...aio import within
from ...errors import ComfyRemoteError, TargetError, TargetNotFound
from ...wire.comfy_api import ApiJob, ApiStatus
from ..base import RemoteRef
from .answers import read_job
from .server import ApiServer

__all__ = ["RemoteJobs"]

# Seconds. The cancel itself must not wait for that.
_LOOKED_WITHIN = 4.0
_LOOKS = 3


class RemoteJobs:
    """The jobs of a target.

    Args:
        details: What is recorded of the server with each job.
        between: Seconds between two looks whether a job has been cancelled.
    """

    def __init__(self, server: ApiServer, details: Mapping[str, str], *, between: float) -> None:
        self._server, self._details, self._between = server, details, between
        self._cancelled: dict[str, bool] = {}

    def ref(self, job_id: str, remote_id: str, job: ApiJob | None = None) -> RemoteRef:
        """The reference to a job.

        Args:
            job: What the server said of it; its links are recorded where they are not the usual
                ones.
        """
        bare = RemoteRef(job_id, remote_id, dict(self._details))
        if job is None:
            return bare
        links = {"self": job.urls.self, "events": job.urls.events, "cancel": job.urls.cancel}
        own = {key: self._server.links.own(link) for key, link in links.items()}
        said = {k: v for k, v in own.items() if v is not None and v != self.path(bare, k)}
        return RemoteRef(job_id, remote_id, {**self._details, **said})

    def path(self, ref: RemoteRef, link: str) -> str:
        """Where a link of a job leads: as the server said, as far as that is its own origin.

        Args:
            link: ``self``, ``events`` or ``cancel``.
        """
        if (said := ref.details.get(link)) is not None:
            return said.lstrip("/")
        path = self._server.links.path("jobs", ref.remote_id)
        return path if link == "self" else f"{path}/{link}"

    async def get(self, ref: RemoteRef) -> ApiJob | None:
        """A job as it is now; ``None`` if the server does not know it.

        Raises:
            ComfyRemoteError: The server could not be asked, or its answer is no job.
        """
        try:
            return read_job((await self._server.get(self.path(ref, "self"))).json())
        except TargetNotFound:
            return None

    async def waits(self, ref: RemoteRef) -> bool:
        """Whether a job waits now; also ``False`` where that cannot be found out in 4 seconds."""
        try:
            job = await within(self.get(ref), _LOOKED_WITHIN)
        except (ComfyRemoteError, asyncio.TimeoutError):
            return False
        return job is not None and job.status is ApiStatus.QUEUED and job.started_at is None

    async def cancel(self, ref: RemoteRef, *, waited: bool) -> None:
        """Cancel a job; one that has ended stays as it is.

        Args:
            waited: What `waits` said before.

        Raises:
            ComfyRemoteError: The server could not be asked, or the job goes on.
        """
        known = ref.remote_id in self._cancelled
        self._cancelled.setdefault(ref.remote_id, waited)
        try:
            await self._cancel(ref)
        except BaseException:
            # Whatever becomes of the job, nobody knows that it was by this.
            if not known:
                self._cancelled.pop(ref.remote_id, None)
            raise

    def cancelled(self, ref: RemoteRef) -> bool | None:
        """Whether a job waited when this client cancelled it; ``None`` if it did not cancel."""
        return self._cancelled.get(ref.remote_id)

    def forget(self, ref: RemoteRef) -> None:
        """Forget a job that has ended."""
        self._cancelled.pop(ref.remote_id, None)

    async def _cancel(self, ref: RemoteRef) -> None:
        """Cancel it, and see that it neither waits nor runs as before.

        The answer is the job, canceling or ended. comfy-api-proxy answers so, too, where its
        ComfyUI is too old to cancel a job by its id: that one goes on.
        """
        job = None
        with suppress(TargetNotFound):  # it is gone, or the server knows no cancel
            answer = await self._server.http.post_idempotent(self.path(ref, "cancel"))
            with suppress(TargetError):  # a page of somebody in between
                job = read_job(answer.json())
        for _ in range(_LOOKS):
            job = job or await self.get(ref)
            if job is None or job.status not in (ApiStatus.QUEUED, ApiStatus.RUNNING):
                return
            state, job = job.status.value, None
            await asyncio.sleep(self._between)
        raise TargetError(
            f"{self._server.name} was asked to cancel the job, and still has it: {state}.",
            advice="Cancel it where you manage that server. A ComfyUI behind comfy-api-proxy can "
            "cancel jobs from version 0.25 on.",
        )
