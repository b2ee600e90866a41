"""What is brought to a target, or was: how far each of its steps is, as the page shows it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import JsonValue

from ..clean import cleaned_json
from ..errors import ComfyRemoteError
from ..ready.lock import Lock
from ..ready.sync.carrying import Ended, Moved
from ..ready.sync.packs import PackStep
from ..ready.sync.steps import Step
from .advice import error_json

__all__ = ["Bring", "Row", "State"]

State: TypeAlias = Literal["running", "ended", "failed", "stopped", "interrupted"]


@dataclass
class Row:
    """How far one step is.

    Attributes:
        state: ``waiting``, ``running``, ``failed``, ``stopped``, or as `Ended.how`.
        message: For people.
        began: By the monotonic clock.
    """

    kind: str
    name: str
    size: int | None = None
    way: str = ""
    state: str = "waiting"
    done: int | None = None
    total: int | None = None
    message: str = ""
    began: float | None = None
    error: ComfyRemoteError | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """For the page."""
        running = self.state == "running"
        return {
            "kind": self.kind,
            "name": self.name,
            "size": self.size,
            "way": self.way,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "message": self.message,
            "seconds": round(time.monotonic() - self.began, 1) if running and self.began else None,
            "error": None if self.error is None else error_json(self.error),
        }


@dataclass
class Bring:
    """What is brought to one target, or was.

    Attributes:
        lock: All that is to come, to plan it again.
        agreed: What of it has had its yes: code, addresses.
        error: Why nothing could be brought at all; of one step, its row has it.
    """

    id: str
    target: str
    lock: Lock
    agreed: frozenset[str]
    rows: list[Row]
    state: State = "running"
    began: float = field(default_factory=time.time)
    ended: float | None = None
    error: ComfyRemoteError | None = None
    task: asyncio.Task[None] | None = None

    @classmethod
    def interrupted(
        cls,
        id: str,  # noqa: A002
        target: str,
        lock: Lock,
        agreed: frozenset[str],
        began: float,
    ) -> Bring:
        """What an earlier start of the server has begun, by what its note says."""
        rows = [Row("pack", one.name) for one in lock.packs]
        rows += [Row("model", one.path) for one in lock.models]
        return cls(id, target, lock, agreed, rows, "interrupted", began, began)

    def moved(self, one: Moved) -> None:
        """Note how far a step is."""
        # Packs are installed together, and said of the first.
        packs = isinstance(one.step, PackStep)
        rows = [r for r in self.rows if r.kind == "pack"] if packs else [self._row(one.step)]
        for row in rows:
            if row.began is None:
                row.began = time.monotonic()
            row.state, row.message = "running", one.message
            row.done, row.total = one.done, one.total

    def one_ended(self, one: Ended) -> None:
        """Note how a step has ended."""
        row = self._row(one.step)
        row.state, row.error, row.message = one.how or "failed", one.error, " ".join(one.notes)

    def end(self, state: State) -> None:
        """Note how all of it has ended."""
        self.state, self.ended = state, time.time()
        for row in self.rows:
            if row.state in ("waiting", "running"):
                row.state = "stopped"

    def _row(self, step: Step | PackStep) -> Row:
        kind, name = step.item.kind, step.item.name
        return next(row for row in self.rows if (row.kind, row.name) == (kind, name))

    def to_json(self) -> dict[str, JsonValue]:
        """For the page."""
        return cleaned_json(
            {
                "id": self.id,
                "target": self.target,
                "state": self.state,
                "began": self.began,
                "ended": self.ended,
                "error": None if self.error is None else error_json(self.error),
                "steps": [row.to_json() for row in self.rows],
            }
        )
