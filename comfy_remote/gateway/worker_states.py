"""How the workers of a gateway are, in a file for ``comfy-remote workers list``.

Only for people: nothing is decided by it, and nothing is lost with it.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ..media.files import write_whole

__all__ = ["WorkerRow", "WorkerStates"]

_NAME = "workers.json"
_LARGEST = 4 * 2**20
_STALE_AFTER = 15.0


class WorkerRow(BaseModel):
    """One worker; the keys of ``comfy-remote workers list --json``.

    Attributes:
        state: A `workers.WorkerState`, in words.
        jobs: The jobs that it has.
        seen_at: When it last said something, in UTC.
        about: Its engine and GPU.
    """

    name: str
    state: str
    jobs: list[str] = []
    seen_at: str = ""
    about: str = ""


class WorkerStates(BaseModel):
    """All of them, as they were at ``written_at`` (UTC)."""

    written_at: str
    workers: list[WorkerRow] = []

    def write(self, folder: Path) -> None:
        """Write them to the gateway's folder. This blocks.

        Raises:
            OSError: It cannot be written.
        """
        write_whole(folder / _NAME, self.model_dump_json().encode())

    @classmethod
    def read(cls, folder: Path) -> WorkerStates | None:
        """What the gateway wrote last; ``None`` where it has not. This blocks."""
        try:
            with (folder / _NAME).open("rb") as file:
                return cls.model_validate_json(file.read(_LARGEST))
        except (OSError, ValidationError):
            return None

    def is_current(self) -> bool:
        """Whether the gateway runs, as far as this says."""
        try:
            age = datetime.now(timezone.utc) - datetime.fromisoformat(self.written_at)
        except (ValueError, TypeError):
            return False
        return abs(age.total_seconds()) < _STALE_AFTER
