"""Values for a ComfyUI of the same user on this machine: files are linked, and nothing is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...errors import LocalStorageError, TargetError
from ...media.remote_values import named_by_content, value_file_name
from ...media.shared_values import SharedValues
from ...net.http import HttpClient

if TYPE_CHECKING:
    from ...media.values import EncodedValue

__all__ = ["Sharing"]


class Sharing:
    """Asks a ComfyUI with our pack to take values from the folder that both have, or to put them
    there. Where it has another folder, or none, everything here gives ``None``.
    """

    def __init__(self, http: HttpClient, values: SharedValues) -> None:
        self._http = http
        self._values = values
        self._same: bool | None = None

    async def send(self, value: EncodedValue) -> str | None:
        """Have a value there, and return its name among the inputs there."""
        stem = None
        try:
            if not await self._same_folder():
                return None
            stem = await asyncio.to_thread(self._values.write, value)
            return value_file_name(stem) if await self._has(stem) else None
        except (TargetError, LocalStorageError):
            return None  # the other way says what is wrong
        finally:
            if stem is not None:
                self._values.remove(stem)

    async def take(self, filename: str) -> memoryview | None:
        """The bytes of a value file in its temp folder, which are written to nowhere else."""
        stem = named_by_content(filename)
        try:
            if stem is None or not await self._same_folder():
                return None
            await self._http.post_idempotent(f"remote/values/{stem}", {})
        except (TargetError, LocalStorageError):
            return None
        return await asyncio.to_thread(self._values.take, stem)

    async def _same_folder(self) -> bool:
        if self._same is None:
            mark = await asyncio.to_thread(self._values.mark)
            try:
                self._same = await self._has(mark)
            except TargetError:  # a ComfyUI without our pack, or with an older one
                self._same = False
        return self._same

    async def _has(self, stem: str) -> bool:
        return await self._http.get_json(f"remote/values/{stem}") == {"there": True}
