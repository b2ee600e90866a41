"""Downloading one model: streamed to a ``.part``, resumed, hashed, checked, then named.

A large one comes in parts, several at once, where its server can do that (`parts`).

The ``.part`` lies in the model's own folder, so that giving it its name is a rename; ComfyUI
does not list it. It stays when a download is cancelled or the worker dies, with a note of what
it is a part of, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ...advice import Hint
from ...aio import in_thread
from ...media.files import CHUNK_SIZE, storage_errors
from ...media.formats import Malformed, safetensors
from ...media.partial import PartialFile
from ...net.retry import Backoff, Retries, TryAgain
from ...units import size_text
from .folders import PartFile
from .http import Answer, ModelHttp
from .link import unavailable
from .parts import NotInParts, PartedFile, Parts
from .plan import Missing, too_large

__all__ = ["download", "what_is_wrong"]

_log = logging.getLogger(__name__)
_BACKOFF = Backoff(attempts=6, first=0.5, longest=60.0)
_BEGINNING = 512


class _Note(BaseModel):
    """What a ``.part`` is a part of."""

    part: str
    identity: str
    size: int | None = None
    etag: str | None = None
    sha256: str | None = None

    def same_file(self, other: _Note) -> bool:
        """Whether both are certainly of the same content."""
        if self.identity != other.identity:
            return False
        if self.size is not None and other.size is not None and self.size != other.size:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.etag is not None and self.etag == other.etag


async def download(
    http: ModelHttp,
    wanted: Missing,
    part: PartFile,
    *,
    parts: Parts | None = None,
    size_limit: int | None = None,
    on_size: Callable[[int], None],
) -> str:
    """Bring a model into its `PartFile`, complete and checked.

    A broken connection is resumed where it broke, up to six times in a row without a byte. What
    was resumed from an earlier download, or came in parts, and turns out wrong is fetched again,
    once, in one stream.

    Args:
        wanted: The ending of its name says what the file should be.
        parts: Fetches parts at once; ``None`` for one stream.
        on_size: Called again and again with the number of bytes that are here.

    Returns:
        The SHA-256 of the content, 64 lower-case hex digits.

    Raises:
        ModelUnavailable: The server refuses, the connection kept breaking, or what came is not
            what was announced; the last leaves no part behind.
        LocalStorageError: It cannot be written.
    """
    location = wanted.location
    transfer = _Transfer(http, wanted, part, parts, size_limit, on_size)
    await transfer.begin()
    try:
        while True:
            sha256 = await transfer.run()
            size = await transfer.finish()
            why = transfer.wrong_with(sha256, size) or await asyncio.to_thread(
                what_is_wrong, part.path, wanted.path.name
            )
            if why is None:
                return sha256
            await in_thread(part.remove)
            if not transfer.may_be_mixed:
                raise unavailable(
                    f"What was received for {location.shown} is not the model: {why}.",
                    location.denied if "web page" in why else "Check the link in a browser.",
                )
            await transfer.begin(in_parts=False)
    finally:
        transfer.close()


class _Transfer:
    """One file on its way into its part."""

    def __init__(
        self,
        http: ModelHttp,
        wanted: Missing,
        part: PartFile,
        parts: Parts | None,
        size_limit: int | None,
        on_size: Callable[[int], None],
    ) -> None:
        self._http = http
        self._parts = parts if wanted.found.partial else None
        self._location, found = wanted.location, wanted.found
        self._part = part
        self._limit = size_limit
        self._on_size = on_size
        self._note = _Note(
            part=f"{part.folder}/{part.path.name}",
            identity=wanted.link.identity,
            size=found.size,
            etag=found.etag,
            sha256=found.sha256,
        )
        self._file: PartialFile | None = None
        self.may_be_mixed = False
        """Whether it may be made of bytes of different files: resumed, or fetched in parts."""

    async def begin(self, *, in_parts: bool = True) -> None:
        """Open the part, which may hold something already."""
        with storage_errors(self._part.path, full=Hint.MODELS_DISK_FULL()):
            self._file = await in_thread(self._open)
        self.may_be_mixed = self._file.size > 0
        if not in_parts:
            self._parts = None

    def close(self) -> None:
        """Close the part, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def run(self) -> str:
        """Fetch what is missing; the content's SHA-256."""
        retries, file = Retries(_BACKOFF), self._opened
        while True:
            before = file.size
            try:
                if await self._once(file):
                    return file.sha256
                reason = TryAgain("the connection was cut")
            except TryAgain as error:
                reason = error
            if file.size > before:
                retries.progressed()
            try:
                await retries.wait_after(reason)
            except TryAgain:
                raise unavailable(
                    f"{self._location.shown} could not be fetched: {reason}, tried "
                    f"{_BACKOFF.attempts} times.",
                    f"Try again later: the {size_text(file.size)} that are here stay, and the next "
                    "download continues from there.",
                ) from reason

    def wrong_with(self, sha256: str, size: int) -> str | None:
        """How size or hash differ from what was announced."""
        if self._note.size not in (None, size):
            return f"it has {size} bytes, and {self._note.size} were announced"
        if self._note.sha256 not in (None, sha256):
            return f"its SHA-256 is {sha256}, and should be {self._note.sha256}"
        return None

    async def finish(self) -> int:
        """Have it all on the disk, and close it; its size."""
        file = self._opened
        await in_thread(file.sync)
        self.close()
        return file.size

    async def _once(self, file: PartialFile) -> bool:
        """What is missing, as far as it comes; whether all is here now."""
        parts, self._parts = self._parts, None
        if parts is not None and (all_here := await self._in_parts(file, parts)) is not None:
            return all_here
        return await self._in_one_stream(file)

    async def _in_parts(self, file: PartialFile, parts: Parts) -> bool | None:
        """As `_once`; ``None`` where parts are of no use."""
        size = self._note.size
        if size is None or not parts.help_with(size - file.size):
            return None
        if not self._note.etag and not self._note.sha256:
            return None  # nothing would tell parts of one version from those of another
        parted = PartedFile(
            self._location, size, self._note.etag, hashed=self._note.sha256 is not None
        )
        self.may_be_mixed = True
        try:
            async with aclosing(parts.read(parted, file.size)) as chunks:
                async for chunk in chunks:
                    await self._add(file, chunk)
        except NotInParts as why:
            _log.info("%s comes in one stream from here: %s", self._location.shown, why)
            return None
        return file.size >= size

    async def _in_one_stream(self, file: PartialFile) -> bool:
        """One request; whether all is here now."""
        wanted = f"bytes={file.size}-" if file.size else None
        async with self._http.get(self._location, wanted, self._note.etag) as answer:
            if answer.all_there:
                if file.size == answer.start:
                    return True
                await self._restart(file)
                raise TryAgain("the file has become shorter")
            if answer.size is not None and not self._same(answer):
                # Another file than the one that was begun.
                update = {"size": answer.size, "etag": answer.etag}
                self._note = self._note.model_copy(update=update)
                await self._restart(file)
                if wanted is not None and answer.start:
                    raise TryAgain("the file has changed")
            if answer.start != file.size:
                await self._restart(file)
                if answer.start:
                    raise TryAgain("another part came than was asked for")
            async for chunk in answer.chunks(CHUNK_SIZE):
                await self._add(file, chunk)
        return self._note.size is None or file.size >= self._note.size

    def _same(self, answer: Answer) -> bool:
        if self._note.size is not None and answer.size != self._note.size:
            return False
        known = self._note.sha256 or not self._note.etag or not answer.etag
        return bool(known) or answer.etag == self._note.etag

    async def _add(self, file: PartialFile, chunk: bytes) -> None:
        await in_thread(file.write, chunk)
        self._on_size(file.size)
        if self._limit is not None and file.size > self._limit:
            self.close()
            await in_thread(self._part.remove)
            raise too_large(self._location, file.size, self._limit)
        if self._note.size is not None and file.size > self._note.size:
            await self._restart(file)
            raise TryAgain("more came than was announced")

    def _open(self) -> PartialFile:
        """Go on with the part that is here, if it is one of the same file."""
        self._part.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.note.parent.mkdir(parents=True, exist_ok=True)
        file = PartialFile(self._part.path, self._part.note, full=Hint.MODELS_DISK_FULL())
        try:
            same = _Note.model_validate_json(file.version or "").same_file(self._note)
        except ValidationError:
            same = False
        if same and (self._note.size is None or file.size <= self._note.size):
            file.note(self._note.model_dump_json())
        else:
            file.begin(self._note.model_dump_json())
        return file

    async def _restart(self, file: PartialFile) -> None:
        await in_thread(file.begin, self._note.model_dump_json())

    @property
    def _opened(self) -> PartialFile:
        if self._file is None:
            raise RuntimeError("the part is used before it was opened")
        return self._file


def what_is_wrong(path: Path, name: str) -> str | None:
    """Why a file cannot be the model it was published as; ``None`` if nothing speaks against it.

    Reads the beginning, and of a safetensors file the header, whose offsets tell whether it is
    whole (https://github.com/huggingface/safetensors#format). Nothing is unpickled.

    Args:
        name: Its name; the ending decides what it should be.
    """
    suffix = Path(name).suffix.lower()
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    start = beginning.lstrip().lower()
    if not beginning:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it points to"
    if suffix in (".safetensors", ".sft"):
        return _safetensors(path)
    if suffix == ".gguf" and not beginning.startswith(b"GGUF"):
        return "it does not begin like a GGUF file"
    if suffix in (".ckpt", ".pt", ".pt2", ".pth", ".bin") and start.startswith((b"{", b"error")):
        return "it is a text, not a model"
    return None


def _safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            expected = safetensors.expected_size(file)
    except EOFError:
        return "it does not begin like a safetensors file"
    except Malformed as error:
        return f"it does not begin like a safetensors file: {error}"
    if size != expected:
        return f"it has {size} bytes, and its safetensors header speaks of {expected}"
    return None
