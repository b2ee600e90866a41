"""Values for a ComfyUI of the same user on this machine: files are linked, and nothing is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...errors import LocalStorageError, TargetError
from ...media.remote_values import sha256_in_name, value_file_name
from ...media.shared_values import SharedValues
from ...net.http import HttpClient
from .uploads import has_content

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
        sha256 = None
        try:
            if not await self._same_folder():
                return None
            sha256 = await asyncio.to_thread(self._values.write, value)
            name = value_file_name(sha256)
            return name if await has_content(self._http, name, sha256) else None
        except (TargetError, LocalStorageError):
            return None  # the other way says what is wrong
        finally:
            if sha256 is not None:
                self._values.remove(sha256)

    async def take(self, filename: str) -> memoryview | None:
        """The bytes of a value file in its temp folder, which are written to nowhere else."""
        sha256 = sha256_in_name(filename)
        try:
            if sha256 is None or not await self._same_folder():
                return None
            await self._http.post_idempotent(f"remote/values/{sha256}", {})
        except (TargetError, LocalStorageError):
            return None
        return await asyncio.to_thread(self._values.take, sha256)

    async def _same_folder(self) -> bool:
        if self._same is None:
            mark = await asyncio.to_thread(self._values.mark)
            self._same = bool(await has_content(self._http, value_file_name(mark), mark))
        return self._same
