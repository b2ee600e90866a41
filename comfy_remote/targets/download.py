"""Downloading one output: streamed, resumed where it broke, counted and hashed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..advice import Hint
from ..aio import in_thread
from ..errors import OutputCorrupt, OutputLost, RateLimited, TargetUnreachable, ValueInvalid
from ..media.disk_space import DiskLimits
from ..media.files import blake3_of, sha256_of, storage_errors
from ..media.partial import PartialFile
from ..media.receive import Received
from ..media.remote_values import sha256_in_name
from ..media.verify import check_whole
from ..net.retry import Backoff, Retries
from ..net.throughput import TOO_SLOW
from ..outputs import RemoteOutput
from ..units import size_text
from .base import GivesValues, OnThisMachine, Target, TellsVersions

if TYPE_CHECKING:
    from ..media.values.limits import ValueLimits

__all__ = ["download", "download_value"]

_BACKOFF = Backoff()
# Another connection may be a quick one; with a second slow one it is the line.
_SLOW_ATTEMPTS = 2
_ROOM_CHECKED_EVERY = 16 * 2**20


async def download(
    target: Target,
    output: RemoteOutput,
    path: Path,
    on_bytes: Callable[[int], None] | None = None,
    limits: DiskLimits | None = None,
) -> Received:
    """Download an output to ``path``.

    A broken connection is resumed where it broke, up to five times in a row without a byte. So is
    what an earlier try, perhaps of another process, left there, if it is a part of the very file
    that the target has now: see `PartialFile`. No more than a chunk is held in memory.

    What arrives damaged is fetched once more, after half a second. If it is still damaged then, and
    cannot have been damaged on its way, it is returned with a `Received.doubt`: it came inside the
    target's answer, from this machine, or twice the same from storage.

    Args:
        on_bytes: Called with the number of bytes each chunk brought, also with those of an
            earlier try, and with a negative one when they are thrown away.
        limits: How much of the disk it may take; as the environment says, by default.

    Raises:
        OutputLost: The target no longer has it, or it is empty there.
        OutputCorrupt: Size or SHA-256 differ from what the target announced, or, where it
            announced none, its own format says that it is cut off. Nothing is left.
        OutputTooLarge: It has more bytes than `DiskLimits` allows. Nothing is left.
        TargetUnreachable: The connection kept breaking, or is too slow. What arrived stays, for
            another try.
        LocalStorageError: It cannot be written (disk full, or nearly so), and nothing is left; or
            it cannot get its name, and what arrived stays.
    """
    limits = limits or DiskLimits.of()
    tell = on_bytes or (lambda _size: None)
    if (here := await _here(output, path)) is not None:
        tell(here.size)
        return here
    arrived = 0

    def count(size: int) -> None:
        nonlocal arrived
        arrived += size
        tell(size)

    try:
        return await _fetch(target, output, path, count, limits)
    except OutputCorrupt as error:
        first = str(error.details.get("sha256", ""))
    tell(-arrived)
    # Two ComfyUIs with one output folder write over each other's files: it may be whole soon.
    await asyncio.sleep(_BACKOFF.seconds(2))
    try:
        return await _fetch(target, output, path, tell, limits, first=first)
    except OutputCorrupt as error:
        if output.size or output.sha256 is not None or error.details.get("size") != 0:
            raise
        # The target's file is empty. That does not lose the job's other outputs.
        raise OutputLost(
            f"{output.filename} is empty.",
            advice="The node wrote nothing into it: run the workflow again.",
            details=error.details,
        ) from error


async def download_value(
    target: Target, output: RemoteOutput, limits: ValueLimits
) -> bytearray | memoryview:
    """Download a value file into memory, where its tensors stay; resumed as by `download`.

    One that the target can give on this machine is not sent, but mapped.

    Its content is checked against its hash, which its name has, unless it comes from this
    machine. What arrives damaged is fetched once more.

    Raises:
        OutputLost, OutputCorrupt, TargetUnreachable: As `download`.
        ValueInvalid: It has more bytes than the limits allow.
    """
    here = await target.value_here(output) if isinstance(target, GivesValues) else None
    if here is not None:
        _check_value_size(output, len(here), limits)
        return here
    try:
        return await _fetch_value(target, output, limits)
    except OutputCorrupt:
        return await _fetch_value(target, output, limits)


async def _fetch_value(target: Target, output: RemoteOutput, limits: ValueLimits) -> bytearray:
    arriving = _InMemory()

    await _receive(
        *(target, output, arriving, lambda _size: None),
        lambda: _check_value_size(output, arriving.size, limits),
    )
    expected = output.sha256 or sha256_in_name(output.filename)
    sha256 = expected
    local = isinstance(target, OnThisMachine) and target.local
    if expected is not None and not local:
        sha256 = (await asyncio.to_thread(hashlib.sha256, arriving.data)).hexdigest()
    _check(replace(output, sha256=expected), arriving.size, sha256 or "")
    if expected is None and output.blake3 is not None and not local:
        from blake3 import blake3  # here: few values are announced with it

        found = await asyncio.to_thread(blake3, arriving.data)
        _check_blake3(output, found.hexdigest())
    return arriving.data


def _check_value_size(output: RemoteOutput, size: int, limits: ValueLimits) -> None:
    if size > limits.bytes:
        raise ValueInvalid(
            f"The value file {output.filename} has more than {size_text(limits.bytes)}, which is "
            "the most that a value may have.",
            advice="Send less at once.",
        )


class _Partial(Protocol):
    """What has arrived, and of which version; see `PartialFile`."""

    version: str | None

    @property
    def size(self) -> int: ...

    def begin(self, version: str | None) -> None: ...
    def write(self, chunk: bytes) -> None: ...


class _InMemory:
    def __init__(self) -> None:
        self.data = bytearray()
        self.version: str | None = None

    @property
    def size(self) -> int:
        return len(self.data)

    def begin(self, version: str | None) -> None:
        self.data.clear()
        self.version = version

    def write(self, chunk: bytes) -> None:
        self.data += chunk


async def _here(output: RemoteOutput, path: Path) -> Received | None:
    """The file that an earlier try completed; it was checked then."""
    with storage_errors(path):
        if not path.is_file():
            return None
        here = Received(path, path.stat().st_size, await asyncio.to_thread(sha256_of, path))
    return here if output.sha256 in (None, here.sha256) else None


async def _fetch(
    target: Target,
    output: RemoteOutput,
    path: Path,
    on_bytes: Callable[[int], None],
    limits: DiskLimits,
    *,
    first: str | None = None,
) -> Received:
    """Fetch it once.

    Args:
        first: At the second try, the SHA-256 of what came at the first.
    """
    part, note = (path.with_name(f"{path.name}.{end}") for end in ("part", "version"))
    partial = await in_thread(PartialFile, part, note) if part.exists() else PartialFile(part, note)
    try:
        with partial:
            if partial.size:
                on_bytes(partial.size)
            limits.check_room(path, max(0, (output.size or 0) - partial.size))
            checked = partial.size

            def check() -> None:
                nonlocal checked
                if output.size is None:
                    limits.check_size(output.filename, partial.size)
                if abs(partial.size - checked) >= _ROOM_CHECKED_EVERY:
                    checked = partial.size
                    limits.check_room(partial.path, 0)

            await _receive(target, output, partial, on_bytes, check)
        _check(output, partial.size, partial.sha256)
        if output.blake3 is not None:
            with storage_errors(partial.path):
                _check_blake3(output, await in_thread(blake3_of, partial.path))
    except (TargetUnreachable, RateLimited, asyncio.CancelledError):
        if partial.version is None or not partial.size:
            await in_thread(partial.remove)
        raise
    except BaseException:
        await in_thread(partial.remove)
        raise

    def finish() -> str:
        try:
            announced = output.sha256 or output.blake3
            doubt = "" if announced else _doubt(target, output, partial, first)
        except BaseException:
            partial.remove()
            raise
        partial.complete(path)
        return doubt

    doubt = await in_thread(finish)
    return Received(path, partial.size, partial.sha256, doubt)


def _doubt(target: Target, output: RemoteOutput, partial: PartialFile, first: str | None) -> str:
    """What the file's own format says is wrong with it. Blocking.

    Raises:
        OutputCorrupt: The same, where it may have been damaged on its way, and always at the first
            try; or it is empty.
    """
    try:
        with storage_errors(partial.path):
            check_whole(partial.path, output.filename)
    except OutputCorrupt as error:
        if first is not None and partial.size and _is_what_is_there(target, output, partial, first):
            return error.message
        error.details["sha256"] = partial.sha256
        raise
    return ""


def _is_what_is_there(
    target: Target, output: RemoteOutput, partial: PartialFile, first: str
) -> bool:
    """Whether a damaged file is the one that the target has."""
    source = output.source
    if source is not None and source.data is not None:
        return True
    if source is not None and source.url is not None and partial.sha256 == first:
        return True
    return isinstance(target, OnThisMachine) and target.local


async def _receive(
    target: Target,
    output: RemoteOutput,
    partial: _Partial,
    on_bytes: Callable[[int], None],
    check: Callable[[], None],
) -> None:
    """Fetch all that is missing; ``check`` may raise whenever there is more."""
    retries, slow = Retries(_BACKOFF), 0
    while True:
        try:
            async with aclosing(target.read(output, partial.size)) as chunks:
                fresh = True
                async for chunk in chunks:
                    if fresh:
                        fresh = False
                        version = _version(target, output)
                        if partial.size and version != partial.version:
                            # The target has another file there now: from its beginning, then.
                            on_bytes(-partial.size)
                            await in_thread(partial.begin, version)
                            break
                        if not partial.size:
                            await in_thread(partial.begin, version)
                    partial.write(chunk)
                    retries.progressed()
                    if output.size is not None and partial.size > output.size:
                        raise _wrong_size(output, partial.size)
                    check()
                    on_bytes(len(chunk))
                else:
                    if fresh and not partial.size:
                        await in_thread(partial.begin, _version(target, output))
                    return
        except (TargetUnreachable, RateLimited) as error:
            slow += bool(error.details.get(TOO_SLOW))
            if slow >= _SLOW_ATTEMPTS:
                raise
            await retries.wait_after(error)


def _version(target: Target, output: RemoteOutput) -> str | None:
    """A text that differs for each version of the file; ``None`` if the target gives none."""
    if (announced := output.sha256 or output.blake3) is not None:
        return announced
    return target.version_of(output) if isinstance(target, TellsVersions) else None


def _check(output: RemoteOutput, size: int, sha256: str) -> None:
    if output.size is not None and output.size != size:
        raise _wrong_size(output, size)
    if output.sha256 is not None and output.sha256 != sha256:
        raise OutputCorrupt(
            f"{output.filename} is damaged: its SHA-256 differs from the one announced.",
            advice=Hint.RESUME_FOR_OUTPUTS(),
            details={"filename": output.filename, "sha256": sha256, "announced": output.sha256},
        )


def _check_blake3(output: RemoteOutput, blake3: str) -> None:
    if blake3 != output.blake3:
        raise OutputCorrupt(
            f"{output.filename} is damaged: its BLAKE3 hash differs from the one announced.",
            advice=Hint.RESUME_FOR_OUTPUTS(),
            details={"filename": output.filename, "blake3": blake3, "announced": output.blake3},
        )


def _wrong_size(output: RemoteOutput, size: int) -> OutputCorrupt:
    compared = f"{size} bytes" if size < (output.size or 0) else f"at least {size} bytes"
    return OutputCorrupt(
        f"{output.filename} is {compared}, and {output.size} were announced.",
        advice=Hint.RESUME_FOR_OUTPUTS(),
        details={"filename": output.filename, "size": size, "announced": output.size},
    )
