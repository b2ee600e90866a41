"""Which list asked for which models, and when, so that pruning spares what other lists need.

One small file a list, beside the manifest's, so that workers which share the volume never write
over one another's notes. A list that comes again (of the same name, or with the same lines)
replaces what it asked for before.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...media.files import storage_errors
from ...wire.repo_list import ModelLine
from .folders import OUR_FOLDER
from .manifest import Entry, write_whole

__all__ = ["ASKED_FOR_DAYS", "Asked", "list_key"]

ASKED_FOR_DAYS = 7
"""For how long a model is kept for a list that asked for it."""

_DAY = 24 * 3600.0
# The same list again within that time changes nothing worth writing.
_FRESH = 600.0


def list_key(name: str, lines: Sequence[ModelLine]) -> str:
    """What tells one list from another: the name that its owner gives it, else its lines."""
    text = f"name {name}"
    if not name:
        text = "\n".join(sorted(f"{one.kind} {one.url} {one.name} {one.sha256}" for one in lines))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Note(BaseModel):
    """What one list asked for.

    Attributes:
        asked: When it did so last, in s since 1970.
        paths: Relative to the models folder.
    """

    model_config = ConfigDict(extra="ignore")

    asked: float
    paths: list[str]


class Asked:
    """The notes of one models folder.

    Args:
        root: The models folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / OUR_FOLDER / "lists"

    def note(self, key: str, paths: Collection[str]) -> None:
        """Note that a list asks for these models now.

        Raises:
            LocalStorageError: The note cannot be written.
        """
        wanted, now = sorted(set(paths)), time.time()
        before = self._read(self._place(key))
        if before is not None and before.paths == wanted and 0 <= now - before.asked < _FRESH:
            return
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._place(key), _Note(asked=now, paths=wanted).model_dump_json())
        for place, note in self._notes():
            if _is_over(note.asked, now):
                with contextlib.suppress(OSError):
                    place.unlink()

    def by_others(self, key: str, entries: Collection[Entry]) -> dict[str, float]:
        """What other lists have asked for recently.

        Args:
            key: The list whose own notes are left out.
            entries: The manifest's. Those of an older version do not say which list they were
                fetched for: they count as another's.

        Returns:
            When, by path, in s since 1970.
        """
        now = time.time()
        asked = [(path, note.asked) for place, note in self._notes() for path in note.paths
                 if place != self._place(key)]  # fmt: skip
        asked += [(entry.path, entry.fetched) for entry in entries if not entry.fetched_for]
        found: dict[str, float] = {}
        for path, when in asked:
            if not _is_over(when, now):
                found[path] = max(when, found.get(path, when))
        return found

    def _notes(self) -> Iterator[tuple[Path, _Note]]:
        for place in sorted(self._folder.glob("*.json")):
            if (note := self._read(place)) is not None:
                yield place, note

    def _read(self, place: Path) -> _Note | None:
        try:
            return _Note.model_validate_json(place.read_bytes())
        except (OSError, ValidationError):
            return None

    def _place(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _is_over(asked: float, now: float) -> bool:
    """A time that is still to come is another machine's clock: that was just now."""
    return now - asked > ASKED_FOR_DAYS * _DAY
