"""When a batch may begin runs: ``--start 23:00``, ``--until 07:00``.

A time of day means this machine's, when it comes next. It is kept as the moment that it is, so
neither another time zone nor a computer that slept moves it; an hour that is changed for summer
is the one that the clock on the wall then shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day

from ..errors import ConfigurationError

__all__ = ["Hours", "next_time"]

_TIME = re.compile(r"\s*(\d{1,2}):(\d{2})\s*")


def next_time(text: str, after: float, *, option: str = "--start") -> float:
    """The next moment at which a clock here shows a time, in seconds since the epoch.

    Args:
        text: Like ``7:30`` or ``23:00``.
        after: Seconds since the epoch.
        option: Named in the error.

    Raises:
        ConfigurationError: It is not a time of day.
    """
    matched = _TIME.fullmatch(text)
    hour, minute = (int(matched[1]), int(matched[2])) if matched else (24, 0)
    if hour > 23 or minute > 59:
        raise ConfigurationError(
            f"{option} {text!r} is not a time of day.", advice="Write it like 23:00 or 7:30."
        )
    day = datetime.fromtimestamp(after).astimezone().date()
    moment = _at(day, hour, minute)
    return moment if moment > after else _at(day + timedelta(days=1), hour, minute)


def _at(day: date, hour: int, minute: int) -> float:
    # Without a zone: `timestamp` then takes this machine's, with its rules for that very day.
    return datetime.combine(day, time_of_day(hour, minute)).timestamp()


@dataclass(frozen=True, slots=True)
class Hours:
    """From when, and until when, runs may begin; seconds since the epoch, ``None`` for no limit."""

    start: float | None = None
    until: float | None = None

    @classmethod
    def of(cls, start: str | None, until: str | None, now: float) -> Hours:
        """From times of day: the next such start, and the first such end after it.

        Raises:
            ConfigurationError: One is not a time of day.
        """
        begins = None if start is None else next_time(start, now, option="--start")
        ends = None if until is None else next_time(until, begins or now, option="--until")
        return cls(begins, ends)

    def resumed(self, now: float) -> Hours:
        """For who goes on by hand: at once, and until the next such end where it has passed."""
        until = self.until
        if until is not None and until <= now:
            clock = datetime.fromtimestamp(until).astimezone()
            until = next_time(f"{clock.hour}:{clock.minute:02}", now)
        return Hours(None, until)

    def wait(self, now: float) -> float:
        """Seconds until runs may begin; 0 if they may."""
        return max(0.0, (self.start or 0.0) - now)

    def begins(self, now: float) -> str | None:
        """When runs begin, as a sentence; ``None`` if they may now."""
        if self.start is None or self.start <= now:
            return None
        return f"It begins at {datetime.fromtimestamp(self.start).astimezone():%H:%M}."

    def over(self, now: float, seconds: float | None) -> bool:
        """Whether a run that takes so long, as far as is known, would not end in time."""
        return self.until is not None and now + (seconds or 0.0) > self.until
