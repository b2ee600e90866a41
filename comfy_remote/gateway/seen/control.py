"""What the owner of a gateway does on its page."""

from __future__ import annotations

from ...errors import EngineCrashed, JobNotFound, WorkflowInvalid
from ..queue import JobQueue
from ..workers import Worker, WorkerKind

__all__ = ["QueueControl"]


class QueueControl:
    """The buttons of the page, for a queue in this process. See `routes.Control`."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def front(self, job_id: str) -> None:
        """See `Control.front`."""
        await self._queue.to_front(job_id)

    async def drain(self, worker_id: str, *, on: bool) -> None:
        """See `Control.drain`."""
        self._worker(worker_id).draining = on
        self._queue.look_again()

    async def gone(self, worker_id: str) -> None:
        """See `Control.gone`."""
        if self._worker(worker_id).kind is not WorkerKind.JOINED:
            raise WorkflowInvalid(
                f"Worker {worker_id} is on the gateway's own machine, which knows whether it lives."
            )
        why = f"The gateway's owner says that worker {worker_id} is gone."
        self._queue.worker_is_gone(worker_id, EngineCrashed(why, advice="Run the job again."))
        await self._queue.committed()

    def _worker(self, worker_id: str) -> Worker:
        worker = self._queue.workers.get(worker_id)
        if worker is None:
            raise JobNotFound("This gateway has no such worker.")
        return worker
