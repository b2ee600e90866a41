"""How long the served API waits for what, and how long things stay."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ApiTimes"]


@dataclass(frozen=True, slots=True)
class ApiTimes:
    """Times of one front, in seconds.

    Attributes:
        retention: How long a job, and what it made, stay after its end; up to a sweep longer.
        answered: How long a request waits for its job to reach the target.
        again: The wait before a target that could not be reached is asked again.
        patience: How long it is asked again and again before a job is given up.
        search: How long a job is looked for at the target whose submission was not answered.
        settle: How long a submission may still take to arrive that was under way at a restart.
        key: How long an ``Idempotency-Key`` is used up.
        sweep: Between two looks for what has expired.
    """

    retention: float = 24 * 3600.0
    answered: float = 20.0
    again: float = 5.0
    patience: float = 24 * 3600.0
    search: float = 60.0
    settle: float = 2.0
    key: float = 24 * 3600.0
    sweep: float = 600.0
