"""Outputs that are too large for an answer: files by job and SHA-256, kept with the job."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from ..errors import OutputCorrupt, OutputLost, OutputTooLarge
from ..media.files import storage_errors
from .limits import GatewayLimits

__all__ = ["FileStore"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class FileStore:
    """Files on disk, whole or not there.

    Args:
        limits: For the sizes of one file and of all.
        folder: Where; a new temporary folder when ``None``. What the store wrote is deleted
            by `close`.
    """

    def __init__(self, limits: GatewayLimits, folder: Path | None = None) -> None:
        self._limits = limits
        self._parent = folder
        self._root: Path | None = None
        self._sizes: dict[Path, int] = {}
        self._receiving = 0

    async def put(self, job_id: str, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Keep a file.

        Returns:
            Its size in bytes.

        Raises:
            OutputTooLarge: It, or all files together, are above the limit.
            OutputCorrupt: Its SHA-256 is another.
            LocalStorageError: The disk is full or cannot be written.
        """
        path = self._path(job_id, sha256)
        beside = path.with_name(f".{uuid.uuid4().hex}.part")
        digest, size = hashlib.sha256(), 0
        with storage_errors(path):
            await asyncio.to_thread(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            try:
                with beside.open("xb") as file:
                    async for chunk in chunks:
                        size += len(chunk)
                        self._receiving += len(chunk)
                        self._check_room(size)
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
                if digest.hexdigest() != sha256:
                    raise OutputCorrupt(
                        f"A file of job {job_id} arrived with another SHA-256 than announced.",
                        advice="Send it again.",
                    )
                beside.chmod(0o600)
                beside.replace(path)
                self._sizes[path] = size
            finally:
                self._receiving -= size
                beside.unlink(missing_ok=True)
        return size

    def get(self, job_id: str, sha256: str) -> Path:
        """Where the file is.

        Raises:
            OutputLost: There is none.
        """
        path = self._path(job_id, sha256)
        if path not in self._sizes:
            raise OutputLost(
                f"There is no such file of job {job_id}.",
                advice="Files are kept as long as the job's result; run the job again.",
            )
        return path

    def forget(self, job_id: str) -> None:
        """Delete the job's files."""
        mine = [path for path in self._sizes if path.parent.name == job_id]
        for path in mine:
            del self._sizes[path]
        if self._root is not None:
            # On Windows a file that is being read stays; `close` tries again.
            shutil.rmtree(self._root / job_id, ignore_errors=True)

    def close(self) -> None:
        """Delete everything."""
        self._sizes.clear()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _path(self, job_id: str, sha256: str) -> Path:
        if not _JOB_ID.fullmatch(job_id) or not _SHA256.fullmatch(sha256):
            raise OutputLost("There is no file of that name.")
        return self._folder() / job_id / sha256

    def _folder(self) -> Path:
        if self._root is None:
            where = self._parent or Path(tempfile.gettempdir())
            with storage_errors(where):
                where.mkdir(parents=True, exist_ok=True)
                self._root = Path(tempfile.mkdtemp(prefix="comfy-remote-gateway-", dir=where))
        return self._root

    def _check_room(self, size: int) -> None:
        limits = self._limits
        if size > limits.file_bytes:
            raise OutputTooLarge(
                f"The file is larger than the {limits.file_bytes} bytes accepted.",
                advice="Make the output smaller, or raise the gateway's limit.",
            )
        if sum(self._sizes.values()) + self._receiving > limits.store_bytes:
            raise OutputTooLarge(
                f"The store is full: it holds at most {limits.store_bytes} bytes.",
                advice="Fetch results sooner, or raise the gateway's limit.",
            )
