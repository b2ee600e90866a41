"""The present state of recorded jobs: asks the targets of those that had not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..aio import Deadline
from ..errors import ComfyRemoteError
from ..targets.base import Target
from ..targets.opening import reopen
from .client import Client
from .record import JobEntry, Record

__all__ = ["JobStatus", "statuses"]

_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job, and whether its state is known.

    Attributes:
        entry: As the record has it now, with the last state that was seen.
        unknown: Why its present state is not known, a sentence; empty if it is known.
    """

    entry: JobEntry
    unknown: str = ""


def _reopened(entry: JobEntry) -> Target:
    return reopen(entry.target, entry.ref, look=True)


async def statuses(
    record: Record,
    entries: Sequence[JobEntry],
    seconds: float = 5.0,
    target_of: Callable[[JobEntry], Target] = _reopened,
) -> list[JobStatus]:
    """Ask the targets of jobs that have not ended, side by side, and record their answers.

    Nothing is sent again, fetched or cancelled. A target that cannot be reached, or does not answer
    in time, makes its jobs unknown and nothing else.

    Args:
        seconds: For all together.
        target_of: Opens the target of a job; must not start anything.
    """
    deadline = Deadline(seconds)
    # All at once: a few that hang must not keep the others from being asked.
    free = asyncio.Semaphore(_AT_A_TIME)

    async def status(entry: JobEntry) -> JobStatus:
        if entry.state.final:
            return JobStatus(entry)
        why = ""
        try:
            async with free:
                await deadline.within(_ask(record, entry, target_of(entry)))
        except asyncio.TimeoutError:
            why = f"{entry.target} did not answer within {deadline}."
        except ComfyRemoteError as error:
            why = error.message
        entry = await record.read(record.get, entry.id)
        return JobStatus(entry, "" if entry.state.final else why)

    return await asyncio.gather(*(status(entry) for entry in entries))


async def _ask(record: Record, entry: JobEntry, target: Target) -> None:
    async with Client(target, record=record, on_interrupt=None) as client:
        await (await client.resume(entry)).look()
