"""A model that a client has: linked to a file that is here already, or received in parts.

Nothing that is here is replaced or removed, and nothing lies half under its final name. What comes
lies in a part file (`folders.PartFile`) until it is whole and has the SHA-256 that was announced;
it stays when the job ends too early, and the next one continues from there.

What clients sent is theirs: it is not in the manifest of what we fetched, so pruning leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from ...advice import Hint
from ...aio import in_thread
from ...errors import LocalStorageError, ModelUnavailable, WorkflowInvalid
from ...media.file_changes import discard, link_file, rename_path
from ...media.files import CHUNK_SIZE, copy_whole, storage_errors
from ...media.partial import PartialFile
from ...units import size_text
from ...wire.models import PlaceAnswer, PlaceRequest
from .download import what_is_wrong
from .folders import (
    ModelFolders,
    PartFile,
    folder_of,
    is_model_folder,
    remove_old_parts,
    safe_model_name,
)
from .hashes import ModelHashes
from .link import unavailable
from .plan import RESERVE, free_bytes
from .presence import Presence
from .settings import ModelSettings

__all__ = ["FetchPart", "Placing"]

FetchPart = Callable[[str, Path], Awaitable[bool]]
"""Puts a part, by its SHA-256, at a path; whether the store has it."""

_log = logging.getLogger(__name__)


class Placing:
    """Places one model.

    Args:
        presence: Of this worker in the models folder.
        say: Called with a line for people, again and again.
    """

    def __init__(
        self,
        folders: ModelFolders,
        hashes: ModelHashes,
        settings: ModelSettings,
        presence: Presence,
        fetch: FetchPart,
        say: Callable[[str], None],
    ) -> None:
        self._folders = folders
        self._hashes = hashes
        self._settings = settings
        self._presence = presence
        self._fetch = fetch
        self._say = say

    async def place(self, request: PlaceRequest) -> PlaceAnswer:
        """See `library.ModelLibrary.place`."""
        folder, name = folder_of(request.folder), safe_model_name(request.name)
        if name != request.name:
            raise WorkflowInvalid(f"{request.name!r} is not a safe name of a model.")
        if not is_model_folder(folder):
            raise WorkflowInvalid(f"{folder!r} is not a folder for models.")
        path = self._folders.root / folder / name
        async with (
            self._presence.using(lambda owner: self._say(f"Waiting for {owner}, which prunes")),
            self._presence.claim(
                hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:32],
                lambda owner: self._say(f"Waiting for {owner}, which brings {name}"),
            ),
        ):
            there = await asyncio.to_thread(self._folders.find, folder, name)
            if there is not None:
                await asyncio.to_thread(self._check_same, there, request)
                return PlaceAnswer(path=self._folders.shown(there), how="there")
            same = await self._same(request)
            if same is not None:
                if self._settings.download is False and not self._settings.accept:
                    raise unavailable(
                        f"{request.name} may not be linked: this worker's models are not changed "
                        "by jobs (DOWNLOAD_MODELS=false).",
                        "Change that setting, or link the file there yourself.",
                    )
                await in_thread(self._link, same, path, request)
                shown = self._folders.shown(same)
                return PlaceAnswer(path=f"{folder}/{name}", how="linked", same_as=shown)
            await self._receive(request, path, folder)
        return PlaceAnswer(path=f"{folder}/{name}", how="received")

    def _check_same(self, there: Path, request: PlaceRequest) -> None:
        same = there.stat().st_size == request.size and self._sha256(there) == request.sha256
        if not same:
            raise unavailable(
                f"There is another file {self._folders.shown(there)} already. It is not replaced.",
                "Send the new one under another name, or remove the old one there yourself.",
                model=self._folders.shown(there),
            )

    async def _same(self, request: PlaceRequest) -> Path | None:
        """A model here with that content, under whatever name."""

        def look() -> Path | None:
            for _, _, path in self._folders.models():
                try:
                    if path.stat().st_size == request.size:
                        self._say(f"Comparing {path.name}")
                        if self._sha256(path) == request.sha256:
                            return path
                except OSError:
                    continue  # it went meanwhile
            return None

        return await asyncio.to_thread(look)

    def _sha256(self, path: Path) -> str:
        return self._hashes.of(self._folders.root_of(path) or path.parent, path)

    def _link(self, same: Path, path: Path, request: PlaceRequest) -> None:
        with storage_errors(path, full=Hint.MODELS_DISK_FULL()):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_file(same, path)
            except FileExistsError:
                raise _came_meanwhile(path) from None
            except OSError:
                # Another disk, or one that has no links.
                self._check_room(request.size)
                beside = path.with_name(f".comfy-remote-{_key_of(request)}.part")
                try:
                    copy_whole(same, beside)
                    _name_new(beside, path)
                finally:
                    discard(beside)
        self._note(path, request.sha256)

    async def _receive(self, request: PlaceRequest, path: Path, folder: str) -> None:
        self._check_may_come(request)
        part = PartFile(self._folders.root, folder, f"sent-{_key_of(request)}")
        await in_thread(_make_room, part)
        file = await in_thread(self._opened, part, request)
        try:
            await self._append(file, request, part)
            await in_thread(file.sync)
            sha256, size = file.sha256, file.size
        finally:
            file.close()
        why = None
        if (sha256, size) != (request.sha256, request.size):
            why = f"it has {size} bytes with the SHA-256 {sha256}"
        why = why or await asyncio.to_thread(what_is_wrong, part.path, path.name)
        if why is not None:
            await in_thread(part.remove)
            raise unavailable(
                f"What was received for {request.name} is not the model: {why}.",
                "Check the file, and send it again.",
            )
        await in_thread(self._settle, part, path, sha256)
        _log.info("received %s from a client", path.name)

    def _check_may_come(self, request: PlaceRequest) -> None:
        if not request.files:
            raise unavailable(
                f"This worker has no file with the content of {request.name}.",
                "Send it there, or give it an address.",
            )
        if not self._settings.accept:
            raise unavailable(
                f"{request.name} may not be sent: this worker takes no models from its clients.",
                "Whoever runs it can allow that: ACCEPT_MODELS=true.",
            )
        limit = self._settings.size_limit
        if limit is not None and request.size > limit:
            raise unavailable(
                f"{request.name} is {size_text(request.size)} large; this worker accepts models "
                f"of up to {size_text(limit)}.",
                "Set COMFY_REMOTE_MODEL_SIZE_LIMIT higher on the worker.",
            )

    def _check_room(self, size: int) -> None:
        free = free_bytes(self._folders.root)
        if free is not None and size + RESERVE > free:
            raise LocalStorageError(
                f"The model does not fit on the disk: {size_text(size)}, and {size_text(free)} are "
                f"free in {self._folders.root}.",
                advice=Hint.MODELS_DISK_FULL(),
                details={"needed": size, "free": free, "path": str(self._folders.root)},
            )

    def _opened(self, part: PartFile, request: PlaceRequest) -> PartialFile:
        with storage_errors(part.path, full=Hint.MODELS_DISK_FULL()):
            part.path.parent.mkdir(parents=True, exist_ok=True)
            part.note.parent.mkdir(parents=True, exist_ok=True)
        file = PartialFile(part.path, part.note, full=Hint.MODELS_DISK_FULL())
        if file.version != request.sha256 or file.size > request.size:
            file.begin(request.sha256)
        try:
            self._check_room(request.size - file.size)
        except LocalStorageError:
            file.close()
            raise
        return file

    async def _append(self, file: PartialFile, request: PlaceRequest, part: PartFile) -> None:
        """What is missing, part by part. A part that was cut is continued where it was."""
        piece = part.path.with_name(f"{part.path.name}-piece")
        start = 0
        for one in request.files:
            if one.size is not None and file.size >= start + one.size:
                start += one.size
                continue
            await in_thread(discard, piece)  # of a job that was killed
            try:
                if not await self._fetch(one.sha256, piece):
                    raise ModelUnavailable(
                        f"A part of {request.name} is not in the gateway's store any more.",
                        advice="Send it again: what has come stays.",
                    )
                size = (await asyncio.to_thread(piece.stat)).st_size
                if start + size > request.size:
                    break  # not what was announced, and room was looked for: it is refused
                if file.size < start + size:
                    await in_thread(_copy, piece, file.size - start, file)
                start += size
            finally:
                await in_thread(discard, piece)
            self._say(f"Receiving {request.name} {size_text(file.size)}/{size_text(request.size)}")

    def _settle(self, part: PartFile, path: Path, sha256: str) -> None:
        with storage_errors(path, full=Hint.MODELS_DISK_FULL()):
            path.parent.mkdir(parents=True, exist_ok=True)
            _name_new(part.path, path)
        part.remove()
        self._note(path, sha256)

    def _note(self, path: Path, sha256: str) -> None:
        self._hashes.note(self._folders.root, path, path.stat(), sha256)


def _key_of(request: PlaceRequest) -> str:
    """Names a part file: of this content under this name, which nobody else writes meanwhile."""
    return hashlib.sha256(f"{request.sha256}/{request.name}".encode()).hexdigest()[:32]


def _make_room(part: PartFile) -> None:
    """Remove what was left half sent, or half fetched, long ago; but not what goes on now."""
    with contextlib.suppress(OSError):
        os.utime(part.path)
    remove_old_parts(part.root)


def _copy(piece: Path, offset: int, file: PartialFile) -> None:
    with piece.open("rb") as source:
        source.seek(offset, os.SEEK_SET)
        while chunk := source.read(CHUNK_SIZE):
            file.write(chunk)


def _name_new(part: Path, path: Path) -> None:
    """Give a file its name, unless another has come under it meanwhile."""
    try:
        link_file(part, path)  # unlike a rename, fails where there is a file
    except FileExistsError:
        raise _came_meanwhile(path) from None
    except OSError:
        # A volume without links. A moment is left in which another program's file could come.
        if path.exists():
            raise _came_meanwhile(path) from None
        rename_path(part, path)


def _came_meanwhile(path: Path) -> ModelUnavailable:
    return unavailable(
        f"A file {path.name} has come meanwhile. It is not replaced.",
        "Look at it, then try again.",
    )
