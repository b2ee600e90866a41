"""Outputs that do not fit a job's result, on a Modal Volume: written there, read by the front."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Protocol

from ...errors import OutputError, OutputLost, TargetUnreachable
from ...media.disk_space import make_room
from ...media.files import CHUNK_SIZE, copy_whole, storage_errors
from ...media.receive import Received
from ...worker.storage import StoredFile
from .calls import MODAL_FAILED

__all__ = ["OutputVolume", "VolumeStore", "read_output"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CALL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEPT_SECONDS = 24 * 3600.0


class OutputVolume(Protocol):
    """What is used of a `modal.Volume`."""

    # Modal's methods are objects that are called, and have the asynchronous call as `aio`.
    commit: Any
    read_file: Any


class VolumeStore:
    """The `worker.store.Store` of a container: ``CALL/SHA256`` on the volume, for a day.

    Args:
        volume: Committed after each file, for the front to see it.
        folder: Where it is mounted.
    """

    public = False

    def __init__(self, volume: OutputVolume, folder: Path) -> None:
        self._volume = volume
        self._folder = folder

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a copy of a file."""
        await asyncio.to_thread(self._keep, file, self._folder / job_id / file.sha256)
        try:
            await self._volume.commit.aio()
        except MODAL_FAILED as error:
            raise OutputError(
                "An output is too large for the result, and Modal's Volume did not take it: "
                f"{type(error).__name__}: {error}",
                advice="Run the job again; https://status.modal.com reports outages.",
            ) from error
        return StoredFile(url=f"files/{job_id}/{file.sha256}")

    def _keep(self, file: Received, path: Path) -> None:
        self.forget_old()
        with storage_errors(path):
            copy_whole(file.path, path)

    def forget_old(self) -> None:
        """Remove what was put there more than a day ago. Blocking."""
        jobs = (path for path in self._folder.glob("*") if path.is_dir())
        make_room(jobs, older_than=_KEPT_SECONDS)


async def read_output(
    volume: OutputVolume, job_id: str, sha256: str
) -> AsyncGenerator[bytes, None]:
    """A file's bytes, in chunks of at most 1 MiB.

    Read by Modal's API and not from a mount: a mount that has files open cannot be reloaded, and
    would not show what another container has just written.

    Raises:
        OutputLost: It is not there, or no longer.
        TargetUnreachable: Modal could not be asked.
    """
    if not _CALL.fullmatch(job_id) or not _SHA256.fullmatch(sha256):
        raise OutputLost("There is no file of that name.")
    try:
        async for block in volume.read_file.aio(f"{job_id}/{sha256}"):
            for start in range(0, len(block), CHUNK_SIZE):
                yield block[start : start + CHUNK_SIZE]
    except FileNotFoundError:
        raise OutputLost(
            f"There is no such file of job {job_id}.",
            advice="Large outputs are deleted after a day; run the job again.",
        ) from None
    except MODAL_FAILED as error:
        raise TargetUnreachable(
            f"Modal did not send a file: {type(error).__name__}.", advice="Try again."
        ) from error
