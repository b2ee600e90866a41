"""Who else is at work on the same models folder: several workers may share one volume.

Nothing here relies on locks of the operating system, which network volumes do not pass on. A
worker leaves a mark, a small file that it writes again every 10 s, while it uses or fetches
models. A lock is a file that only one can create, with its owner's mark in it; it holds while
that mark is fresh. How old a mark is follows from the times that the volume itself gives to
files, compared to that of our own mark: no two machines' clocks are compared. Of a worker on this
very host, the process itself is looked at: what a killed one held is free at once.

A worker that was stopped for a minute (a frozen container) may lose what it held. A
download may then be made twice, or a model fetched again; no file that is not ours is ever
touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ...media.file_changes import discard, link_file, patiently, remove_file, rename_path
from ...media.files import storage_errors
from .folders import OUR_FOLDER

__all__ = ["Busy", "Presence", "ProcessMark"]

_POLL = 0.5
_log = logging.getLogger(__name__)


class Busy(Exception):
    """Another worker is at work; its name is the message."""


class Presence:
    """This worker, as others on the volume see it.

    Its contexts raise `LocalStorageError` if the volume cannot be written to.

    Args:
        beat: Seconds between two signs of life.
        stale: Seconds without one after which a worker counts as gone.
    """

    def __init__(self, root: Path, worker: str, *, beat: float = 10.0, stale: float = 60.0) -> None:
        self._marks = root / OUR_FOLDER / "workers"
        self._locks = root / OUR_FOLDER / "locks"
        self._token = uuid.uuid4().hex
        self._mark = self._marks / f"{self._token}.json"
        self._own = ProcessMark.own(worker)
        self._beat = beat
        self._stale = stale
        self._users = 0
        self._heart: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def using(self, on_wait: Callable[[str], None] | None = None) -> AsyncIterator[None]:
        """While inside, no other worker prunes. Waits for one that does.

        Args:
            on_wait: Called with the name of the worker that is waited for.
        """
        with storage_errors(self._marks):
            await asyncio.to_thread(self._enter)
        self._users += 1
        if self._heart is None:
            self._heart = asyncio.create_task(self._keep_beating())
        try:
            prune = self._locks / "prune"
            while (owner := await asyncio.to_thread(self._owner_of, prune)) is not None:
                if on_wait is not None:
                    on_wait(owner)
                await asyncio.sleep(_POLL)
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._heart.cancel()
                self._heart = None
                discard(self._mark)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While inside, no other worker uses models or fetches any.

        Raises:
            Busy: One does. It is not waited for: its job may take hours.
        """
        async with self.using():
            lock = self._locks / "prune"
            with storage_errors(lock):
                owner = await asyncio.to_thread(self._take, lock)
            if owner is not None:
                raise Busy(owner)
            try:
                with storage_errors(self._marks):
                    others = await asyncio.to_thread(self._others)
                if others:
                    raise Busy(", ".join(others))
                yield
            finally:
                await asyncio.to_thread(self._give_back, lock)

    @asynccontextmanager
    async def claim(self, key: str, on_wait: Callable[[str], None]) -> AsyncIterator[None]:
        """While inside, no other worker fetches the same file. Waits for one that does.

        Only inside `using`.
        """
        lock = self._locks / key
        with storage_errors(lock):
            while (owner := await asyncio.to_thread(self._take, lock)) is not None:
                on_wait(owner)
                await asyncio.sleep(_POLL)
        try:
            yield
        finally:
            await asyncio.to_thread(self._give_back, lock)

    def holds(self, key: str) -> bool:
        """Whether a `claim` is still ours: a worker that stood still counts as gone. Blocking."""
        try:
            return (self._locks / key).read_text(encoding="utf-8") == self._token
        except OSError:
            return False

    def _enter(self) -> None:
        for folder in (self._marks, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        self._write_mark()

    def _write_mark(self) -> None:
        self._mark.write_text(self._own.model_dump_json(), encoding="utf-8")

    def _refresh_mark(self) -> None:
        if self._users:  # else it was removed while this thread was being started
            self._write_mark()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._beat)
            try:
                await asyncio.to_thread(self._refresh_mark)
            except OSError as error:
                _log.warning("no sign of life could be left in %s: %s", self._marks, error)

    def _others(self) -> list[str]:
        """Names of the other workers whose marks are fresh. Old marks are removed."""
        self._write_mark()
        others = []
        for mark in self._marks.glob("*.json"):
            if mark == self._mark:
                continue
            if self._is_fresh(mark):
                others.append(_name_in(mark))
            else:
                discard(mark)
        return others

    def _is_fresh(self, path: Path) -> bool:
        """By the volume's own clock, which has just dated our mark."""
        try:
            age = self._mark.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return False
        return age < self._stale and not ProcessMark.read(path).is_gone()

    def _owner_of(self, lock: Path) -> str | None:
        """The name of the other worker that holds a lock."""
        try:
            token = lock.read_text(encoding="utf-8")
        except OSError:
            return None
        if token == self._token:
            return None
        self._write_mark()
        mark = self._marks / f"{token}.json"
        # Without a token, it has only just been created.
        return _name_in(mark) if self._is_fresh(mark if token else lock) else None

    def _take(self, lock: Path) -> str | None:
        """Take a lock; the name of its owner if another worker has it."""
        while True:
            try:
                handle = patiently(os.open, lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if (owner := self._owner_of(lock)) is not None:
                    return owner
                if not self._break(lock):
                    return "another worker"
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self._token)
            return None

    def _break(self, lock: Path) -> bool:
        """Remove the lock of a worker that is gone; whether it was removed."""
        try:
            stale = lock.read_text(encoding="utf-8")
            aside = lock.with_name(f"{lock.name}.{self._token}")
            rename_path(lock, aside)
            if aside.read_text(encoding="utf-8") != stale:
                # Somebody was quicker, and this is their lock.
                with contextlib.suppress(OSError):
                    link_file(aside, lock)
                discard(aside)
                return False
            discard(aside)
        except FileNotFoundError:
            pass  # it was given back meanwhile
        return True

    def _give_back(self, lock: Path) -> None:
        with contextlib.suppress(OSError):
            if lock.read_text(encoding="utf-8") == self._token:
                remove_file(lock)


def _name_in(mark: Path) -> str:
    return ProcessMark.read(mark).worker[:80]


class ProcessMark(BaseModel):
    """What a worker writes about itself.

    Attributes:
        worker: What to call it.
        host: The machine, since it was switched on, and the container: process ids mean the same
            to all that have the same.
        pid: Its process; 0 in marks of older versions.
        started: When the process began, as the system counts; ``None`` where it does not tell. A
            number that is used again later is another process.
    """

    worker: str = "another worker"
    host: str = ""
    pid: int = 0
    started: int | None = None

    @classmethod
    def own(cls, worker: str) -> ProcessMark:
        """Of this process."""
        pid = os.getpid()
        return cls(worker=worker, host=_host(), pid=pid, started=_started(pid))

    @classmethod
    def read(cls, path: Path) -> ProcessMark:
        """The mark in a file; an empty one if it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls()

    def is_gone(self) -> bool:
        """Whether that process has certainly ended. ``False`` of one that cannot be looked at."""
        if not self.pid or self.host != _host():
            return False
        if not _runs(self.pid):
            return True
        return self.started is not None and _started(self.pid) != self.started


def _host() -> str:
    """Identifies this host, its boot and its container."""
    with contextlib.suppress(OSError):  # Linux only
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        container = Path("/proc/self/ns/pid").readlink()
        return f"{platform.node()}|{boot}|{container}"
    return platform.node()


def _started(pid: int) -> int | None:
    """Clock ticks since the machine was switched on (proc(5), field 22); Linux only."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _runs(pid: int) -> bool:
    if sys.platform == "win32":
        return _runs_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and not ours
    return True


def _runs_on_windows(pid: int) -> bool:
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes

    query, still_active, no_such_process = 0x1000, 259, 87
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    handle = kernel.OpenProcess(query, False, pid)
    if not handle:
        return ctypes.get_last_error() != no_such_process
    try:
        status = ctypes.c_ulong()
        return not kernel.GetExitCodeProcess(handle, ctypes.byref(status)) or (
            status.value == still_active
        )
    finally:
        kernel.CloseHandle(handle)
