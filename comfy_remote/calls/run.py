"""One run elsewhere: sent, followed by its events, cancelled when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from ..aio import within
from ..errors import ComfyRemoteError, JobTimedOut
from ..events import Event, Finished
from ..jobs.interruption import PATIENCE, Patience, call_off, is_interruption, started
from ..jobs.job import Job

__all__ = ["JobRun", "Run"]

_T = TypeVar("_T")


class Run(ABC):
    """Something that runs elsewhere. `start` it, iterate over it for its events.

    Args:
        patience: How long it waits when it is interrupted.
    """

    def __init__(self, *, patience: Patience = PATIENCE) -> None:
        self._patience = patience

    @property
    @abstractmethod
    def id(self) -> str | None:
        """The other side's name for it; ``None`` before it has answered."""

    @property
    @abstractmethod
    def finished(self) -> Finished | None:
        """The last event, once the run has ended."""

    @abstractmethod
    def __aiter__(self) -> AsyncGenerator[Event, None]:
        """The events from now on; the last is `Finished`. A failed run raises nothing here.

        Raises:
            JobTimedOut: The run's time is over. It goes on there.
            TargetError: The other side can no longer be asked.
        """

    @abstractmethod
    async def cancel(self) -> None:
        """Ask the other side to stop it; one that has ended, or was never sent, stays as it is.

        Raises:
            ComfyRemoteError: The other side did not confirm that.
        """

    @abstractmethod
    async def _send(self) -> None:
        """Send it, and note the answer."""

    async def start(self) -> None:
        """Send it.

        Cancelled meanwhile, this waits for the answer first: it may run there already, and only
        the answer says how it is cancelled.

        Raises:
            ComfyRemoteError: It was refused, or may or may not have arrived.
        """
        await started(self._send(), patience=self._patience)

    async def whole(
        self,
        collect: Callable[[], Awaitable[_T]],
        on_event: Callable[[Event], object] | None = None,
    ) -> _T:
        """Start it, follow it to its end, and collect its results.

        Interrupted (cancelled, an exception in ``on_event``) or out of time, it is cancelled on
        the other side.

        Raises:
            ComfyRemoteError: As `start`, `__aiter__` and ``collect``.
        """
        try:
            await self.start()
            async for event in self:
                if on_event is not None:
                    on_event(event)
            return await collect()
        except BaseException as error:
            if isinstance(error, JobTimedOut) or is_interruption(error):
                await self.call_off()
            raise

    async def call_off(self) -> str | None:
        """Cancel it, since nobody waits for it any more.

        Returns:
            Why it may go on; ``None`` if it does not.
        """
        try:
            await within(self.cancel(), self._patience.cancel)
        except ComfyRemoteError as error:
            return str(error)
        except asyncio.TimeoutError:
            return "There was no answer."
        return None


class JobRun(Run):
    """A job as a run.

    Args:
        submit: Submits it.
    """

    def __init__(self, submit: Callable[[], Awaitable[Job]]) -> None:
        super().__init__()
        self._submit = submit
        self._job: Job | None = None

    @property
    def job(self) -> Job:
        """The job, once it was submitted."""
        if self._job is None:
            raise RuntimeError("it has not been started")
        return self._job

    @property
    def id(self) -> str | None:
        return None if self._job is None else self._job.id

    @property
    def finished(self) -> Finished | None:
        return None if self._job is None else self._job.finished

    async def _send(self) -> None:
        self._job = await self._submit()

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        return self.job.__aiter__()

    async def cancel(self) -> None:
        if self._job is not None and not self._job.state.final:
            await self._job.cancel()

    async def call_off(self) -> str | None:
        return None if self._job is None else await call_off(self._job, self._patience)
