"""The gateway's large contents, as files that are named by their SHA-256.

Inputs, results and outputs above some kilobytes, and files that clients send by themselves. The
same content is stored once. A file stays while a job needs it (the journal says so), and for a
while after it has come or was asked for, so that a job can name it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import logging
import math
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from ..aio import in_thread
from ..errors import LocalStorageError, OutputLost, RateLimited, RequestTooLarge
from ..media.file_changes import discard, remove_file
from ..media.files import OWN_DATA, storage_errors, sync_file, sync_folder, take_name
from ..media.receive import receive_file
from ..units import size_text
from .journal import Journal
from .limits import GatewayLimits

__all__ = ["FileStore"]

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 4096  # what a small file takes on most disks
_ARRIVING = "arriving"
_FULL = "Free some space there, or wait: old results are deleted."
_FULL_AGAIN_AFTER = 60
_FREE_CHECKED_EVERY = 2**20
_NAMED_WITHIN = 60.0  # seconds in which the row of a job follows the file with its result
_AT_A_TIME = 200
_HASHED_AT_ONCE = 64 * 1024
_MOST_UNNAMED = 100_000


class FileStore:
    """Files below ``folder``. All but `open` is for one event loop, and what may take long is done
    in threads.

    Args:
        limits: For the sizes of one file and of all, and the space that stays free.
        journal: Says which files jobs need, and what time it is.
    """

    def __init__(self, folder: Path, limits: GatewayLimits, journal: Journal) -> None:
        self.folder = folder
        self._limits = limits
        self._journal = journal
        self._clock = journal.clock
        self._used = 0
        self._used_beside = 0
        self._free = 2**63
        self._full_said = -math.inf
        # Until when a file stays although no job may need it; then, or when a job has ceased to
        # need it, it is looked at. An earlier process may have said that others stay, too.
        self._stays: dict[str, float] = {}
        self._remembers_since = 0.0
        self._suspects: set[str] = set()
        self._going: frozenset[str] = frozenset()
        self._changing = asyncio.Lock()
        self._arriving_now = asyncio.Semaphore(limits.files_at_a_time)

    @property
    def used(self) -> int:
        """Bytes of all files, each rounded up to whole blocks of the disk."""
        return self._used

    @property
    def free(self) -> int:
        """Bytes that were free on the disk when that was last measured."""
        return self._free

    def open(self) -> None:
        """Count what is there, and remove what arrived in part. This blocks.

        Call it when the journal is open. A file that no job needs stays for an hour more.

        Raises:
            LocalStorageError: The folder cannot be used.
        """
        with storage_errors(self.folder, denied=OWN_DATA):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            discard(self.folder / _ARRIVING)
            (self.folder / _ARRIVING).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._free = shutil.disk_usage(self.folder).free
            until = self._clock() + self._limits.upload_retention
            there = self._on_disk()
            while some := dict(itertools.islice(there, _AT_A_TIME)):
                self._used += sum(some.values())
                unused = some.keys() - self._journal.used_now(list(some))
                self._stays.update(dict.fromkeys(unused, until))
                self._remembers_since = until

    def check_room(self, size: int) -> None:
        """Refuse so many bytes (`RateLimited`) if there is no room for them beside what is here and
        in the database, or on the disk.
        """
        if self._used + self._used_beside + size > self._limits.store_bytes:
            raise self._full(f"The gateway stores {size_text(self._limits.store_bytes)} at most.")
        if self._free - size < self._limits.free_bytes:
            raise self._full(
                f"The gateway's disk has {size_text(max(0, self._free))} free; "
                f"{size_text(self._limits.free_bytes)} are to stay free."
            )

    def _full(self, why: str) -> RateLimited:
        now = self._clock()
        if now >= self._full_said + _FULL_AGAIN_AFTER:
            self._full_said = now
            _log.warning("No job and no file is accepted for now. %s", why)
        return _full(why)

    def check_file(self, size: int) -> None:
        """Refuse a file of that size if it cannot be received now.

        Raises:
            RequestTooLarge: No file may have that size.
            RateLimited: There is no room for it.
        """
        if size > self._limits.file_bytes:
            raise _too_large(self._limits)
        self.check_room(size)
        if len(self._stays) >= _MOST_UNNAMED:
            raise _full("Too many files wait for a job that names them.")

    def size(self, sha256: str) -> int | None:
        """A file's size; ``None`` if it is not here."""
        if not _SHA256.fullmatch(sha256) or sha256 in self._going:
            return None
        try:
            return self._path(sha256).stat().st_size
        except OSError:
            return None

    def path(self, sha256: str) -> Path:
        """The path of a file, for reading.

        Raises:
            OutputLost: It is not here.
        """
        if self.size(sha256) is None:
            raise OutputLost(
                "The gateway has no such file.",
                advice="Files are stored as long as the job's result; run the job again.",
            )
        return self._path(sha256)

    def stays(self, sha256: str) -> bool:
        """Whether a file is here. If so, it stays for an hour, or for as long as a job needs it."""
        if self.size(sha256) is None:
            return False
        self._protect(sha256, self._limits.upload_retention)
        return True

    async def read(self, sha256: str) -> bytes:
        """A file's content.

        Raises:
            OutputLost: It is not here.
            LocalStorageError: It cannot be read.
        """
        path = self.path(sha256)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise LocalStorageError(f"{path} cannot be read: {error.strerror or error}.") from error

    async def put(self, content: bytes) -> str:
        """Store a content that a job is about to name; its SHA-256.

        Raises:
            LocalStorageError: The disk is full or cannot be written.
        """
        sha256 = await _sha256_of(content)
        part = self._arriving()

        def write() -> None:
            with storage_errors(part, full=_FULL):
                part.parent.mkdir(exist_ok=True, parents=True)  # somebody may have removed it
                with open(part, "xb", opener=_private) as file:
                    file.write(content)
                    file.flush()
                    sync_file(file.fileno())

        async with self._changing:
            known = self.size(sha256) is not None
        if not known:
            try:
                await in_thread(write)
            except BaseException:
                await in_thread(discard, part)
                raise
            await self._settle(part, sha256, len(content))
        self._protect(sha256, _NAMED_WITHIN)
        return sha256

    async def receive(self, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a file as it arrives; its size in bytes. It stays for an hour, or for as long as a
        job needs it.

        Raises:
            OutputLost: That is no SHA-256.
            RequestTooLarge: It is larger than the limit.
            RateLimited: The store or the disk has no room for it.
            ValueInvalid: Its SHA-256 is another.
            LocalStorageError: The disk is full or cannot be written.
        """
        if not _SHA256.fullmatch(sha256):
            raise OutputLost("There is no file of that name.")
        self.check_file(0)
        part, arriving = self._arriving(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal arriving
            checked = 0
            async for chunk in chunks:
                arriving += len(chunk)
                self._used += len(chunk)
                if arriving > self._limits.file_bytes:
                    raise _too_large(self._limits)
                self.check_room(0)
                if arriving > checked:
                    checked = arriving + _FREE_CHECKED_EVERY
                    await asyncio.to_thread(self._check_free)
                yield chunk

        try:
            async with self._arriving_now:  # whoever waits here is not read from
                file = await receive_file(counted(), part, sha256=sha256, durable=True)
        finally:
            self._used -= arriving
        await self._settle(part, sha256, file.size)
        self._protect(sha256, self._limits.upload_retention)
        return file.size

    async def look_after(self) -> None:
        """Remove what no job needs any more, and measure the free space. Call it about once a
        second.

        Raises:
            LocalStorageError: The journal cannot say what is needed; nothing is removed.
        """
        with contextlib.suppress(OSError):
            self._free = await in_thread(lambda: shutil.disk_usage(self.folder).free)
        self._used_beside = await self._journal.size()
        now = self._clock()
        dropped = self._journal.take_dropped()
        if now < self._remembers_since:
            for sha256 in dropped:
                self._protect(sha256, self._remembers_since - now)
        over = [sha256 for sha256, until in self._stays.items() if until <= now]
        for sha256 in over:
            del self._stays[sha256]
        self._suspects.update(over, dropped)
        suspects, self._suspects = list(self._suspects), set()
        while suspects:
            some = [suspects.pop() for _ in range(min(len(suspects), _AT_A_TIME))]
            try:
                async with self._changing:
                    self._suspects.update(await self._remove_unused(some))
            except BaseException:
                self._suspects.update(some, suspects)
                raise

    async def _remove_unused(self, files: Sequence[str]) -> list[str]:
        """Remove those that no job needs; those that cannot be removed now."""
        used = await self._journal.used(files)
        going = [one for one in files if one not in used and one not in self._stays]
        self._going = frozenset(going)
        try:
            sizes = await in_thread(lambda: [_removed(self._path(sha256)) for sha256 in going])
        finally:
            self._going = frozenset()
        self._used -= sum(size for size in sizes if size is not None)
        # Windows removes no file that is being read: such a one is removed later.
        return [sha256 for sha256, size in zip(going, sizes, strict=True) if size is None]

    async def _settle(self, part: Path, sha256: str, size: int) -> None:
        """Give a complete file its name, unless the same content is here already."""
        path = self._path(sha256)

        def move() -> bool:
            with storage_errors(path, full=_FULL):
                if path.exists():
                    discard(part)
                    return False
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o700)
                    sync_folder(self.folder)
                take_name(part, path, sha256)
                sync_folder(path.parent)
                return True

        async with self._changing:
            if await in_thread(move):
                self._used += _blocks(size)

    def _protect(self, sha256: str, seconds: float) -> None:
        until = self._clock() + seconds
        self._stays[sha256] = max(until, self._stays.get(sha256, until))

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _arriving(self) -> Path:
        return self.folder / _ARRIVING / uuid.uuid4().hex

    def _on_disk(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files; whatever else is there is left alone."""
        for folder in self.folder.iterdir():
            if len(folder.name) == 2 and folder.is_dir():
                for file in folder.iterdir():
                    if _SHA256.fullmatch(file.name) and file.name[:2] == folder.name:
                        yield file.name, _blocks(file.stat().st_size)

    def _check_free(self) -> None:
        with storage_errors(self.folder, full=_FULL):
            free = shutil.disk_usage(self.folder).free
            if free - _FREE_CHECKED_EVERY < self._limits.free_bytes:
                raise OSError(errno.ENOSPC, "the rest is reserved")


async def _sha256_of(content: bytes) -> str:
    if len(content) <= _HASHED_AT_ONCE:
        return hashlib.sha256(content).hexdigest()
    return await in_thread(lambda: hashlib.sha256(content).hexdigest())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _removed(path: Path) -> int | None:
    """The size that a file had, now that it is gone; ``None`` if it cannot be removed now."""
    try:
        size = _blocks(path.stat().st_size)
        remove_file(path, seconds=0)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return size


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _too_large(limits: GatewayLimits) -> RequestTooLarge:
    return RequestTooLarge(
        f"The file is larger than the {limits.file_bytes} bytes accepted.",
        advice="Make it smaller, or raise the gateway's limit.",
        details={"limit": limits.file_bytes},
    )


def _full(why: str) -> RateLimited:
    return RateLimited(
        f"{why} No more is accepted for now.",
        advice="Try again later: old results are deleted.",
        details={"retry_after": _FULL_AGAIN_AFTER},
    )
