"""How far a batch is: its counts, what runs, what it has cost, and about how long still."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...batch.events import (
    BatchEvent,
    GoesOn,
    RunBegan,
    RunEnded,
    RunFetches,
    RunProgress,
    RunSends,
    Stopped,
    Waits,
)
from ...units import about_text, dollars, seconds_text
from ..console import printable_line

if TYPE_CHECKING:
    from ...batch.manifest import RunLine
    from ...events import Progress
    from ...jobs.record import BatchEntry
    from ...types import JsonValue

__all__ = ["Running", "Tally", "values_text"]

_LAST = 32
_LONGEST_VALUE = 32


@dataclass
class Running:
    """A run that has begun and not ended.

    Attributes:
        began: As the clock says.
        sent: Bytes of its input files that are there, and of how many.
        received: Bytes of its outputs that are here.
    """

    row: int
    values: Mapping[str, JsonValue]
    job: str
    began: float
    progress: Progress | None = None
    sent: tuple[int, int] | None = None
    received: int | None = None


@dataclass
class Tally:
    """Counts what a batch's events say.

    Args:
        entry: Before the first of them.
        lines: Of its manifest, from before.
        expected: Seconds that its runs take together, as far as that was known before.
        clock: Gives seconds, as `time.monotonic` does.

    Attributes:
        to_do: Runs that had not ended when the command began.
        cached: Runs whose results came from the cache.
        saved: US dollars that these did not cost, as far as that is known.
    """

    entry: BatchEntry
    lines: Iterable[RunLine] = ()
    expected: float | None = None
    clock: Callable[[], float] = time.monotonic
    running: dict[int, Running] = field(default_factory=dict)
    waits: str | None = None

    def __post_init__(self) -> None:
        entry = self.entry
        self.count = entry.count
        self.ended = {
            "succeeded": entry.succeeded,
            "failed": entry.failed,
            "cancelled": entry.cancelled,
        }
        lines = list(self.lines)
        self.cached = sum(line.cached is not None for line in lines)
        self.saved = sum(line.saved or 0.0 for line in lines)
        costs = [line.cost for line in lines if line.cost is not None]
        self.cost: float | None = sum(costs) if costs else None
        self.to_do = self.left
        self._began = self.clock()
        self._took: deque[float] = deque(maxlen=_LAST)
        self._at_a_time: deque[int] = deque(maxlen=_LAST)

    @property
    def left(self) -> int:
        """Runs that have not ended."""
        return self.count - sum(self.ended.values())

    @property
    def seconds(self) -> float:
        """Since the command began to look."""
        return self.clock() - self._began

    def note(self, event: BatchEvent) -> None:
        """Count it in."""
        match event:
            case RunBegan():
                self.running[event.row] = Running(event.row, event.values, event.job, self.clock())
            case RunProgress(row, progress) if row in self.running:
                self.running[row].progress = progress
                self.running[row].sent = None
            case RunSends(row, sent, total) if row in self.running:
                self.running[row].sent = sent, total
            case RunFetches(row, received) if row in self.running:
                self.running[row].received = received
            case RunEnded(line):
                self._ended(line)
            case Waits(why):
                self.waits = why
            case GoesOn():
                self.waits = None
            case Stopped(entry):
                self.entry, self.running = entry, {}
                for state in self.ended:
                    self.ended[state] = int(getattr(entry, state))

    def _ended(self, line: RunLine) -> None:
        run = self.running.pop(line.row, None)
        if line.state in self.ended and self.left > 0:
            self.ended[line.state] += 1
        if line.cached is not None:
            self.cached += 1
            self.saved += line.saved or 0.0
        if line.cost is not None:
            self.cost = (self.cost or 0.0) + line.cost
        if run is not None and line.state != "cancelled":
            self._took.append(self.clock() - run.began)
            self._at_a_time.append(len(self.running) + 1)

    def seconds_left(self) -> float | None:
        """About how long it takes still; ``None`` where nothing is known."""
        if len(self._took) >= min(2, self.count):
            usual = sum(self._took) / len(self._took)
            at_a_time = sum(self._at_a_time) / len(self._at_a_time)
            return self.left * usual / at_a_time
        return None if self.expected is None else self.expected * self.left / self.count

    def sentence(self) -> str:
        """For people: ``12 of 48, 1 failed, 4 under way, 12:40, about 7 min left, $0.21``."""
        parts = [f"{self.count - self.left} of {self.count}"]
        if failed := self.ended["failed"]:
            parts.append(f"{failed} failed")
        if self.cached:
            parts.append(f"{self.cached} from the cache")
        if self.running:
            parts.append(f"{len(self.running)} under way")
        parts.append(seconds_text(self.seconds))
        left = self.seconds_left()
        if left is not None and self.left:
            parts.append(f"about {about_text(left)} left")
        if self.cost is not None:
            parts.append(dollars(self.cost))
        return ", ".join(parts)

    def to_json(self) -> dict[str, JsonValue]:
        """The counts, for programs."""
        left = self.seconds_left()
        return {
            "count": self.count,
            **self.ended,
            "running": len(self.running),
            "left": self.left,
            "cached": self.cached,
            "saved": round(self.saved, 6),
            "seconds": round(self.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
            "cost": None if self.cost is None else round(self.cost, 6),
        }


def values_text(values: Mapping[str, JsonValue]) -> str:
    """The values of a run in a line: ``seed=7, prompt=a cat on a …``; nodes only where needed."""
    inputs = Counter(name.rpartition(".")[2] for name in values)
    words = []
    for name, value in values.items():
        last = name.rpartition(".")[2]
        words.append(f"{last if inputs[last] == 1 else name}={_short(value)}")
    return printable_line(", ".join(words))


def _short(value: JsonValue) -> str:
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
