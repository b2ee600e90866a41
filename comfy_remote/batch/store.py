"""Batches on this machine: made, opened by one driver at a time, and removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import partial
from itertools import chain, count, islice
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from ..advice import Hint
from ..aio import Deadline
from ..config.settings import Configuration
from ..errors import ConfigurationError, LocalStorageError
from ..jobs.client import Client
from ..jobs.prices import known_price
from ..jobs.record import BatchEntry, BatchState, Record, Wanted
from ..media.file_changes import discard, remove_empty_folder
from ..media.files import safe_relative_path, storage_errors, write_whole
from ..media.temporary import ProcessLock, is_locked
from ..targets.base import server_of
from ..targets.launch import PACKAGE_PARENT, detached, own_program
from ..targets.opening import open_target
from ..types import mapping
from .draft import Draft
from .driver import Driver, DriverTimes
from .frozen import Frozen, FrozenFile, batch_folder, described_file
from .hours import Hours
from .plan import Plan

if TYPE_CHECKING:
    from ..types import JsonValue

__all__ = [
    "batch_page",
    "driving",
    "is_driven",
    "lease",
    "make",
    "remove",
    "retry_failed",
    "start_background",
]

_LOCK = "driver.lock"
_LOG = "driver.log"
_DESCRIPTION = "batch.json"
_PATIENCE = 2.0
_ENDS_WITHIN = 5.0
"""Seconds that the process of a batch that is over may still take to end."""
_TRIES = 50
"""For a name that no other batch takes at the same time."""
_MOST_SHOWN = 200
"""Values of an axis that ``batch.json`` has."""


async def make(
    draft: Draft,
    client: Client,
    *,
    made_by: str = "",
    on_file: Callable[[int], object] | None = None,
) -> BatchEntry:
    """Make a batch: from now on, nothing that the user changes changes it. Nothing is sent.

    Args:
        client: Open, for its target.
        made_by: See `BatchEntry`.
        on_file: Called with how many of its input files have been read.

    Raises:
        ConfigurationError: Another batch has its name.
        InputFileMissing: A file is not here.
        LocalStorageError: It cannot be written.
    """
    record = client.record
    files = await _described(draft, client, on_file)
    server = dict(server_of(client.target))
    frozen = draft.frozen.model_copy(update={"files": files, "server": server})
    batch_id = str(uuid.uuid4())
    kept = batch_folder(record.path.parent, batch_id)

    def keep() -> None:
        with storage_errors(kept):
            kept.mkdir(parents=True, mode=0o700)
        draft.plan.save(kept)
        frozen.save(kept)

    try:
        await asyncio.to_thread(keep)
        return await _recorded(batch_id, draft, frozen, client, made_by)
    except BaseException:
        await asyncio.to_thread(discard, kept)
        raise


async def _recorded(
    batch_id: str, draft: Draft, frozen: Frozen, client: Client, made_by: str
) -> BatchEntry:
    """Take a folder and a name that are free, also while others take theirs."""
    options = draft.options
    for left in reversed(range(_TRIES)):
        entry = await _named(batch_id, draft, client, made_by)
        try:
            if await asyncio.to_thread(_claim, entry, frozen, draft.plan):
                await _add(entry, client.record)
                return entry
        except ConfigurationError:  # another has its name
            if options.name is not None or not left:
                raise
        else:
            if options.name is not None or options.folder is not None:
                break
    raise ConfigurationError(
        f"{entry.folder} has the outputs of another batch.", advice=Hint.BATCH_FOLDER()
    )


async def _named(batch_id: str, draft: Draft, client: Client, made_by: str) -> BatchEntry:
    """A batch as it will be recorded, with a name and a folder that are free now."""
    record, options, frozen = client.record, draft.options, draft.frozen
    names = await record.read(record.batches.names)
    below = options.below or Path("outputs")
    name = options.name
    if not name:
        name = await asyncio.to_thread(_free_name, frozen.source, names, below)
    folder = options.folder or below / safe_relative_path(name).name
    now = time.time()
    return BatchEntry(
        *(batch_id, name, now, now, frozen.target or client.target.name, frozen.source),
        *(folder.expanduser().absolute(), draft.plan.count, BatchState.WAITING, None, Wanted.RUN),
        made_by,
        cap=options.cap,
        over_cap=options.over_cap,
    )


def _claim(entry: BatchEntry, frozen: Frozen, plan: Plan) -> bool:
    """Make a batch's folder, and describe it there; whether no other batch has that. Blocking."""
    path = entry.folder / _DESCRIPTION
    described = json.dumps(_description(entry, frozen, plan), ensure_ascii=False)
    with storage_errors(entry.folder):
        entry.folder.mkdir(parents=True, exist_ok=True)
    with storage_errors(path):
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            return False
        try:
            write_whole(path, described.encode("utf-8", errors="replace"))
        except BaseException:
            discard(path)
            raise
    return True


async def _add(entry: BatchEntry, record: Record) -> None:
    """Record a batch, or leave its folder to others."""
    try:
        await record.write(record.batches.add, entry)
    except BaseException:
        await asyncio.to_thread(discard, entry.folder / _DESCRIPTION)
        with contextlib.suppress(OSError):  # others' files are in it
            await asyncio.to_thread(remove_empty_folder, entry.folder)
        raise


async def _described(
    draft: Draft, client: Client, on_file: Callable[[int], object] | None
) -> list[FrozenFile]:
    """Every file that a run may load, as it is now."""
    plan, frozen = draft.plan, draft.frozen
    changes = plan.changes(0, frozen.base())
    first = await client.prepare(
        frozen.loaded(changes),
        changes=changes,
        inputs=[*plan.files(0), *draft.inputs],
        base=draft.base,
        schemas=frozen.known_schemas(),
    )
    of_first = [file.path for file in first.files]

    def describe() -> list[FrozenFile]:
        files: dict[Path, FrozenFile] = {}
        for path in chain(of_first, draft.inputs, plan.all_files()):
            if (path := path.absolute()) not in files:
                files[path] = described_file(path)
                if on_file is not None:
                    on_file(len(files))
        return list(files.values())

    return await asyncio.to_thread(describe)


def batch_page(folder: Path) -> dict[str, JsonValue]:
    """What ``batch.json`` in the folder of a batch's outputs says; empty if it says nothing.

    Blocking.
    """
    try:
        return mapping(json.loads((folder / _DESCRIPTION).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _free_name(source: str, taken: Collection[str], below: Path) -> str:
    """What a batch is called by default: like its workflow, and not like another or its folder."""
    stem = PureWindowsPath(source.rpartition(":")[2] if "/" not in source else source).stem
    stem = re.sub(r"\s+", " ", stem).strip() or "batch"
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))

    def free(name: str) -> bool:
        return name not in taken and not (below / safe_relative_path(name).name).exists()

    return next(filter(free, names))


def _description(entry: BatchEntry, frozen: Frozen, plan: Plan) -> dict[str, JsonValue]:
    """``batch.json``, for the sheet and for people."""
    created = datetime.fromtimestamp(entry.created, timezone.utc)
    command: list[JsonValue] = ["comfy-remote", "run", frozen.source]
    if frozen.target is not None:
        command += ["--on", frozen.target]
    axes: list[JsonValue] = []
    for axis in plan.axes:
        shown = islice(range(axis.count), _MOST_SHOWN)
        # A row of a table may leave some as they are: null.
        values: list[JsonValue] = [list(map(axis.at(n).get, axis.names)) for n in shown]
        axes.append({"names": list(axis.names), "count": axis.count, "values": values})
    return {
        "version": 1,
        "id": entry.id,
        "name": entry.name,
        "workflow": frozen.source,
        "target": entry.target,
        "created": created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "count": entry.count,
        "axes": axes,
        "prompt": frozen.prompt,
        "sets": {one.name: [list(place) for place in one.places] for one in plan.inputs},
        "command": command,
    }


@contextlib.contextmanager
def lease(record_folder: Path, batch_id: str) -> Iterator[None]:
    """Be its one driver. The system ends this with the process, however that ends. Blocking.

    Raises:
        ConfigurationError: Another program drives it.
        LocalStorageError: What was kept of it is gone, or cannot be written.
    """
    path = batch_folder(record_folder, batch_id) / _LOCK
    try:
        lock = ProcessLock(path, patience=_PATIENCE)
    except sqlite3.Error as error:
        if "locked" not in str(error):
            raise LocalStorageError(
                f"{path} could not be opened ({error}), so this batch cannot go on.",
                advice="What it has made is still in its folder. Make a new batch for the rest.",
                details={"path": str(path)},
            ) from error
        raise ConfigurationError(
            "Another program runs this batch already.",
            advice=Hint.WATCH_BATCH(batch=batch_id[:8]),
        ) from error
    try:
        yield
    finally:
        lock.close()


def is_driven(record_folder: Path, batch_id: str) -> bool:
    """Whether a program that is alive drives a batch. Blocking."""
    lock = batch_folder(record_folder, batch_id) / _LOCK
    return lock.is_file() and is_locked(lock)


async def retry_failed(entry: BatchEntry, record: Record) -> int:
    """Let its failed and cancelled runs begin once more, when it is driven next; how many.

    Raises:
        ConfigurationError: A program drives it, which knows by now what is left.
    """
    over = entry.state not in (BatchState.RUNNING, BatchState.WAITING)
    deadline = Deadline(_ENDS_WITHIN if over else 0.0)
    while await asyncio.to_thread(is_driven, record.path.parent, entry.id):
        if deadline.left:
            await asyncio.sleep(0.1)
            continue
        raise ConfigurationError(
            f"{entry.name} is running. What has failed can be run again when it is over.",
            advice=Hint.WATCH_BATCH(batch=entry.id[:8]),
        )
    return await record.write(record.batches.retry_failed, entry.id)


@asynccontextmanager
async def driving(
    entry: BatchEntry,
    record: Record,
    *,
    client: Client | None = None,
    by_hand: bool = True,
    times: DriverTimes = DriverTimes(),  # noqa: B008 - frozen
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Driver]:
    """A driver for a batch, with its lease and an open target. Iterate over it for events.

    Args:
        client: Open, for its target, if there is one; a target without a name needs it.
        by_hand: Whether somebody resumes it now: then it does not wait for its start.

    Raises:
        ConfigurationError: Another program drives it; or its target is not configured any more.
        LocalStorageError: What was kept of it is damaged.
        TargetError: The target cannot be opened.
    """
    kept = batch_folder(record.path.parent, entry.id)
    async with contextlib.AsyncExitStack() as stack:
        held = contextlib.ExitStack()
        await asyncio.to_thread(held.enter_context, lease(record.path.parent, entry.id))
        stack.callback(held.close)
        frozen = await asyncio.to_thread(Frozen.load, kept)
        plan = await asyncio.to_thread(Plan.load, kept)
        stack.callback(plan.close)
        price = None
        if frozen.target is not None:
            configuration = await asyncio.to_thread(
                Configuration.load, frozen.folder, file=frozen.config
            )
            if client is None:
                target = open_target(frozen.target, configuration)
                client = await stack.enter_async_context(
                    Client(
                        target,
                        record=record,
                        configured=partial(Configuration.load, frozen.folder, file=frozen.config),
                        on_interrupt=None,
                    )
                )
            background = client.background
            price = await known_price(frozen.target, configuration, background=background)
        if client is None:
            raise ConfigurationError(
                "This batch was made for a target that has no name here.",
                advice="Resume it in a program, with a client for that target.",
            )
        hours = Hours(frozen.start, frozen.until)
        if by_hand:
            hours = hours.resumed(now())
        yield Driver(client, entry, frozen, plan, price=price, hours=hours, times=times, now=now)


async def remove(entry: BatchEntry, record: Record) -> None:
    """Forget a batch. The files in its folder stay.

    Raises:
        ConfigurationError: A program drives it.
    """
    if await asyncio.to_thread(is_driven, record.path.parent, entry.id):
        raise ConfigurationError(
            f"The batch {entry.name} is running.",
            advice=Hint.CANCEL_BATCH(batch=entry.name),
        )
    await record.write(record.batches.remove, entry.id)
    await asyncio.to_thread(discard, batch_folder(record.path.parent, entry.id))


def start_background(entry: BatchEntry, record_folder: Path) -> None:
    """Have a process of its own drive a batch, which ends when that does. Blocking.

    What it has to say is in ``driver.log`` of the batch's folder beside the record.

    Raises:
        LocalStorageError: It cannot be started.
    """
    kept = batch_folder(record_folder, entry.id)
    with storage_errors(kept), (kept / _LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, *own_program("batch"), str(record_folder), entry.id],
            cwd=PACKAGE_PARENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **detached(),
        )
