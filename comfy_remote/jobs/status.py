"""The present state of recorded jobs: targets are asked about those that had not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ..aio import Deadline
from ..errors import ComfyRemoteError
from ..targets.opening import reopen
from .client import Client
from .record import JobEntry, Record

__all__ = ["JobStatus", "statuses"]

_ASKING_SECONDS = 5.0
_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job, and whether its state is known.

    Attributes:
        entry: As the record has it now. Its state is the last that was seen.
        unknown: Why it is not known how the job stands, a sentence; empty if it is known.
    """

    entry: JobEntry
    unknown: str = ""


async def statuses(
    record: Record, entries: Sequence[JobEntry], seconds: float | None = None
) -> list[JobStatus]:
    """Ask the targets of jobs that have not ended, side by side, and record what they say.

    Nothing is sent again, fetched or cancelled. A target that cannot be reached, or takes longer
    than ``seconds`` (5) for all together, makes its jobs unknown and nothing else.
    """
    deadline = Deadline(_ASKING_SECONDS if seconds is None else seconds)
    # All at once: a few that hang must not keep the others from being asked.
    free = asyncio.Semaphore(_AT_A_TIME)

    async def stand(entry: JobEntry) -> JobStatus:
        if entry.state.final:
            return JobStatus(entry)
        why = ""
        try:
            async with free:
                await deadline.within(_ask(record, entry))
        except asyncio.TimeoutError:
            why = f"{entry.target} did not answer within {deadline}."
        except ComfyRemoteError as error:
            why = error.message
        entry = await record.read(record.get, entry.id)
        return JobStatus(entry, "" if entry.state.final else why)

    return await asyncio.gather(*(stand(entry) for entry in entries))


async def _ask(record: Record, entry: JobEntry) -> None:
    target = reopen(entry.target, entry.ref, look=True)
    async with Client(target, record=record, on_interrupt=None) as client:
        await (await client.resume(entry)).look()
