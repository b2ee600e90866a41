"""When a day and a month began, by the local calendar. A moment is in seconds since the epoch."""

from __future__ import annotations

from datetime import datetime, tzinfo

__all__ = ["day_of", "day_start", "month_start"]


def day_start(moment: float, zone: tzinfo | None = None) -> float:
    """The first second of a moment's day: of 23 hours or 25 where clocks change.

    Args:
        zone: The local one by default.
    """
    day = datetime.fromtimestamp(moment, zone)
    # Of a midnight that comes twice, the first; of one that is left out, the moment after it.
    return day.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()


def month_start(moment: float, zone: tzinfo | None = None) -> float:
    """The first second of a moment's month."""
    day = datetime.fromtimestamp(moment, zone)
    return day.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()


def day_of(moment: float, zone: tzinfo | None = None) -> str:
    """The date of a moment: ``2026-11-30``."""
    return datetime.fromtimestamp(moment, zone).date().isoformat()
