"""The gateway's files for a worker in the same process: nothing of them goes over HTTP."""

from __future__ import annotations

from pathlib import Path

from ..aio import in_thread
from ..errors import OutputLost
from ..media.files import link_or_copy, storage_errors
from ..media.receive import Received, file_chunks
from ..worker.storage import StoredFile
from .endpoint import LocalEndpoint

__all__ = ["LocalFiles"]


class LocalFiles:
    """`worker.storage.Store` and `worker.storage.InputStore` of a local worker."""

    public = False

    def __init__(self, endpoint: LocalEndpoint) -> None:
        self._endpoint = endpoint

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store an output of a job that runs.

        Raises:
            ComfyRemoteError: As `LocalEndpoint.add_output`.
        """
        del filename
        await self._endpoint.add_output(job_id, file.sha256, file_chunks(file.path))
        return StoredFile(url=f"files/{job_id}/{file.sha256}")

    async def fetch(self, job_id: str, sha256: str, path: Path) -> bool:
        """Put an input of a job that runs at ``path``: a link to the stored file, which nobody
        changes, or a copy on another disk.
        """
        job = self._endpoint.queue.live.get(job_id)
        if job is None or sha256 not in job.input_files:
            return False
        try:
            stored = self._endpoint.files.path(sha256)
        except OutputLost:
            return False
        with storage_errors(path):
            await in_thread(link_or_copy, stored, path)
        return True
