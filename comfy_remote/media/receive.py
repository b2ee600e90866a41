"""Files sent and received over the network: streamed, hashed, and complete or absent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

from ..aio import in_thread
from ..data_class import dataclass
from ..errors import RequestTooLarge, ValueInvalid
from .file_changes import discard
from .files import CHUNK_SIZE, storage_errors, sync_file, sync_folder, take_name

__all__ = ["Received", "file_chunks", "receive_file"]

_T = TypeVar("_T")

_FULL = "Free some space there, then send it again."


@dataclass(frozen=True, slots=True)
class Received:
    """A complete file.

    Attributes:
        doubt: What its own format says is wrong with it, although it arrived as it was sent.
    """

    path: Path
    size: int
    sha256: str
    doubt: str = ""


async def receive_file(
    chunks: AsyncIterable[bytes],
    path: Path,
    *,
    sha256: str | None = None,
    limit: int | None = None,
    durable: bool = False,
    also: Callable[[bytes], object] | None = None,
) -> Received:
    """Write what arrives; the file gets its name only when it is complete. Mode 0600.

    It is hashed and written in a thread while the next part arrives, so the event loop never
    waits for the disk, and memory stays at some MiB. A file of that name is replaced, or stays
    after an error.

    Args:
        chunks: Of any size, for example `aiohttp.web.Request.content.iter_any()`.
        path: Its folder is made when missing.
        sha256: The expected one.
        limit: Bytes, at most.
        durable: Whether it has to survive a power cut from then on.
        also: Gets what arrives in the thread that writes it, in order; for another hash of it.

    Raises:
        RequestTooLarge: More arrived than the limit.
        ValueInvalid: Its SHA-256 is another one.
        LocalStorageError: It cannot be written.
    """
    with storage_errors(path, full=_FULL):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".comfy-remote-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            size, found = await _write(chunks, file, path, limit, also)
            _check(found, sha256)
            if durable:
                with storage_errors(path, full=_FULL):
                    await in_thread(sync_file, file.fileno())

        def finish() -> None:
            with storage_errors(path, full=_FULL):
                take_name(Path(beside), path, found)
                if durable:
                    sync_folder(path.parent)

        await in_thread(finish)
    except BaseException:
        await in_thread(discard, Path(beside))
        raise
    return Received(path, size, found)


async def _write(
    chunks: AsyncIterable[bytes],
    file: FileIO,
    path: Path,
    limit: int | None,
    also: Callable[[bytes], object] | None,
) -> tuple[int, str]:
    """Size and SHA-256 of what was written."""
    digest = hashlib.sha256()
    size = 0

    def keep(chunks: list[bytes]) -> None:
        with storage_errors(path, full=_FULL):
            for chunk in chunks:
                digest.update(chunk)
                if also is not None:
                    also(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]

    writing: asyncio.Future[None] | None = None
    try:
        async for part in _gathered(chunks):
            size += sum(map(len, part))
            if limit is not None and size > limit:
                raise RequestTooLarge(
                    f"A file of more than {limit} bytes is not taken.",
                    advice="Send a smaller one, or have the limit raised there.",
                    details={"limit": limit},
                )
            if writing is not None:
                await asyncio.shield(writing)
            writing = asyncio.ensure_future(asyncio.to_thread(keep, part))
        if writing is not None:
            await asyncio.shield(writing)
    finally:
        await _let_go(writing)
    return size, digest.hexdigest()


async def _let_go(work: asyncio.Future[_T] | None) -> None:
    """Wait for a thread that uses a file, before the file is closed.

    Await the thread with `asyncio.shield`: else, after a cancel, it counts as done.
    """
    if work is not None and not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])


def _check(found: str, announced: str | None) -> None:
    if announced is not None and announced != found:
        raise ValueInvalid(
            f"A file that arrived is damaged: its SHA-256 is {found}, and {announced} was "
            "announced.",
            advice="Send it again.",
            details={"sha256": found, "announced": announced},
        )


async def file_chunks(
    path: Path, offset: int = 0, size: int | None = None
) -> AsyncGenerator[bytes, None]:
    """A file's content for an upload, 1 MiB at a time, read in a thread ahead of the network.

    Args:
        offset: Of the first byte.
        size: Bytes at most; ``None`` for all.

    Raises:
        OSError: It cannot be read.
    """
    with await asyncio.to_thread(path.open, "rb", buffering=0) as file:
        if offset:
            file.seek(offset)
        end = None if size is None else offset + size

        def read() -> bytes:
            return file.read(CHUNK_SIZE if end is None else min(CHUNK_SIZE, end - file.tell()))

        def ahead() -> asyncio.Future[bytes]:
            return asyncio.ensure_future(asyncio.to_thread(read))

        reading = ahead()
        try:
            while chunk := await asyncio.shield(reading):
                reading = ahead()
                yield chunk
        finally:
            await _let_go(reading)


async def _gathered(chunks: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    """The same chunks in groups of 1 MiB, for a thread; not joined, which would copy them."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= CHUNK_SIZE:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
