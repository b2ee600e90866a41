"""The RunPod SDK as this worker uses it; the only module that imports it.

The SDK's own loop sleeps a second while a job runs, and looks for a job to start every tenth of a
second, so half a second is lost between two jobs. At its end it waits for its question for stop
signals, which RunPod and our gateway answer up to a minute later. `OneJobScaler` waits for what
happens instead. It stands on methods of `rp_scale.JobScaler` of the SDK 1.12, whose source
tests/unit/test_worker_sdk_scaler.py compares with what this was written for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import runpod
from aiohttp import ClientSession
from pydantic import JsonValue
from runpod import http_client
from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_scale
from runpod.serverless.modules.rp_http import send_result

from ..aio import first_of, within
from .progress import Report

__all__ = ["OneJobScaler", "SdkTimes", "take_jobs"]

Job = dict[str, JsonValue]
Handler = Callable[[Job, Report], Awaitable[dict[str, JsonValue]]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SdkTimes:
    """How long the worker waits, in seconds.

    Attributes:
        poll: For the answer to one question for a job, as the SDK does.
        too_many: After a 429, as the SDK does.
        failure: After any other failure of a question.
    """

    poll: float = 90.0
    too_many: float = 5.0
    failure: float = 1.0


class OneJobScaler(rp_scale.JobScaler):
    """Takes exactly one job, runs it, sends its result, and only then asks for the next.

    Args:
        config: The SDK's.
        ready: Awaited before a job is taken; ``False`` ends the worker.
        close: Awaited when no more jobs are taken.
    """

    def __init__(
        self,
        config: dict[str, object],
        ready: Callable[[], Awaitable[bool]],
        times: SdkTimes = SdkTimes(),
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._close = close
        self._times = times
        self._loop: asyncio.AbstractEventLoop | None = None
        self.session: ClientSession | None = None
        """The connection to the queue, while jobs are taken."""

    async def run(self) -> None:
        """Take jobs until the worker is asked to end. A job that runs then is finished."""
        self._loop = asyncio.get_running_loop()
        async with AsyncClientSession() as session:
            self.session = session
            stops = asyncio.ensure_future(self.monitor_stop_signals(session))
            try:
                while self.is_alive() and await self._ready() and self.is_alive():
                    job = await self._next_job(session)
                    if job is not None:
                        await self._run_job(session, job)
            finally:
                stops.cancel()
                await asyncio.gather(stops, return_exceptions=True)
                if self._close is not None:
                    await self._close()

    def handle_shutdown(self, signum: int, frame: FrameType | None) -> None:
        """Ask the loop to end: unlike what a signal handler sets, this also wakes it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.kill_worker)
        else:
            self.kill_worker()

    async def _next_job(self, session: ClientSession) -> Job | None:
        """A job; ``None`` if the queue has none now, cannot be asked, or the worker is to end."""
        fetching = within(self.jobs_fetcher(session, 1), self._times.poll)
        async with first_of(fetching, self._shutdown_event.wait()) as (fetched, _):
            if not fetched.done():
                return None
            try:
                job = _first_of(fetched.result())
            except TooManyRequests:
                await self._pause(self._times.too_many)
            except asyncio.TimeoutError:
                pass
            except Exception as error:  # noqa: BLE001 - a queue that cannot be asked is asked again
                _log.error("no job could be taken: %s: %s", type(error).__name__, error)
                await self._pause(self._times.failure)
            else:
                return job
        return None

    async def _run_job(self, session: ClientSession, job: Job) -> None:
        # `handle_job` reports to the queue that a job of it is done.
        await self.jobs_queue.put(job)
        self.jobs_queue.get_nowait()
        self.job_progress.add(job)
        task = asyncio.ensure_future(self.handle_job(session, job))
        self.jobs_tasks[job["id"]] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("job %s: %s: %s", job["id"], type(error).__name__, error)

    async def _pause(self, seconds: float) -> None:
        """Wait that long, or until the worker is to end."""
        with suppress(asyncio.TimeoutError):
            await within(self._shutdown_event.wait(), seconds)


def _first_of(jobs: list[Job] | None) -> Job | None:
    """The job that the queue has given, if any.

    Raises:
        TypeError: It has no id to answer under.
    """
    if not jobs:
        return None
    if not isinstance(jobs[0], dict) or not isinstance(jobs[0].get("id"), str):
        raise TypeError("the queue gave something that is not a job")
    return jobs[0]


def take_jobs(
    handle: Handler,
    ready: Callable[[], Awaitable[bool]],
    close: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Take jobs of RunPod's queue until the worker is to end.

    Without a queue (``--rp_serve_api``), the SDK's own HTTP server gives them, and nobody is there
    to report progress to.

    Args:
        handle: Runs one job. With ``refresh_worker`` in its answer, the worker ends with this job.
        ready: Awaited before a job is taken; ``False`` ends the worker.
        close: Awaited when no more jobs are taken.
    """
    if os.environ.get("RUNPOD_AI_API_KEY"):
        # On a machine where somebody has used RunPod's own command line, the SDK would send
        # the key from ~/.runpod/config.toml to the queue, instead of the one for this worker.
        http_client.get_credentials = _no_credentials
    config: dict[str, object] = {}
    scaler: list[OneJobScaler] = []

    def make_scaler(config: dict[str, object]) -> OneJobScaler:
        scaler.append(OneJobScaler(config, ready, close=close))
        return scaler[0]

    async def run(job: Job) -> dict[str, JsonValue]:
        # Not the SDK's `progress_update`: that posts from a thread of its own, so an
        # update can overtake the result and leave the job in progress for good.
        async def report(snapshot: dict[str, JsonValue]) -> None:
            if scaler:
                progress = {"status": "IN_PROGRESS", "output": snapshot}
                await send_result(scaler[0].session, progress, job)

        answer = await handle(job, report)
        if answer.get("refresh_worker"):
            # RunPod replaces the worker, and the SDK ends this process once it has answered.
            config["refresh_worker"] = True
        return answer

    config["handler"] = run
    rp_scale.JobScaler = make_scaler
    runpod.serverless.start(config)


def _no_credentials(*_: object) -> None:
    """Stands in for the SDK's reader of ``~/.runpod/config.toml``."""
