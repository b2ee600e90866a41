"""A server's input folder, which clients fill over our own route: streamed and checked.

ComfyUI's own upload holds a file in memory, and takes 100 MB at most by default.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ..errors import WorkflowInvalid
from .disk_space import DiskLimits, make_room
from .files import blake3_of, place, private_folder, safe_relative_path, sha256_of
from .receive import receive_file
from .remote_values import (
    VALUES_FOLDER,
    ContentHash,
    blake3_in_name,
    named_by_content,
    value_file_name,
    value_stem,
)
from .shared_values import SharedValues

__all__ = ["InputFolder"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST_OF: Mapping[ContentHash, Callable[[Path], str]] = {
    "sha256": sha256_of,
    "blake3": blake3_of,
}
_State: TypeAlias = tuple[str, int, int, ContentHash]
_MOST_KNOWN = 1000
_VALUES_KEPT_SECONDS = 2 * 24 * 3600.0
"""Value files that were not used for longer are removed; clients send them again."""


class InputFolder:
    """An ``input`` folder, made when missing.

    Args:
        shared: Where value files may be that are asked for; they are linked into the folder.
    """

    def __init__(self, folder: Path, shared: SharedValues | None = None) -> None:
        self._folder = folder
        self._shared = shared
        self._known: dict[_State, str] = {}

    async def has(self, name: str, sha256: str) -> bool:
        """Whether a file of that name and content is there.

        Raises:
            WorkflowInvalid: The name would not stay below the folder, or that is no SHA-256.
        """
        return await asyncio.to_thread(self._has, _checked(name, sha256), sha256, "sha256")

    async def has_value(self, stem: str) -> bool:
        """Whether a value file is there: see `value_file_name`. Its content is checked."""
        name = value_file_name(stem)
        if named_by_content(name) != stem:
            return False
        blake3 = blake3_in_name(name)
        known_by: tuple[str, ContentHash] = (blake3, "blake3") if blake3 else (stem, "sha256")
        return await asyncio.to_thread(self._has, PurePosixPath(name), *known_by)

    async def receive(self, name: str, sha256: str, chunks: AsyncIterable[bytes]) -> str:
        """Write a file; other files stay, and the new one gets another name if necessary.

        Returns:
            Its name below the folder, ``/`` between parts.

        Raises:
            WorkflowInvalid: As `has`.
            RequestTooLarge: Too little of the disk would stay free (see `DiskLimits`).
            ValueInvalid, LocalStorageError: As `receive_file`.
        """
        wanted = _checked(name, sha256)
        return await self._placed(chunks, lambda _: wanted, sha256)

    async def receive_value(self, chunks: AsyncIterable[bytes]) -> str:
        """Write a value file, and give it the name of its content.

        Returns:
            Its name below the folder, as `value_file_name` gives it.

        Raises:
            RequestTooLarge, LocalStorageError: As `receive`.
        """
        name = await self._placed(chunks, lambda sha256: PurePosixPath(value_file_name(sha256)))
        os.utime(self._folder / name)  # it is in use, also one that was there
        return name

    async def _placed(
        self,
        chunks: AsyncIterable[bytes],
        name: Callable[[str], PurePosixPath],
        announced: str | None = None,
    ) -> str:
        await asyncio.to_thread(self._remove_old_values)
        with private_folder(self._folder) as spool:
            limit = await asyncio.to_thread(DiskLimits.of().room, spool)
            here = await receive_file(chunks, spool / "input", sha256=announced, limit=limit)
            wanted = self._folder / name(here.sha256)
            placed = await asyncio.to_thread(place, here.path, wanted, here.sha256)
        return placed.relative_to(self._folder).as_posix()

    def _has(self, name: PurePosixPath, digest: str, content_hash: ContentHash) -> bool:
        path = self._folder / name
        try:
            inside = path.resolve().is_relative_to(self._folder.resolve())
            if not inside or not (path.is_file() or self._linked(path, digest, content_hash)):
                return False
            found = self._known.pop(_state(path, content_hash), None)
            found = found or _DIGEST_OF[content_hash](path)
            if found == digest and named_by_content(str(name)) is not None:
                os.utime(path)  # it is in use
            self._known[_state(path, content_hash)] = found
            if len(self._known) > _MOST_KNOWN:
                self._known.pop(next(iter(self._known)), None)
            return found == digest
        except (OSError, ValueError):  # it went meanwhile, or no file can be called that
            return False

    def _linked(self, path: Path, digest: str, content_hash: ContentHash) -> bool:
        """Whether a value file was in the shared folder, and is now here as well."""
        stem = value_stem(digest, content_hash)
        if self._shared is None or path != self._folder / value_file_name(stem):
            return False
        self._remove_old_values()
        if not self._shared.give(stem, path):
            return False
        self._known[_state(path, content_hash)] = digest  # it was hashed when it was written
        return True

    def _remove_old_values(self) -> None:
        values = (self._folder / VALUES_FOLDER).glob("*.safetensors")
        make_room(
            (path for path in values if named_by_content(path.name) is not None),
            older_than=_VALUES_KEPT_SECONDS,
        )


def _state(path: Path, content_hash: ContentHash) -> _State:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns, content_hash


def _checked(name: str, sha256: str) -> PurePosixPath:
    safe = safe_relative_path(name)
    if str(safe) != name or not _SHA256.fullmatch(sha256):
        wrong = "is no SHA-256" if str(safe) == name else "cannot be the name of an input file"
        raise WorkflowInvalid(
            f"{(sha256 if str(safe) == name else name)[:200]!r} {wrong}.",
            advice="Give a plain relative name with / in it, and ?sha256= with 64 lower-case hex "
            "digits.",
        )
    return safe
