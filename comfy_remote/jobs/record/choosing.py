"""Which of the record's jobs are meant: those to list, and those to forget."""

from __future__ import annotations

import json
from collections.abc import Collection

from ...data_class import dataclass
from ...events import JobState
from .entries import SAVED_BEFORE

__all__ = ["JobFilter", "Retention"]

_FINAL = ", ".join(f"'{state.value}'" for state in JobState if state.final)
_SAVED_BEFORE = f'"{SAVED_BEFORE}"'  # in an error's JSON
# See `JobEntry.owed`.
_OWED = (
    "folder IS NOT NULL AND COALESCE(outputs, '[]') = '[]' "
    f"AND (state = 'succeeded' OR instr(COALESCE(error, ''), '{_SAVED_BEFORE}') > 0)"
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs are wanted; by default, all.

    Attributes:
        states: Those in one of these; in any if it is empty.
        target: Those that were sent to it, by its name, or by a route.
        since: Those sent after that, in seconds since the epoch.
        text: Those with this text in their id, their workflow's file or their error.
        batch: Those of the batch with this id; of none if it is empty.
    """

    states: Collection[JobState] = ()
    target: str | None = None
    since: float | None = None
    text: str | None = None
    batch: str | None = None

    @classmethod
    def not_ended(cls, target: str | None = None) -> JobFilter:
        """Those that wait or run, on that target or anywhere."""
        return cls([state for state in JobState if not state.final], target)

    def sql(self) -> tuple[str, list[str | float]]:
        """A condition, and its values."""
        parts, values = ["1"], list[str | float]()
        if self.states:
            parts.append(f"state IN ({', '.join('?' * len(self.states))})")
            values += [state.value for state in self.states]
        if self.target is not None:
            parts.append("(target = ? OR placed = ?)")
            values += [self.target, self.target]
        if self.since is not None:
            parts.append("created >= ?")
            values.append(self.since)
        if self.text is not None:
            # SQLite's lower() changes A to Z alone; an error's JSON has other letters as \uXXXX.
            text = "".join(one.lower() if one.isascii() else one for one in self.text)
            parts.append("(instr(lower(id || ' ' || source), ?) > 0 OR instr(lower(error), ?) > 0)")
            values += [text, json.dumps(text)[1:-1].lower()]
        if self.batch is not None:
            parts.append("batch = ?" if self.batch else "batch IS NULL")
            values += [self.batch] if self.batch else []
        return " AND ".join(parts), values


@dataclass(frozen=True, slots=True)
class Retention:
    """Which jobs are forgotten: those that are too old, too many, or together too large.

    Never one that has not ended, one whose outputs are still owed (see `JobEntry.owed`), or one
    that a page has yet to show.

    Attributes:
        seconds: How long after its last change a job stays.
        jobs: How many of the newest stay.
        size: Bytes of the record, above which the oldest go.
    """

    seconds: float = 180 * 86400.0
    jobs: int = 50_000
    size: int = 2 * 1024**3

    def sql(self, now: float, size: int = 0) -> tuple[str, list[float]]:
        """A condition, and its values. See `JobFilter.sql`.

        Args:
            size: Bytes that the record has; 0 where they do not count.
        """
        ended = f"state IN ({_FINAL}) AND page IS NULL AND NOT ({_OWED})"
        if size > self.size:
            return ended, []
        due = (
            "(updated < ? OR created < "
            "(SELECT created FROM jobs ORDER BY created DESC LIMIT 1 OFFSET ?))"
        )
        return f"{ended} AND {due}", [now - self.seconds, max(0, self.jobs - 1)]
