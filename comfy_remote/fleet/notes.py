"""What the head of a fleet remembers: on disk, and of workers that could not be made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ..errors import ComfyRemoteError
from ..media.files import storage_errors, write_whole
from ..net.retry import Backoff

__all__ = ["Notes", "Unmade"]

_MOST_NOTED = 1000
_AGAIN = Backoff(first=2.0, longest=60.0)
_log = logging.getLogger(__name__)


class Unmade:
    """Workers that could not be made at all: the next ones are started later and later.

    Attributes:
        why: The last one's reason; empty once there was none for a while.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._count = 0
        self._until = 0.0
        self.why = ""

    def note(self, unmade: dict[str, str]) -> None:
        """Note those of this look."""
        now = self._monotonic()
        for said in unmade.values():
            _log.error("A worker could not be made. %s", said)
            self._count += 1
            self._until = now + _AGAIN.seconds(self._count)
            self.why = f"A worker could not be made. {said}"
        if self._count and now > self._until + _AGAIN.longest:
            self._count, self.why = 0, ""

    def may_start(self) -> bool:
        """Whether others may be started now."""
        return not self._count or self._monotonic() >= self._until


class Notes:
    """What the head remembers, on disk.

    Attributes:
        away: The longest `WorkersSettings.away` that the fleet has ever had: a worker of before may
            go by it.
        down: The id of the head that goes down; empty if none does.
        problem: Why they cannot be written.
    """

    def __init__(self, path: Path, away: float) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            noted = _Noted.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            noted = _Noted()
        self._leaving = frozenset(noted.leaving)
        self.away = max(away, noted.away)
        self.down = noted.down
        self.problem = ""
        self._try_to_write()

    def leaving(self, alive: set[str]) -> frozenset[str]:
        """Ids of the machines in the cluster that are to have no workers."""
        return self._leaving & alive

    def change(self, node: str, *, leaves: bool) -> None:
        """Note such a machine, or that it has workers again.

        Raises:
            LocalStorageError: That cannot be written.
        """
        with self._lock:
            self._leaving = self._leaving | {node} if leaves else self._leaving - {node}
            self._write()

    def go_down(self, own_id: str) -> None:
        """Note that this head goes down."""
        with self._lock:
            self.down = own_id
            self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self._write()
        except ComfyRemoteError as error:
            _log.error("%s", error)
            self.problem = f"{error.message} {error.advice}".strip()
        else:
            self.problem = ""

    def _write(self) -> None:
        leaving = sorted(self._leaving)[-_MOST_NOTED:]
        noted = _Noted(leaving=leaving, away=self.away, down=self.down)
        with storage_errors(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, noted.model_dump_json().encode())


class _Noted(BaseModel):
    leaving: list[str] = []
    away: float = 0.0
    down: str = ""
