"""The SHA-256 of models: noted in their models folder, and read while no job runs.

A model of 20 GB takes a minute to read, so nobody waits for it: only what is known is reported.
Each note is a small file in ``models/.comfy-remote/hashes``: all workers of a volume know it, and
those that share one never overwrite one another's. It holds for the size and the time that the
model had.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from ...media.file_changes import discard
from ...media.files import sha256_of, write_whole
from .folders import OUR_FOLDER

__all__ = ["IdleHashing", "ModelHashes"]

_SECOND = 1_000_000_000  # in ns
_log = logging.getLogger(__name__)


class _Note(BaseModel):
    """The hash of one model.

    Attributes:
        path: Relative to the models folder, ``/`` between parts.
        modified: Its modification time, in ns since 1970.
    """

    path: str
    size: int = Field(ge=0)
    modified: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file has the size and time still.

        To the second: a volume that was mounted again may have dropped the rest.
        """
        same_time = abs(status.st_mtime_ns - self.modified) < _SECOND
        return status.st_size == self.size and same_time


class ModelHashes:
    """The hashes that are known. All methods block, and may be called from any thread."""

    def __init__(self) -> None:
        self._notes: dict[Path, _Note] = {}

    def known(self, root: Path, path: Path) -> str | None:
        """A model's hash, if it is known.

        Args:
            root: The models folder that ``path`` is in.
        """
        try:
            status = path.stat()
        except OSError:
            return None
        note = self._notes.get(path)
        if note is None or not note.is_of(status):
            note = _read(_place(root, path))
            if note is None or note.path != _name(root, path) or not note.is_of(status):
                return None
            self._notes[path] = note
        return note.sha256

    def of(self, root: Path, path: Path) -> str:
        """A model's hash, for which it is read if need be. Nothing is noted on the disk.

        Raises:
            OSError: It cannot be read.
        """
        if (known := self.known(root, path)) is not None:
            return known
        note = _note(root, path, path.stat(), sha256_of(path))
        self._notes[path] = note
        return note.sha256

    def note(self, root: Path, path: Path, status: os.stat_result, sha256: str) -> None:
        """Note a hash, also on the disk if that can be written to.

        Args:
            status: Of the file, from before it was read.
        """
        self._notes[path] = note = _note(root, path, status, sha256)
        with contextlib.suppress(OSError):
            write_whole(_place(root, path), note.model_dump_json().encode())

    def forget_gone(self, root: Path) -> None:
        """Remove the notes of models that are no longer in a models folder."""
        for place in (root / OUR_FOLDER / "hashes").glob("*.json"):
            note = _read(place)
            gone = note is not None and not (root / note.path).exists()
            if note is None or gone:
                discard(place)


def _note(root: Path, path: Path, status: os.stat_result, sha256: str) -> _Note:
    return _Note(
        path=_name(root, path), size=status.st_size, modified=status.st_mtime_ns, sha256=sha256
    )


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _place(root: Path, path: Path) -> Path:
    name = hashlib.sha256(_name(root, path).encode()).hexdigest()[:32]
    return root / OUR_FOLDER / "hashes" / f"{name}.json"


def _read(path: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


class IdleHashing:
    """Reads the models whose hash is not known, in a thread, while no job runs.

    The thread lives only while there is something to read. While a job runs it reads nothing, and
    goes on afterwards where it was.

    Args:
        models: Gives the models that there are: models folder and path of each.
        wanted: Whether it is to read anything at all; asked in the thread.
        quiet: Seconds without a job before it reads: jobs that follow each other at once are not
            held up.
        again: Seconds before it looks for new models.
        step: Bytes that it reads before it looks again whether a job has come.
    """

    def __init__(
        self,
        hashes: ModelHashes,
        models: Callable[[], Sequence[tuple[Path, Path]]],
        *,
        wanted: Callable[[], bool] = lambda: True,
        quiet: float = 2.0,
        again: float = 600.0,
        step: int = 8 * 1024 * 1024,
    ) -> None:
        self._hashes = hashes
        self._models = models
        self._wanted = wanted
        self._quiet = quiet
        self._again = again
        self._step = step
        self._changed = threading.Condition()
        self._jobs = 0
        self._last_job = 0.0
        self._last_look = -again
        self._thread: threading.Thread | None = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While inside, nothing is read. At the end, reading begins or goes on."""
        with self._changed:
            self._jobs += 1
        try:
            yield
        finally:
            with self._changed:
                self._jobs -= 1
                self._last_job = time.monotonic()
                self._changed.notify_all()
                stale = self._last_job - self._last_look >= self._again
                if self._thread is None and stale:
                    self._last_look = self._last_job
                    self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="model hashes", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the machine has no room for one; the job is done
            _log.warning("the hashes of the models are not computed: %s", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        try:
            if not self._wanted():
                return
            self._wait_until_idle()
            models = self._models()
            for root in {root for root, _ in models}:
                self._hashes.forget_gone(root)
            left = [one for one in models if self._hashes.known(*one) is None]
            # Workers that share a volume begin with different ones.
            random.shuffle(left)
            for root, path in left:
                self._read(root, path)
        except Exception as error:  # noqa: BLE001 - nobody else would learn of it
            _log.warning("the hashes of the models cannot be computed: %s", error)
        finally:
            with self._changed:
                self._thread = None

    def _read(self, root: Path, path: Path) -> None:
        digest, offset = hashlib.sha256(), 0
        try:
            if self._hashes.known(root, path) is not None:
                return  # another worker has been there
            before = path.stat()
            while offset < before.st_size:
                self._wait_until_idle()
                # Opened for each step: while a job runs, it can be removed on Windows, too.
                with path.open("rb") as file:
                    file.seek(offset)
                    chunk = file.read(self._step)
                if not chunk:
                    return
                digest.update(chunk)
                offset += len(chunk)
            after = path.stat()
        except OSError as error:
            _log.info("the hash of %s cannot be computed: %s", path.name, error)
            return
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            self._hashes.note(root, path, before, digest.hexdigest())

    def _wait_until_idle(self) -> None:
        with self._changed:
            while True:
                left = self._last_job + self._quiet - time.monotonic()
                if not self._jobs and left <= 0:
                    return
                self._changed.wait(None if self._jobs else left)
