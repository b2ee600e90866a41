"""What is on its way to a target, on the disk: so that the next start of the server knows of it."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..media.file_changes import discard
from ..media.files import OWN_DATA, storage_errors, write_whole
from ..ready.lock import Lock
from .bring_state import Bring
from .host import Host

__all__ = ["BringNotes"]

_LARGEST = 16 * 1024 * 1024  # bytes
_KEPT = 90 * 24 * 3600.0  # seconds


class _Note(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str
    server: str
    target: str
    began: float
    lock: Lock
    agreed: frozenset[str] = frozenset()


class BringNotes:
    """One file for each. Blocking.

    Args:
        folder: Made when it is first written to; the servers of one user share it.
    """

    def __init__(self, folder: Path, host: Host) -> None:
        self._folder = folder
        self._host = host

    def write(self, one: Bring) -> None:
        """Note one.

        Raises:
            LocalStorageError: It cannot be written.
        """
        note = _Note(
            id=one.id,
            server=self._host.identity,
            target=one.target,
            began=one.began,
            lock=one.lock,
            agreed=one.agreed,
        )
        path = self._path(one)
        with storage_errors(path, denied=OWN_DATA):
            write_whole(path, note.model_dump_json(exclude_none=True).encode())

    def remove(self, one: Bring) -> None:
        """It has ended, or is to be shown no more."""
        discard(self._path(one))

    def interrupted(self) -> list[Bring]:
        """What this server was bringing when it ended, the oldest first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                status = path.stat()
                if status.st_size > _LARGEST or time.time() - status.st_mtime > _KEPT:
                    discard(path)  # of a server that is gone, say
                else:
                    found.append(_Note.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                discard(path)
        own = [one for one in found if one.server == self._host.identity]
        return [
            Bring.interrupted(one.id, one.target, one.lock, one.agreed, one.began)
            for one in sorted(own, key=lambda one: one.began)
        ]

    def _path(self, one: Bring) -> Path:
        return self._folder / f"{one.id}.json"
