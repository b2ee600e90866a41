"""`run`: the whole job in one call, for scripts that are not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ..events import Event
from ..targets.base import Target
from ..workflow.prompt import Prompt
from .client import Client
from .output import Output

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["run"]


def run(
    prompt: Prompt | Mapping[str, JsonValue] | Path | str,
    target: str | Target | None = None,
    *,
    inputs: Sequence[Path | str] = (),
    timeout: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    config: Path | str | None = None,
) -> list[Output]:
    """Run a prompt on a target and return what it produced.

    >>> outputs = run("workflow.json", "runpod:abc123")  # doctest: +SKIP
    >>> outputs[0].image().size  # doctest: +SKIP
    (1024, 1024)

    May be called where an event loop runs already (a notebook): it then works in a thread.

    Args:
        prompt: As for `Client.submit`.
        target: As for `Client`.
        inputs: As for `Client.submit`.
        timeout: Seconds within which the job must end.
        on_event: Called with each event.
        config: As for `Client`.

    Raises:
        ComfyRemoteError: Whatever went wrong.
    """

    async def whole() -> list[Output]:
        async with Client(target, config=config) as client:
            job = await client.submit(prompt, inputs=inputs, timeout=timeout)
            async for event in job:
                if on_event is not None:
                    on_event(event)
            return await job.outputs()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(whole())
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(whole())).result()
