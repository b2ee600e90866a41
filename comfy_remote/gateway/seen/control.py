"""What the owner of a gateway does on its page."""

from __future__ import annotations

from ...errors import JobNotFound, WorkflowInvalid
from ..joined import JoinedWorkers
from ..queue import JobQueue
from ..workers import Worker, WorkerKind

__all__ = ["QueueControl"]


class QueueControl:
    """The buttons of the page, for a queue in this process. See `routes.Control`.

    Args:
        joined: What is said of its workers is on disk, as ``comfy-remote workers`` says it.
    """

    def __init__(self, queue: JobQueue, joined: JoinedWorkers) -> None:
        self._queue = queue
        self._joined = joined

    async def front(self, job_id: str) -> None:
        """See `Control.front`."""
        await self._queue.to_front(job_id)

    async def drain(self, worker_id: str, *, on: bool) -> None:
        """See `Control.drain`."""
        worker = self._worker(worker_id)
        if worker.kind is WorkerKind.JOINED:
            await self._joined.drain(worker_id, on=on)
        else:
            worker.draining = on
            self._queue.look_again()

    async def gone(self, worker_id: str) -> None:
        """See `Control.gone`."""
        if self._worker(worker_id).kind is not WorkerKind.JOINED:
            raise WorkflowInvalid(
                f"Worker {worker_id} is on the gateway's own machine, which knows whether it lives."
            )
        await self._joined.gone(worker_id)

    def _worker(self, worker_id: str) -> Worker:
        worker = self._queue.workers.get(worker_id)
        if worker is None:
            raise JobNotFound("This gateway has no such worker.")
        return worker
