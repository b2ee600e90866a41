"""What tests of the gateway's core have in common: a clock that they turn, and jobs."""

from __future__ import annotations

from comfy_remote.gateway.job import Job


class Clock:
    """Seconds that go by when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_job(job_id: str = "j1", **changes: object) -> Job:
    """One that waits, with these changes."""
    made = Job(
        id=job_id,
        created=1.0,
        expires=9e9,
        execution_timeout=60.0,
        retention=30.0,
        result_limit=1000,
        input=b'{"value":1}',
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made
