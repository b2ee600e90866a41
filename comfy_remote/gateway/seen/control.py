"""What the owner of a gateway does on its page."""

from __future__ import annotations

from ...errors import JobNotFound, WorkflowInvalid
from ..joined import JoinedWorkers
from ..queue import JobQueue
from ..workers import Worker, WorkerKind

__all__ = ["QueueControl"]


class QueueControl:
    """What the owner of a gateway may do on its page, besides cancelling jobs.

    The methods raise `JobNotFound` for a job that does not wait, or a worker that is not there.

    Args:
        joined: What is said of its workers is on disk, as ``comfy-remote workers`` says it.
    """

    def __init__(self, queue: JobQueue, joined: JoinedWorkers) -> None:
        self._queue = queue
        self._joined = joined

    async def front(self, job_id: str) -> None:
        """Have a job that waits taken before all others of its priority and client."""
        await self._queue.to_front(job_id)

    async def drain(self, worker_id: str, *, on: bool) -> None:
        """Give a worker no more jobs, or jobs again."""
        worker = self._worker(worker_id)
        if worker.kind is WorkerKind.JOINED:
            await self._joined.drain(worker_id, on=on)
        else:
            worker.draining = on
            self._queue.look_again()

    async def gone(self, worker_id: str) -> None:
        """Take the owner's word that a worker will not come back."""
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
