"""Workers that are kept waiting for jobs until a moment, on targets that stop idle ones.

A worker is kept by small jobs, each sent before it has been idle for too long. Where the target
stops a worker after seconds, that time is made longer meanwhile, and put back at the end. Nothing
keeps a worker by itself: if this program is killed, it stops after ten minutes at the latest. What
was changed is noted before, in the owner's data folder, and the next start puts it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ..aio import in_thread, within
from ..config.folders import home
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, ConfigurationError, TargetError, TargetNotFound
from ..media.file_changes import discard
from ..media.files import OWN_DATA, storage_errors, write_whole
from ..media.temporary import ProcessLock
from ..targets.base import HoldsWorkers, Target, WakesWorkers, server_of
from ..targets.opening import open_target
from ..units import seconds_text

__all__ = [
    "LONGEST",
    "WarmTimes",
    "can_keep_warm",
    "keep_warm",
    "left_behind",
    "put_back",
    "start_worker",
]

LONGEST = 24 * 3600.0
"""Seconds that workers may be kept: nobody pays for a week by a slip."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WarmTimes:
    """In seconds.

    Attributes:
        shortest: An idle time below it is made longer.
        lease: What it is made: a worker that nobody keeps any more stops after it.
        share: Of the idle time, before the next small job is sent.
        start: For a worker to start.
        put_back: For the endpoint to take its settings back.
    """

    shortest: float = 30.0
    lease: float = 600.0
    share: float = 0.6
    start: float = 900.0
    put_back: float = 20.0


class _Note(BaseModel):
    """What was changed at a target.

    Attributes:
        target: As it was named.
        address: Where it is, if the name means something else by then.
        before: Seconds; what is put back.
        meanwhile: Seconds; any other value at the target is somebody else's change.
    """

    target: str
    address: str
    server: dict[str, str]
    before: float
    meanwhile: float


def can_keep_warm(target: Target) -> bool:
    """Whether its workers can be kept waiting."""
    return isinstance(target, HoldsWorkers) and target.can_hold


async def start_worker(target: Target, times: WarmTimes = WarmTimes()) -> None:
    """Have a worker started, if none is up, and return once one has answered.

    Raises:
        ComfyRemoteError: None has.
    """
    if not isinstance(target, WakesWorkers):
        raise ConfigurationError(f"{target.name} has no workers that could be started.")
    try:
        await within(target.wake(), times.start)
    except asyncio.TimeoutError:
        raise TargetError(
            f"No worker of {target.name} started within {seconds_text(times.start)}."
        ) from None


async def keep_warm(
    target: Target,
    until: Callable[[], float],
    *,
    address: str | None = None,
    folder: Path | None = None,
    times: WarmTimes = WarmTimes(),
    on_warm: Callable[[], None] = lambda: None,
) -> None:
    """Start a worker, and keep it until a moment. Cancelled, it ends early; settings are put back.

    Args:
        until: Seconds since the epoch; asked again after each small job.
        address: Of the target, without a name of the owner's.
        folder: The owner's data folder, by default.
        on_warm: Called when the first worker has answered.

    Raises:
        ConfigurationError: Its workers cannot be kept, or another program keeps them.
        ComfyRemoteError: No worker answers, or what was changed could not be put back.
    """
    if not isinstance(target, HoldsWorkers) or not target.can_hold:
        raise ConfigurationError(
            f"{target.name} has no idle workers that could be kept: RunPod's endpoints and apps on "
            "Modal have."
        )
    async with _noted(target, address or target.name, folder, times) as idle:
        last: float | None = None
        while True:
            try:
                if last is None or (await target.health()).running == 0:
                    await start_worker(target, times)
            except ComfyRemoteError as error:
                if last is None:
                    raise
                _log.warning("a worker of %s may stop: %s", target.name, error)
            if last is None:
                on_warm()
            last = time.time()
            if not await _waited(last, idle, until, times):
                return


_PIECE = 30.0


async def _waited(last: float, idle: float, until: Callable[[], float], times: WarmTimes) -> bool:
    """Wait until the next small job is due; ``False`` once all is over."""
    left = _until_next(last, idle, until(), times)
    while left:
        await asyncio.sleep(min(left, _PIECE))
        left = _until_next(last, idle, until(), times)
    return left is not None


def _until_next(last: float, idle: float, until: float, times: WarmTimes) -> float | None:
    """Seconds until the next small job is due, or all is over; ``None`` once it is.

    Args:
        last: When the last one was sent.
        idle: Seconds after it that the worker stops.
    """
    now = time.time()
    if now >= until:
        return None
    if last + idle >= until:
        return until - now
    # The last one is sent so that the worker stops then.
    return max(0.0, min(last + idle * times.share, until - idle) - now)


@asynccontextmanager
async def _noted(
    target: HoldsWorkers, address: str, folder: Path | None, times: WarmTimes
) -> AsyncIterator[float]:
    """The idle time of a target's workers, which is long enough inside."""
    path = _path(folder, target)
    lock = await in_thread(_locked, path, target.name)
    try:
        idle = await within(target.idle_time(), times.put_back)
        note = await in_thread(_read, path)
        if note is None or note.meanwhile != idle:
            if idle >= times.shortest:
                yield idle
                return
            note = _Note(
                target=target.name,
                address=address,
                server=dict(server_of(target)),
                before=idle,
                meanwhile=times.lease,
            )
            await in_thread(_write, path, note)
        try:
            await target.set_idle_time(note.meanwhile)
            yield note.meanwhile
        finally:
            await asyncio.shield(within(_restore(target, note, path), times.put_back))
    finally:
        lock.close()


def left_behind(folder: Path | None = None) -> list[Path]:
    """The notes of what was changed and may not have been put back. Blocking."""
    try:
        return sorted(_folder(folder).glob("*.json"))
    except OSError:
        return []


async def put_back(notes: list[Path], times: WarmTimes = WarmTimes()) -> list[str]:
    """Put back what programs had changed that have ended since.

    Returns:
        A sentence for each target where that was done, or could not be.
    """
    said = []
    for path in notes:
        try:
            lock = await in_thread(_locked, path, "")
        except ComfyRemoteError:
            continue  # a program that runs keeps that target's workers
        try:
            if (note := await in_thread(_read, path)) is not None:
                said.append(await _put_back_one(note, path, times))
        finally:
            lock.close()
    return said


async def _put_back_one(note: _Note, path: Path, times: WarmTimes) -> str:
    try:
        async with await in_thread(_opened, note) as target:
            if not isinstance(target, HoldsWorkers):
                raise ConfigurationError(f"{note.target} is another target by now.")
            await within(_restore(target, note, path), times.put_back)
    except (ComfyRemoteError, asyncio.TimeoutError) as error:
        why = error.message if isinstance(error, ComfyRemoteError) else "It does not answer."
        return (
            f"Workers of {note.target} still wait {note.meanwhile:.0f} s for their next job, since "
            f"a program that kept them has ended early, and not {note.before:.0f} s. {why} The "
            "next start tries again; or set the idle timeout in the console."
        )
    return f"Idle workers of {note.target} stop after {note.before:.0f} s again."


def _opened(note: _Note) -> Target:
    """The target of a note: by its name, as long as that means the same server."""
    configuration = Configuration.load()
    if configuration.settings_of(note.target) is not None:
        target = open_target(note.target, configuration)
        if dict(server_of(target)) == note.server:
            return target
    return open_target(note.address, configuration)


async def _restore(target: HoldsWorkers, note: _Note, path: Path) -> None:
    """Put an idle time back, unless somebody else has changed it since.

    Raises:
        ComfyRemoteError: It could not be; the note stays.
    """
    try:
        if await target.idle_time() == note.meanwhile:
            await target.set_idle_time(note.before)
    except TargetNotFound:
        pass  # the endpoint was deleted
    await in_thread(discard, path)


def _folder(folder: Path | None) -> Path:
    return (folder or home()) / "warm"


def _path(folder: Path | None, target: Target) -> Path:
    """The note of a server; the same whatever the target is called."""
    server = "\n".join(f"{key}={value}" for key, value in sorted(server_of(target).items()))
    name = hashlib.sha256((server or target.name).encode()).hexdigest()[:24]
    return _folder(folder) / f"{name}.json"


def _locked(path: Path, name: str) -> ProcessLock:
    with storage_errors(path, denied=OWN_DATA):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return ProcessLock(path.with_suffix(".lock"))
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"Another program keeps workers of {name} waiting already.",
            advice="Stop it there first: Ctrl-C in its terminal, or the panel in ComfyUI's page.",
        ) from error


def _read(path: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, note: _Note) -> None:
    with storage_errors(path, denied=OWN_DATA):
        write_whole(path, note.model_dump_json().encode(), durable=True)
