"""`run`: the whole job in one call, for scripts that are not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..events import Event
from ..targets.base import Target
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .client import Client
from .interruption import OnInterrupt
from .output import Output

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["run"]

_T = TypeVar("_T")
_LOOK_EVERY = 0.25


def run(
    prompt: Prompt | Mapping[str, JsonValue] | Path | str,
    target: str | Target | None = None,
    *,
    inputs: Sequence[Path | str] = (),
    timeout: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    config: Path | str | None = None,
    schemas: Schemas | Path | str | None = None,
    on_interrupt: OnInterrupt = "cancel",
) -> list[Output]:
    """Run a prompt on a target and return what it produced.

    >>> outputs = run("workflow.json", "runpod:abc123")  # doctest: +SKIP
    >>> outputs[0].image().size  # doctest: +SKIP
    (1024, 1024)

    May be called where an event loop runs already (a notebook): it then works in a thread.
    Interrupted (Ctrl-C, a notebook's stop button, an exception in ``on_event``), it cancels the job
    on the target, and the log says so.

    Args:
        prompt: As for `Client.submit`.
        target: As for `Client`.
        inputs: As for `Client.submit`.
        timeout: Seconds within which the job must end and its outputs must be here. After that,
            `JobTimedOut` is raised and the job goes on: its id is in ``details["job_id"]``.
        on_event: Called with each event.
        config: As for `Client`.
        schemas: As for `Client`.
        on_interrupt: ``"leave"`` has the target go on with the job instead; the log says how to
            fetch it.

    Raises:
        ComfyRemoteError: Whatever went wrong. What a job that failed had saved before is fetched
            by ``Job.outputs(even_if_failed=True)``; see `Client` and `resume`.
    """

    async def whole() -> list[Output]:
        async with Client(
            target, config=config, schemas=schemas, on_interrupt=on_interrupt
        ) as client:
            job = await client.submit(prompt, inputs=inputs, timeout=timeout)
            async for event in job:
                if on_event is not None:
                    on_event(event)
            return await job.outputs()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(whole())
    return _in_a_thread(whole())


def _in_a_thread(work: Coroutine[object, object, _T]) -> _T:
    """`asyncio.run` beside the loop of this thread. An interruption here is one there, too."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[_T] | None]] = Future()

    async def whole() -> _T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(max_workers=1) as thread:
        running = thread.submit(lambda: asyncio.run(whole()))
        try:
            while not wait({running}, timeout=_LOOK_EVERY).done:
                _check_not_cancelled()
            return running.result()
        except BaseException:
            if not running.done():
                loop, task = begun.result()
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise


def _check_not_cancelled() -> None:
    """Under `asyncio.run`, Ctrl-C cancels the main task instead of raising; it waits for us here.

    Raises:
        KeyboardInterrupt: It has been cancelled.
    """
    task = asyncio.current_task()
    # New in Python 3.11, like that way of Ctrl-C.
    cancelling = getattr(task, "cancelling", None)
    if cancelling is not None and cancelling():
        raise KeyboardInterrupt
