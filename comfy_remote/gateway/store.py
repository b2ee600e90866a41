"""What the gateway holds of its jobs, as files: a folder for each job.

``JOB/input.json`` is what the client sent, ``JOB/result-….json`` what ``/status`` adds to the
job's state, and ``JOB/SHA256`` an output that is too large for an answer. Each is whole or not
there. The queue says which of them are still needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from ..aio import in_thread
from ..errors import (
    LocalStorageError,
    OutputCorrupt,
    OutputLost,
    OutputTooLarge,
    RateLimited,
    ValueInvalid,
)
from ..media.files import storage_errors, write_whole
from ..media.receive import receive_file
from ..media.temporary import TemporaryFolder
from .limits import GatewayLimits

__all__ = ["JobStore"]

_INPUT = "input.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_BLOCK = 4096  # what a small file takes on most disks
_FULL = "Free some space there, or wait: old results are deleted."
_FULL_AGAIN_AFTER = 60
_FREE_CHECKED_EVERY = 2**20


class JobStore:
    """Files on disk. All that touches the disk does so in a thread.

    Args:
        limits: For the sizes of one file and of all, and the space that stays free.
        folder: Where its own folder is made; in the system's temporary folder when ``None``.
            `close` deletes it.
    """

    def __init__(self, limits: GatewayLimits, folder: Path | None = None) -> None:
        self._limits = limits
        self._parent = folder
        self._root: TemporaryFolder | None = None
        self._files: dict[str, dict[str, int]] = {}
        self._dropped: list[tuple[Path, int]] = []
        self._used = 0
        self._free = 2**63
        self._making = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes of all files, each rounded up to whole blocks of the disk."""
        return self._used

    @property
    def free(self) -> int:
        """Bytes that were free on the disk when that was last measured."""
        return self._free

    async def accept(self, job_id: str, content: bytes, *, result: int) -> None:
        """Store a new job's input.

        Args:
            result: Bytes that its result may have; there must be room for it, too.

        Raises:
            RateLimited: The store or the disk is full.
            LocalStorageError: The disk cannot be written.
        """
        self.check_room(len(content) + result)
        await self._store(job_id, _INPUT, content)

    def check_room(self, size: int) -> None:
        """Refuse so many bytes (`RateLimited`) if the store or its disk has no room for them."""
        if self._used + size > self._limits.store_bytes:
            raise _full(f"The gateway stores {self._limits.store_bytes} bytes at most.")
        if self._free - size < self._limits.free_bytes:
            raise _full(f"The gateway's disk has only {self._free} bytes left.")

    async def read_input(self, job_id: str) -> bytes:
        """What `accept` stored.

        Raises:
            LocalStorageError: It cannot be read (any more).
        """
        try:
            return await asyncio.to_thread(lambda: self._path(job_id, _INPUT).read_bytes())
        except OSError as error:
            raise LocalStorageError(
                f"The input of job {job_id} cannot be read: {error.strerror or error}.",
                advice="Submit the job again.",
            ) from error

    async def add_result(self, job_id: str, content: bytes) -> str:
        """Store what a job gave, in a file of its own; its name, for `result` and `drop`.

        Raises:
            LocalStorageError: The disk is full or cannot be written.
        """
        name = f"result-{uuid.uuid4().hex}.json"
        await self._store(job_id, name, content)
        return name

    def result(self, job_id: str, name: str) -> Path:
        """The path of a result."""
        return self._path(job_id, name)

    async def put(self, job_id: str, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Store an output that is too large for an answer; its size in bytes.

        Raises:
            OutputTooLarge: It, or all files together, are above the limit.
            OutputCorrupt: Its SHA-256 is another.
            LocalStorageError: The disk is full or cannot be written.
        """
        _check_sha256(sha256)
        path = await asyncio.to_thread(self._path, job_id, sha256)
        arriving = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal arriving
            checked = 0
            async for chunk in chunks:
                arriving += len(chunk)
                self._used += len(chunk)
                self._check_size(arriving)
                if arriving > checked:
                    checked = arriving + _FREE_CHECKED_EVERY
                    await asyncio.to_thread(self._check_free, path, _FREE_CHECKED_EVERY)
                yield chunk

        try:
            file = await receive_file(counted(), path, sha256=sha256)
            self._count(job_id, sha256, file.size)
        except ValueInvalid as error:
            raise OutputCorrupt(error.message, advice=error.advice) from error
        finally:
            self._used -= arriving
        return file.size

    def file(self, job_id: str, sha256: str) -> Path:
        """The path of the output with that SHA-256.

        Raises:
            OutputLost: There is none.
        """
        _check_sha256(sha256)
        if sha256 not in self._files.get(job_id, {}):
            raise OutputLost(
                f"There is no such file of job {job_id}.",
                advice="Files are stored as long as the job's result; run the job again.",
            )
        return self._path(job_id, sha256)

    def drop(self, job_id: str, name: str = _INPUT) -> None:
        """Mark one file for removal by `look_after`: the input, unless another is named."""
        files = self._files.get(job_id, {})
        if (size := files.pop(name, None)) is not None:
            self._dropped.append((self._path(job_id, name), size))
        if not files:
            self._files.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """Mark all files of a job for removal by `look_after`."""
        for name in list(self._files.get(job_id, {})):
            self.drop(job_id, name)

    async def look_after(self) -> None:
        """Remove what was dropped, and measure the free space. Call it about once a second."""
        with contextlib.suppress(OSError):  # the folder was removed; the next file makes it again
            self._free = await in_thread(lambda: shutil.disk_usage(self._folder()).free)
        dropped, self._dropped = self._dropped, []
        if not dropped:
            return
        gone = await in_thread(lambda: [_removed(path) for path, _ in dropped])
        # Windows removes no file that is being read: such a one waits for the next time.
        self._dropped += [one for one, done in zip(dropped, gone, strict=True) if not done]
        self._used -= sum(size for (_, size), done in zip(dropped, gone, strict=True) if done)

    def close(self) -> None:
        """Delete everything. This blocks."""
        self._files.clear()
        self._dropped.clear()
        self._used = 0
        if self._root is not None:
            self._root.cleanup()
            self._root = None

    async def _store(self, job_id: str, name: str, content: bytes) -> None:
        self._count(job_id, name, len(content))

        def make() -> None:
            path = self._path(job_id, name)
            with storage_errors(path, full=_FULL):
                write_whole(path, content)

        try:
            await in_thread(make)
        except BaseException:
            self.drop(job_id, name)
            raise

    def _count(self, job_id: str, name: str, size: int) -> None:
        held = -(-size // _BLOCK) * _BLOCK
        files = self._files.setdefault(job_id, {})
        self._used += held - files.get(name, 0)
        files[name] = held

    def _path(self, job_id: str, name: str) -> Path:
        if not _JOB_ID.fullmatch(job_id):
            raise OutputLost("There is no job of that name.")
        return self._folder() / job_id / name

    def _folder(self) -> Path:
        with self._making:
            if self._root is None:
                self._root = TemporaryFolder("gateway", self._parent)
            return Path(self._root.name)

    def _check_size(self, size: int) -> None:
        limits = self._limits
        if size > limits.file_bytes:
            raise OutputTooLarge(
                f"The file is larger than the {limits.file_bytes} bytes accepted.",
                advice="Make the output smaller, or raise the gateway's limit.",
            )
        if self._used > limits.store_bytes:
            raise OutputTooLarge(
                f"The store is full: it holds at most {limits.store_bytes} bytes.",
                advice="Run the job later, when old results have been deleted, or raise the "
                "gateway's limit.",
            )

    def _check_free(self, path: Path, size: int) -> None:
        with storage_errors(path, full=_FULL):
            if shutil.disk_usage(self._folder()).free - size < self._limits.free_bytes:
                raise OSError(errno.ENOSPC, "the rest is reserved")


def _removed(path: Path) -> bool:
    """Whether a file is gone; with the last one of a job, its folder goes."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # it holds others
        path.parent.rmdir()
    return True


def _check_sha256(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise OutputLost("There is no file of that name.")


def _full(why: str) -> RateLimited:
    return RateLimited(
        f"{why} No more jobs are accepted for now.",
        advice="Try again later: old results are deleted.",
        details={"retry_after": _FULL_AGAIN_AFTER},
    )
