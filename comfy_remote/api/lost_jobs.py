"""Jobs of which nobody knows whether the target has them: the answer was lost, or the process."""

from __future__ import annotations

import asyncio
import time

from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    JobCancelled,
    OutputLost,
    RateLimited,
    TargetError,
    TargetUnreachable,
)
from ..events import DidItRun
from ..jobs.job import Job
from ..jobs.record import JobEntry
from ..jobs.served import ServedJobs
from .recorded import RecordedJob
from .run import ApiRun
from .times import ApiTimes

__all__ = ["LostJobs"]

_SENT_AGAIN = "The server was restarted before the target had the job, which was sent once more."


class LostJobs:
    """Finds such jobs at the target.

    Args:
        jobs: Those of the front.
    """

    def __init__(self, jobs: ServedJobs[ApiRun], times: ApiTimes) -> None:
        self._jobs, self._client, self._times = jobs, jobs.client, times

    async def after_lost_answer(self, run: ApiRun) -> Job | None:
        """A job whose submission was not answered; ``None`` if its target has not got it for
        `ApiTimes.search` seconds. It may arrive yet, so it is not sent again.

        Raises:
            ComfyRemoteError: The target cannot say.
        """
        return await self._found(run, self._times.search)

    async def after_restart(self, run: ApiRun) -> Job:
        """A job that an earlier process may not have sent: found, or sent if its target never got
        it.

        Raises:
            ComfyRemoteError: The target cannot say; or it is not sent once more, or was refused.
        """
        if (job := await self._found(run, self._times.settle)) is not None:
            return job
        record = self._client.record
        entry = await self._jobs.entry(run.id)
        if any(said.message == _SENT_AGAIN for said in entry.said):
            raise OutputLost(
                f"{self._client.target.name} never received the job, which was sent twice.",
                advice="Send the job again.",
            )
        if (refused := _not_sent_again(run, entry)) is not None:
            DidItRun.NEVER_ACCEPTED.noted_in(refused)
            raise refused
        # Before it is sent: a job that brings down everything is not sent a third time.
        await record.write(record.warned, run.id, _SENT_AGAIN, at=time.time())
        return await self._client.resend(entry)

    async def _found(self, run: ApiRun, seconds: float) -> Job | None:
        """Look for a job, for so many seconds in which the target answers."""
        record, target = self._client.record, self._client.target
        since, away = time.monotonic(), 0.0
        while True:
            try:
                ref = await target.find(run.id)
            except (TargetUnreachable, RateLimited, AuthenticationError) as error:
                if time.monotonic() - since > self._times.patience:
                    raise
                run.waits(error)
                away = time.monotonic() - since
                await asyncio.sleep(self._times.again)
                continue
            if ref is not None:
                await record.write(record.submitted, ref)
                entry = await self._jobs.entry(run.id)
                run.created = entry.created
                return await self._client.resume(entry)
            left = since + away + seconds - time.monotonic()
            if left <= 0:
                return None
            await asyncio.sleep(min(left, self._times.again))


def _not_sent_again(run: ApiRun, entry: JobEntry) -> ComfyRemoteError | None:
    """Why a job is not sent that its target never got."""
    if run.cancel_wanted:
        return JobCancelled("The job was cancelled before it was sent.")
    if RecordedJob.read(entry).keyed:
        return TargetError(
            "The server was restarted before the target had the job. It is not sent any more: the "
            "key for partner nodes that came with it is stored nowhere.",
            advice="Send the job again.",
        )
    return None
