"""Results that a gateway does not have yet, on the worker's own disk.

::

    FOLDER/.lock              one process at a time
    FOLDER/home               the folder's id, the same for ever
    FOLDER/clock              seconds that its workers have been up
    FOLDER/owner              SHA-256 of the token of the gateway that the results are for
    FOLDER/results/WORKER/JOB.ATTEMPT/SHA256        an output that is too large for the result
    FOLDER/results/WORKER/JOB.ATTEMPT/result.json   written last: without it, the job has not ended

All methods block. What they promise to have stored survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError, LocalStorageError
from ...media.disk_space import DiskLimits
from ...media.file_changes import discard
from ...media.files import OWN_DATA, copy_whole, storage_errors, sync_folder, write_whole
from ...media.receive import Received
from ...media.temporary import ProcessLock
from ...units import size_text

__all__ = ["Spool", "SpoolLimits", "Spooled"]

_RESULT = "result.json"
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}\.[0-9]{1,7}")
_HEX = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = "Free some space there: no further job is taken meanwhile."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much a spool holds, and for how long.

    Attributes:
        size: Bytes of results; above it, no further job is taken.
        results: How many there may be, likewise. A worker names them all when it asks for a job.
        free: Bytes of the disk that stay free.
        retention: Seconds, counted while a worker runs, after which a result is given up.
    """

    size: int = 16 * 1024**3
    results: int = 1000
    free: int = 512 * 1024**2
    retention: float = 7 * 24 * 3600.0

    @classmethod
    def from_environ(cls) -> SpoolLimits:
        """The default, and ``COMFY_REMOTE_FREE_SPACE``."""
        return cls(free=DiskLimits.of().free)


@dataclass(frozen=True, slots=True)
class Spooled:
    """A result that waits to be delivered.

    Attributes:
        worker: Who ran the job.
        since: When it was stored, in seconds of the spool's clock.
    """

    worker: str
    job: str
    attempt: int
    since: float


class Spool:
    """The results of one folder; used by one process at a time.

    Args:
        folder: Made when missing.
        monotonic: Seconds, never going back.
    """

    def __init__(
        self,
        folder: Path,
        limits: SpoolLimits = SpoolLimits(),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.home = ""
        """The folder's id; empty before `open`."""
        self._limits = limits
        self._monotonic = monotonic
        self._begun = self._saved = 0.0
        self._lock: ProcessLock | None = None
        self._changing = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._waiting: dict[Path, Spooled] = {}

    def open(self, token: str) -> None:
        """Take the folder, and read what is there.

        Args:
            token: The worker's. Results belong to the gateway that gave it.

        Raises:
            ConfigurationError: Another process uses it, or results for another gateway wait in it.
            LocalStorageError: It cannot be written.
        """
        with storage_errors(self.folder, denied=OWN_DATA):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock = ProcessLock(self.folder / ".lock")
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"Another worker of this name runs on this machine: it uses {self.folder}.",
                advice="Stop it, or give this one a name (and a token) of its own.",
            ) from error
        self._begun = self._monotonic()
        try:
            with storage_errors(self.folder):
                self._saved = self._read_clock()
                self.home = self._read_home()
                self._read_results()
                self._check_owner(hashlib.sha256(token.encode()).hexdigest())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Save the clock, and release the folder."""
        if self._lock is not None:
            if self.home:
                with contextlib.suppress(OSError):
                    self.save_clock()
            self._lock.close()
            self._lock = None

    def boot(self, *, attached: bool = False) -> str:
        """A new start's id: see `wire.joined.Hello.boot`.

        Args:
            attached: Whether the worker's engine goes on when the worker ends.
        """
        return f"{self.home}.{uuid.uuid4().hex}" + (".url" if attached else "")

    @property
    def used(self) -> int:
        """Bytes of all files."""
        with self._changing:
            return sum(self._sizes.values())

    def lack_of_room(self) -> str:
        """Why no further job should be taken, for people; empty if there is room."""
        if (used := self.used) >= self._limits.size:
            return (
                f"Results of {size_text(used)} wait in {self.folder}, which may hold "
                f"{size_text(self._limits.size)}"
            )
        if (waiting := len(self.waiting())) >= self._limits.results:
            return f"{waiting} results wait in {self.folder}, which may hold {self._limits.results}"
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"{self.folder} cannot be used: {error.strerror or error}"
        if free < self._limits.free:
            return (
                f"The disk that holds {self.folder} has {size_text(free)} free, of which "
                f"{size_text(self._limits.free)} are reserved"
            )
        return ""

    def waiting(self) -> list[Spooled]:
        """All results, the oldest first."""
        with self._changing:
            return sorted(self._waiting.values(), key=lambda one: one.since)

    def add_file(self, worker: str, job: str, attempt: int, file: Received) -> None:
        """Store a large output of a job that runs.

        Raises:
            LocalStorageError: There is no room for it.
        """
        path = self._folder_of(worker, job, attempt) / file.sha256
        with storage_errors(path, full=_FULL):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_room(path, file.size)
            if not path.exists():
                copy_whole(file.path, path, durable=True)
        with self._changing:
            self._sizes[path] = file.size

    def add(self, worker: str, job: str, attempt: int, result: bytes) -> Spooled:
        """Store the result of a job that has ended.

        Raises:
            LocalStorageError: It cannot be written.
        """
        folder = self._folder_of(worker, job, attempt)
        path = folder / _RESULT
        spooled = Spooled(worker, job, attempt, self.clock())
        with storage_errors(path, full=_FULL):
            write_whole(path, result, durable=True)
            os.utime(path, (spooled.since, spooled.since))
            sync_folder(folder.parent)
        with self._changing:
            self._sizes[path] = len(result)
            self._waiting[folder] = spooled
        return spooled

    def files(self, worker: str, job: str, attempt: int) -> list[Path]:
        """The large outputs of a job; a file's name is its SHA-256."""
        folder = self._folder_of(worker, job, attempt)
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if _SHA256.fullmatch(path.name))

    def result(self, worker: str, job: str, attempt: int) -> bytes:
        """What is posted to the gateway, as JSON.

        Raises:
            FileNotFoundError: There is none (any more).
        """
        return (self._folder_of(worker, job, attempt) / _RESULT).read_bytes()

    def remove(self, worker: str, job: str, attempt: int) -> None:
        """Delete a result, or what a job that runs had stored."""
        folder = self._folder_of(worker, job, attempt)
        with self._changing:
            self._waiting.pop(folder, None)
            for path in [path for path in self._sizes if path.parent == folder]:
                del self._sizes[path]
        # First what makes it a result: a leftover without it is removed at the next start.
        discard(folder / _RESULT)
        discard(folder)

    def give_up_old(self) -> list[Spooled]:
        """Delete the results that have waited too long; which those were."""
        due = self.clock() - self._limits.retention
        old = [spooled for spooled in self.waiting() if spooled.since < due]
        for spooled in old:
            self.remove(spooled.worker, spooled.job, spooled.attempt)
        return old

    def clock(self) -> float:
        """Seconds that workers with this folder have been up, in all."""
        return self._saved + self._monotonic() - self._begun

    def save_clock(self) -> None:
        """Have the next start go on from here.

        Raises:
            OSError: It cannot be written.
        """
        write_whole(self.folder / "clock", f"{self.clock():.3f}".encode())

    def _folder_of(self, worker: str, job: str, attempt: int) -> Path:
        name = f"{job}.{attempt}"
        if not _NAME.fullmatch(name):
            raise LocalStorageError(f"{name!r} cannot be the name of a result.")
        return self.folder / "results" / worker / name

    def _check_room(self, path: Path, size: int) -> None:
        if self.used + size > self._limits.size:
            raise LocalStorageError(
                f"An output of {size_text(size)} does not fit into {self.folder}, which may hold "
                f"{size_text(self._limits.size)} of results.",
                advice="Make it smaller, or wait until the gateway has taken the others.",
                details={"path": str(path)},
            )
        if shutil.disk_usage(path.parent).free - size < self._limits.free:
            raise OSError(errno.ENOSPC, "the rest is reserved")

    def _read_clock(self) -> float:
        try:
            seconds = float((self.folder / "clock").read_bytes()[:40])
        except (OSError, ValueError):
            return 0.0
        return seconds if 0 <= seconds < 1e12 else 0.0

    def _read_home(self) -> str:
        path = self.folder / "home"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if _HEX.fullmatch(found := path.read_bytes()[:40].decode().strip()):
                return found
        made = uuid.uuid4().hex
        write_whole(path, made.encode(), durable=True)
        return made

    def _check_owner(self, owner: str) -> None:
        """Refuse to offer results to another gateway than theirs, which would have them deleted."""
        path = self.folder / "owner"
        before = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            before = path.read_bytes()[:80].decode()
        if before == owner:
            return
        if before and self._waiting:
            raise ConfigurationError(
                f"{len(self._waiting)} results wait in {self.folder} for the gateway that gave "
                "this worker another token.",
                advice="Start it once with that token to deliver them, or delete the folder.",
            )
        write_whole(path, owner.encode())

    def _read_results(self) -> None:
        for folder in self.folder.glob("results/*/*"):
            if not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
                continue
            job, _, attempt = folder.name.rpartition(".")
            try:
                since = (folder / _RESULT).stat().st_mtime
            except FileNotFoundError:
                # The process ended before the job did: it is lost, and the gateway knows.
                discard(folder)
                continue
            for path in folder.iterdir():
                self._sizes[path] = path.stat().st_size
            spooled = Spooled(folder.parent.name, job, int(attempt), min(since, self._saved))
            self._waiting[folder] = spooled
        if self._waiting:
            _log.info("%d results wait to be delivered.", len(self._waiting))
