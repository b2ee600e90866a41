"""Documents on disk, each with the time it was fetched; the oldest go when there are too many."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..media.file_changes import discard
from ..media.files import write_whole
from ..types import JsonValue

__all__ = ["Store", "Stored"]

_MAX_BYTES = 64 * 1024 * 1024
"""Of one document, unpacked. The largest `/object_info` seen has 20 MB."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document, and the time it was fetched (UTC)."""

    document: dict[str, JsonValue]
    at: datetime


class Store:
    """A folder of documents by key: so many at most, none older than ``age``.

    What cannot be read or written counts as missing.
    """

    def __init__(self, folder: Path, *, most: int, age: timedelta) -> None:
        self._folder = folder
        self._most = most
        self._age = age

    def get(self, key: str) -> Stored | None:
        """The document of a key; ``None`` if there is none, or it is too old."""
        try:
            with gzip.open(self._path(key)) as file:
                raw = file.read(_MAX_BYTES + 1)
            if len(raw) > _MAX_BYTES:
                return None
            whole = json.loads(raw)
            at = datetime.fromisoformat(whole["at"])
            document = whole["document"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):
            return None
        now = datetime.now(timezone.utc)
        if not isinstance(document, dict) or at.tzinfo is None or not now - self._age < at <= now:
            return None
        return Stored(document, at)

    def is_newer(self, key: str, than: timedelta) -> bool:
        """Whether a document was stored less than that long ago."""
        with suppress(OSError):
            return 0 <= time.time() - self._path(key).stat().st_mtime < than.total_seconds()
        return False

    def put(self, key: str, document: dict[str, JsonValue]) -> None:
        """Store a document, in place of the earlier one of that key."""
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        raw = json.dumps({"key": key, "at": at, "document": document}).encode()
        if len(raw) > _MAX_BYTES:
            return
        with suppress(OSError):
            write_whole(self._path(key), gzip.compress(raw, 5))
            self._tidy()

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json.gz"

    def _tidy(self) -> None:
        found = sorted(self._folder.glob("*.json.gz"), key=lambda path: -path.stat().st_mtime)
        for path in found[self._most :]:
            discard(path)
