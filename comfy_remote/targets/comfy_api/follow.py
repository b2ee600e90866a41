"""Following one job: the server's answers decide, its live events make that quicker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from ...advice import Hint
from ...errors import RateLimited, TargetError, TargetUnreachable
from ...events import Event, Finished, Log
from ...net.http import HttpLimits
from ...net.retry import Backoff, Outage, Polling
from ...wire.comfy_api import ApiJob, ApiStatus
from .live import LiveEvents
from .result import forgotten
from .status import JobReader

__all__ = ["ComfyApiTimes", "JobFollower"]

_MISSES_BEFORE_GONE = 3
_MOST_EARLY = 5


@dataclass(frozen=True, slots=True)
class ComfyApiTimes:
    """How long a client waits for what, in seconds.

    Attributes:
        requests: Those of each request.
        polling: How often it asks how a job stands; with live events, every ``longest`` seconds.
        limited: The same, while the server says that it is asked too often.
        reconnect: The waits before live events are asked for again.
        full: The waits while the server takes no more jobs: its queue is full, or a deployment
            starts.
        search: For a job whose submission was not answered to turn up in the server's list.
        between: Of these, between two looks.
    """

    requests: HttpLimits = HttpLimits()  # noqa: RUF009 - frozen
    polling: Polling = Polling(first=0.25)  # noqa: RUF009 - frozen
    limited: Polling = Polling(  # noqa: RUF009 - frozen
        patience=900.0, backoff=Backoff(first=2.0, longest=30.0)
    )
    reconnect: Backoff = Backoff(first=0.5, longest=15.0)  # noqa: RUF009 - frozen
    full: Backoff = Backoff(attempts=180, first=1.0, longest=5.0)  # noqa: RUF009 - frozen
    search: float = 10.0
    between: float = 1.0


class JobFollower:
    """The events of one job, from now to its end.

    Args:
        ask: Gives the job as it is now; ``None`` if the server does not know it.
        listen: Opens the job's live events; ``None`` while this client has enough of them.
        name: Of the target.
        cancelled: Whether the job waited when this client cancelled it; ``None`` if it did not
            cancel.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[ApiJob | None]],
        listen: Callable[[], LiveEvents | None],
        reader: JobReader,
        *,
        name: str,
        times: ComfyApiTimes,
        cancelled: Callable[[], bool | None],
    ) -> None:
        self._ask, self._listen, self._cancelled = ask, listen, cancelled
        self._reader, self._name, self._times = reader, name, times
        self._live: LiveEvents | None = None
        self._silence_said = False
        self._misses = 0
        self._early = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield events; the last is `Finished`."""
        polling = self._times.polling
        outage, limited = Outage(polling), Outage(self._times.limited)
        began = time.monotonic()
        try:
            while True:
                self._live = self._live or self._listen()
                connected = self._live is not None and self._live.connected
                wait = polling.longest if connected else polling.interval(time.monotonic() - began)
                try:
                    job = await self._ask()
                    outage.answered()
                    limited.answered()
                    for event in self._said(job):
                        yield event
                        if isinstance(event, Finished):
                            return
                    wait = polling.first if self._misses else wait
                except TargetError as error:
                    # Whatever a proxy in between says (502, a page), the job may go on.
                    asked = limited if isinstance(error, RateLimited) else outage
                    again = asked.failed(error)
                    if again is None:
                        raise self._lost(error) from error
                    wait = again
                    if said := asked.said_of(error.message, wait):
                        yield Log(said, "warning")
                for event in self._silence():
                    yield event
                async for event in self._meanwhile(wait):
                    yield event
        finally:
            if self._live is not None:
                await self._live.stop()

    def _said(self, job: ApiJob | None) -> Iterator[Event]:
        """The events of an answer.

        A server that looks into ComfyUI's lists one after the other misses a job that goes from one
        to the other meanwhile: before it is believed that a job is gone, it is asked for again.
        """
        gone = job is None or job.status is ApiStatus.EXPIRED
        self._misses = self._misses + 1 if gone else 0
        if gone and self._misses < _MISSES_BEFORE_GONE:
            return
        if job is None:
            yield forgotten(self._name)
        else:
            yield from self._reader.job(job, cancelled=self._cancelled())

    def _silence(self) -> Iterator[Event]:
        """Say once that there are no live events, and why."""
        if self._live is not None and self._live.given_up and not self._silence_said:
            self._silence_said = True
            why = self._live.given_up
            yield Log(f"{self._name} sends no live events ({why}): asking instead.")

    async def _meanwhile(self, seconds: float) -> AsyncGenerator[Event, None]:
        """Live events, until it is time to ask again, or one says that the job has ended."""
        self._reader.ended = False
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0:
            if self._reader.ended and self._early < _MOST_EARLY:
                self._early += 1  # a stream may say so again and again
                return
            if self._live is None:
                await asyncio.sleep(left)
            elif (said := await self._live.next(left)) is not None:
                for event in self._reader.live(said):
                    yield event

    def _lost(self, error: TargetError) -> TargetUnreachable:
        return TargetUnreachable(
            f"{self._name} has given no answer about the job for too long. {error.message} The job "
            "may still be running there.",
            advice=Hint.RESUME_WHEN_BACK(),
            details=error.details,
        )
