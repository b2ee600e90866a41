"""Which node sets the engines of a volume's workers run with, so that none of these is removed."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from ...media.file_changes import discard
from ..models.presence import ProcessMark

__all__ = ["SetsInUse"]

# A job takes 24 h at the most, and its worker leaves a sign before it.
_IN_USE = 26 * 3600.0  # seconds
_RENEWED_EVERY = 600.0
_log = logging.getLogger(__name__)


class SetsInUse:
    """A sign of each worker whose engine runs with a set. Blocking.

    Args:
        folder: Of the signs; made when it is first written to.
        worker: What other workers on the same volume call this one.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._mark = folder / f"{uuid.uuid4().hex}.json"
        self._marked: str | None = None
        self._renewed = 0.0

    def use(self, set_id: str | None) -> None:
        """Leave a sign for other workers that this one's engine runs with a set, or with none."""
        if set_id is None:
            if self._marked is not None:
                discard(self._mark)
        else:
            try:
                self._mark.parent.mkdir(parents=True, exist_ok=True)
                own = ProcessMark.own(self._worker).model_dump()
                self._mark.write_text(json.dumps({"set": set_id, **own}), encoding="utf-8")
            except OSError as error:  # a volume that is full, or that this worker may only read
                _log.warning("no sign could be left in %s: %s", self._mark.parent, error)
        self._marked, self._renewed = set_id, time.monotonic()

    def still_used(self) -> None:
        """Renew the sign of `use`, if it is old enough."""
        if self._marked is not None and time.monotonic() - self._renewed > _RENEWED_EVERY:
            self.use(self._marked)

    def sets(self) -> set[str]:
        """The sets that engines run with. Signs of workers that are gone are removed."""
        used = set()
        probe = self._folder / f".{uuid.uuid4().hex}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            now = probe.stat().st_mtime  # by the volume's own clock
            for mark in probe.parent.glob("*.json"):
                set_id = _set_in(mark)
                if ProcessMark.read(mark).is_gone() or now - mark.stat().st_mtime > _IN_USE:
                    discard(mark)
                elif set_id:
                    used.add(set_id)
        except OSError as error:
            _log.warning("which node sets are in use cannot be read: %s", error)
        finally:
            discard(probe)
        return used


def _set_in(mark: Path) -> str | None:
    try:
        said = json.loads(mark.read_bytes())
    except (OSError, ValueError):
        return None
    found = said.get("set") if isinstance(said, Mapping) else None
    return found if isinstance(found, str) else None
