"""What a job waits for, for people: a worker that starts, models that are loaded."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from ..events import Event, Phase, Progress, Queued, Started
from ..workflow.models import model_uses
from ..workflow.prompt import Prompt

__all__ = ["StartTime", "with_phases"]


class StartTime:
    """How long a worker started for a job that is followed: that is billed like its run.

    From when the job was there, if a worker started at the first look; not while it waited for a
    GPU to be free.

    Attributes:
        seconds: Until the job began; 0 for one that a worker was ready for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._since: float | None = clock()
        self._starting = False

    def note(self, event: Event) -> None:
        """Take in an event of the job."""
        match event:
            case Phase(name="starting"):
                self._since = self._clock() if self._since is None else self._since
                self._starting = True
            case Phase(name="throttled"):
                self._since, self._starting = None, False
            case Started() if self._starting and self._since is not None:
                self.seconds += self._clock() - self._since
                self._starting = False
            case _:
                pass


async def with_phases(
    events: AsyncGenerator[Event, None],
    prompt: Prompt,
    usual_start: Callable[[], Awaitable[float | None]],
) -> AsyncGenerator[Event, None]:
    """A job's events, with a `Phase` where its models begin to load, and where that is over.

    Args:
        usual_start: Seconds that a worker of the target took to start the last time.
    """
    loaders = {use.node_id for use in model_uses(prompt) if use.folder != "embeddings"}
    loading = False
    async with aclosing(events):
        async for event in events:
            match event:
                case Phase(name="starting", usual_seconds=None):
                    event = replace(event, usual_seconds=await usual_start())
                case Queued():
                    loading = False
                case Progress(node_id=str(node)) if (node in loaders) is not loading:
                    loading = not loading
                    yield Phase("loading" if loading else "computing")
                case _:
                    pass
            yield event
