"""Bringing one model here: streamed to a ``.part``, resumed, hashed, checked, then named.

The ``.part`` lies in the model's own folder, so that giving it its name is a rename; ComfyUI
does not list it. It stays when a download is cancelled or the worker dies, with a note of what
it is a part of, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from ...aio import in_thread
from ...media.files import CHUNK_SIZE, storage_errors
from ...net.retry import Backoff, Retries, TryAgain
from ...units import size_text
from .contents import what_is_wrong
from .fetch import Answer, ModelHttp
from .folders import OUR_FOLDER
from .link import Location, unavailable
from .manifest import write_whole

__all__ = ["FULL_DISK", "PartFile", "download"]

FULL_DISK = (
    "Free some space on the disk of the models (`comfy-remote models prune` removes what the "
    "worker had fetched and you do not list), or use a larger volume. What has been fetched so "
    "far is kept, and the next download goes on from there."
)
_BACKOFF = Backoff(attempts=6, first=0.5, longest=60.0)


class _Note(BaseModel):
    """What a ``.part`` is a part of."""

    model_config = ConfigDict(extra="ignore")

    part: str
    identity: str
    size: int | None = None
    etag: str | None = None
    sha256: str | None = None

    def same_file(self, other: _Note) -> bool:
        """Whether both are surely of the same content."""
        if self.identity != other.identity:
            return False
        if self.size is not None and other.size is not None and self.size != other.size:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.etag is not None and self.etag == other.etag


@dataclass(frozen=True, slots=True)
class PartFile:
    """The unfinished file of one download.

    Attributes:
        root: The models folder.
        folder: The model's folder below it, where the ``.part`` is.
        key: Names it: the same for the same link and name.
    """

    root: Path
    folder: str
    key: str

    @property
    def path(self) -> Path:
        """Of the bytes."""
        return self.root / self.folder / f"{OUR_FOLDER}-{self.key}.part"

    @property
    def note(self) -> Path:
        """Of what is known about them."""
        return self.root / OUR_FOLDER / "parts" / f"{self.key}.json"

    @property
    def size(self) -> int:
        """Bytes that are here already."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def remove(self) -> None:
        """Throw it away."""
        for path in (self.path, self.note):
            with contextlib.suppress(OSError):
                path.unlink()


async def download(
    http: ModelHttp,
    location: Location,
    found: Answer,
    part: PartFile,
    identity: str,
    name: str,
    *,
    size_limit: int | None = None,
    on_size: Callable[[int], None],
) -> str:
    """Bring a model into its `PartFile`, complete and checked.

    A broken connection is resumed where it broke, up to six times in a row without a byte. What
    was resumed from an earlier download and turns out wrong is fetched anew, once.

    Args:
        found: What `ModelHttp.probe` found.
        identity: Of the link.
        name: The model's; its ending says what it should be.
        on_size: Told the number of bytes that are here, again and again.

    Returns:
        The SHA-256 of the content, 64 lower-case hex digits.

    Raises:
        ModelUnavailable: The server refuses, the connection kept breaking, or what came is not
            what was announced; the last leaves no part behind.
        LocalStorageError: It cannot be written.
    """
    transfer = _Transfer(http, location, found, part, identity, size_limit, on_size)
    resumed = await transfer.begin()
    try:
        while True:
            sha256 = await transfer.run()
            await transfer.finish()
            why = transfer.wrong_with(sha256) or await asyncio.to_thread(
                what_is_wrong, part.path, name
            )
            if why is None:
                return sha256
            part.remove()
            if not resumed:
                raise unavailable(
                    f"What came for {location.shown} is not the model: {why}.",
                    location.denied if "web page" in why else "Check the link in a browser.",
                )
            resumed = await transfer.begin()
    finally:
        transfer.close()


class _Transfer:
    """One file on its way into its part."""

    def __init__(
        self,
        http: ModelHttp,
        location: Location,
        found: Answer,
        part: PartFile,
        identity: str,
        size_limit: int | None,
        on_size: Callable[[int], None],
    ) -> None:
        self._http = http
        self._location = location
        self._part = part
        self._limit = size_limit
        self._on_size = on_size
        self._note = _Note(
            part=f"{part.folder}/{part.path.name}",
            identity=identity,
            size=found.size,
            etag=found.etag,
            sha256=found.sha256,
        )
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._size = 0

    async def begin(self) -> bool:
        """Open the part; whether something of it was there already."""
        with storage_errors(self._part.path, full=FULL_DISK):
            await in_thread(self._open)
        return self._size > 0

    def close(self) -> None:
        """Close the part, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def run(self) -> str:
        """Bring what is missing; the content's SHA-256."""
        retries = Retries(_BACKOFF)
        while True:
            before = self._size
            try:
                if await self._once():
                    return self._digest.hexdigest()
                reason = TryAgain("the connection was cut")
            except TryAgain as error:
                reason = error
            if self._size > before:
                retries.progressed()
            try:
                await retries.wait_after(reason)
            except TryAgain:
                raise unavailable(
                    f"{self._location.shown} could not be fetched: {reason}, tried "
                    f"{_BACKOFF.attempts} times.",
                    f"Try again later: the {size_text(self._size)} that are here are kept, and "
                    "the next download goes on from there.",
                ) from reason

    def wrong_with(self, sha256: str) -> str | None:
        """How size or hash differ from what was announced."""
        if self._note.size is not None and self._note.size != self._size:
            return f"it has {self._size} bytes, and {self._note.size} were announced"
        if self._note.sha256 is not None and self._note.sha256 != sha256:
            return f"its SHA-256 is {sha256}, and should be {self._note.sha256}"
        return None

    async def finish(self) -> None:
        """Have it all on the disk, and close it."""
        file = self._opened()
        with storage_errors(self._part.path, full=FULL_DISK):
            await in_thread(lambda: _to_disk(file))
        self.close()

    async def _once(self) -> bool:
        """One request; whether all is here now."""
        wanted = f"bytes={self._size}-" if self._size else None
        async with self._http.get(self._location, wanted, self._note.etag) as answer:
            if answer.all_there:
                if self._size == answer.start:
                    return True
                await self._restart()
                raise TryAgain("the file has become shorter")
            if answer.size is not None and not self._same(answer):
                # Another file than the one that was begun.
                await self._restart()
                if wanted is not None and answer.start:
                    raise TryAgain("the file has changed")
                self._note = self._note.model_copy(
                    update={"size": answer.size, "etag": answer.etag}
                )
            if answer.start != self._size:
                await self._restart()
                if answer.start:
                    raise TryAgain("another part came than was asked for")
            async for chunk in answer.chunks(CHUNK_SIZE):
                await self._add(chunk)
        return self._note.size is None or self._size >= self._note.size

    def _same(self, answer: Answer) -> bool:
        if self._note.size is not None and answer.size != self._note.size:
            return False
        known = self._note.sha256 or not self._note.etag or not answer.etag
        return bool(known) or answer.etag == self._note.etag

    async def _add(self, chunk: bytes) -> None:
        file = self._opened()

        def write() -> None:
            file.write(chunk)
            self._digest.update(chunk)

        with storage_errors(self._part.path, full=FULL_DISK):
            await in_thread(write)
        self._size += len(chunk)
        self._on_size(self._size)
        if self._limit is not None and self._size > self._limit:
            self.close()
            self._part.remove()
            raise too_large(self._location, self._size, self._limit)
        if self._note.size is not None and self._size > self._note.size:
            await self._restart()
            raise TryAgain("more came than was announced")

    def _open(self) -> None:
        """Go on with the part that is here, if it is one of the same file."""
        self.close()
        self._part.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.note.parent.mkdir(parents=True, exist_ok=True)
        try:
            same = _Note.model_validate_json(self._part.note.read_bytes()).same_file(self._note)
        except (OSError, ValidationError):
            same = False
        too_long = self._note.size is not None and self._part.size > self._note.size
        if not same or too_long:
            self._part.remove()
        write_whole(self._part.note, self._note.model_dump_json())
        self._digest = hashlib.sha256()
        self._size = 0
        self._file = self._part.path.open("a+b")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_SIZE):
            self._digest.update(chunk)
            self._size += len(chunk)

    async def _restart(self) -> None:
        file = self._opened()
        with storage_errors(self._part.path, full=FULL_DISK):
            await in_thread(lambda: file.truncate(0))
        self._digest = hashlib.sha256()
        self._size = 0

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("the part is used before it was opened")
        return self._file


def too_large(location: Location, size: int, limit: int) -> Exception:
    """The error of a model above the worker's limit."""
    return unavailable(
        f"{location.shown} has at least {size_text(size)}, and this worker takes models of up to "
        f"{size_text(limit)}.",
        "Set COMFY_REMOTE_MODEL_SIZE_LIMIT higher on the worker.",
    )


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
