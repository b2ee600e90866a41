"""Batches as people and programs are shown them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...batch.store import is_driven
from ...jobs.record import BatchState
from ...types import JsonValue
from ..jobs.shown import when
from .words import progress_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Column
    from rich.text import Text

    from ...jobs.record import BatchEntry

__all__ = ["state_of", "table_of", "to_json"]

_STYLES = {
    "ended": "green",
    "failed": "red",
    "stopped": "yellow",
    "paused": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
}


def state_of(entry: BatchEntry, record_folder: Path) -> str:
    """A word: as recorded, or ``stopped`` where the process that drove it is gone. Blocking."""
    if entry.state is BatchState.ENDED:
        return "failed" if entry.failed else "ended"
    if entry.state is BatchState.CANCELLED:
        return "cancelled"
    if is_driven(record_folder, entry.id):
        return "waiting" if entry.state is BatchState.WAITING else "running"
    return "stopped" if entry.state is not BatchState.PAUSED else "paused"


def table_of(
    entries: Sequence[tuple[BatchEntry, str]],
) -> tuple[list[Column | str], list[tuple[str | Text, ...]]]:
    """The columns and rows of a list of batches with their states."""
    from rich.table import Column
    from rich.text import Text

    columns: list[Column | str] = [
        Column("Id", no_wrap=True),
        Column("Name", no_wrap=True),
        Column("State", no_wrap=True),
        Column("Runs", no_wrap=True),
        Column("Made", no_wrap=True),
        Column("Target", no_wrap=True),
    ]
    if any(entry.why for entry, _ in entries):
        columns.append(Column("Why", overflow="ellipsis", no_wrap=True))
    rows: list[tuple[str | Text, ...]] = [
        (
            entry.id[:8],
            entry.name,
            Text(state, _STYLES.get(state, "")),
            progress_text(entry),
            when(entry.created)[5:16],
            entry.target,
            " ".join((entry.why or "").split()),
        )[: len(columns)]
        for entry, state in entries
    ]
    return columns, rows


def to_json(entry: BatchEntry, state: str) -> dict[str, JsonValue]:
    """A batch for programs."""
    return {
        "batch_id": entry.id,
        "name": entry.name,
        "state": state,
        "last_state": entry.state.value,
        "why": entry.why,
        "target": entry.target,
        "source": entry.source,
        "folder": str(entry.folder),
        "created": entry.created,
        "updated": entry.updated,
        "count": entry.count,
        "succeeded": entry.succeeded,
        "failed": entry.failed,
        "cancelled": entry.cancelled,
        "begun": entry.begun,
        "left": entry.left,
    }
