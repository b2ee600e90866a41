"""What a job waits for, for people: a worker that starts, models that are loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from ..events import Event, Phase, Progress, Queued
from ..workflow.models import model_uses
from ..workflow.prompt import Prompt

__all__ = ["with_phases"]


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
