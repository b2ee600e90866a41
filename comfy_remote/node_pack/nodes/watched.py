"""Work elsewhere that a node waits for: shown on the node, and called off when it has to be.

Knows nothing of ComfyUI.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

from ...calls.run import Run
from ...errors import JobTimedOut
from ...events import Event, Log, Preview, Progress, Queued, Started

__all__ = ["LineWatcher", "NodeRun", "Watcher", "watched"]

_INTERRUPT_POLL = 0.25

_T = TypeVar("_T")


class LineWatcher(Protocol):
    """What shows on a node how its work goes, and may end it."""

    def say(self, text: str) -> None:
        """Show a line, instead of the one before."""

    def log(self, message: str, level: str) -> None:
        """Log a line; the level is one of `logging`'s names in lower case."""

    def check(self) -> None:
        """Called several times a second. Raises to end the work."""


class Watcher(LineWatcher, Protocol):
    """One that has a bar and shows pictures as well."""

    async def progress(self, done: float, total: float) -> None:
        """Move the bar; ``total`` is above 0."""

    async def preview(self, preview: Preview) -> None:
        """Show a picture of work in progress."""


async def watched(work: Awaitable[_T], watcher: LineWatcher, line: Callable[[], str]) -> _T:
    """What ``work`` gives. While it goes on, the watcher shows its line, and may end it.

    Args:
        work: Cancelled if the watcher, or whoever waits here, ends it.
        line: Gives the line to show; called several times a second. An empty one is not shown.

    Raises:
        BaseException: What the watcher or ``work`` raises.
    """
    task = asyncio.ensure_future(work)
    shown = ""
    try:
        while not task.done():
            if (text := line()) not in ("", shown):
                watcher.say(shown := text)
            await asyncio.wait({task}, timeout=_INTERRUPT_POLL)
            watcher.check()
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class NodeRun:
    """A job or a call, for a node.

    Args:
        where: What to call the other side.
        timeout: Seconds from now within which it must end; ``None`` for as long as it takes.
    """

    what: ClassVar[str] = "The workflow"

    where: str
    watcher: Watcher
    timeout: float | None = None
    on_event: Callable[[Event], None] | None = None
    _line: str = field(default="", init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    async def whole(self, run: Run, collect: Callable[[], Awaitable[_T]], note: str = "") -> _T:
        """Start it, follow it, and collect what it gave. If this ends early, it is cancelled."""
        self._line = f"Sending to {self.where}{note}"

        def line() -> str:
            return f"{self._line} ({self.elapsed:.0f} s)"

        try:
            return await watched(self._followed(run, collect), self.watcher, line)
        except BaseException as error:
            await self._call_off(run)
            if isinstance(error, JobTimedOut) and self._is_over(run):
                raise self._too_late(error) from error
            raise

    @property
    def elapsed(self) -> float:
        """Seconds since the node began."""
        return time.monotonic() - self._began

    async def _followed(self, run: Run, collect: Callable[[], Awaitable[_T]]) -> _T:
        await run.start()
        async for event in run:
            if self.on_event is not None:
                self.on_event(event)
            await self._show(event)
        self._line = f"Fetching from {self.where}"
        return await collect()

    async def _show(self, event: Event) -> None:
        match event:
            case Queued(position):
                ahead = f", {position} ahead" if position else ""
                self._line = f"Queued on {self.where}{ahead}"
            case Started():
                self._line = f"Running on {self.where}"
            case Progress():
                self._line = f"Running on {self.where}: {event}"
                if event.nodes_total == 1 and event.steps:
                    await self.watcher.progress(event.step or 0.0, event.steps)
                elif event.nodes_total > 0:
                    done = event.fraction * event.nodes_total
                    await self.watcher.progress(done, event.nodes_total)
            case Preview():
                await self.watcher.preview(event)
            case Log():
                self.watcher.log(event.message, event.level)

    async def _call_off(self, run: Run) -> None:
        """See that it stops there, too: a GPU that nobody waits for costs money."""
        if run.id is None or run.finished is not None:
            return
        self.watcher.say(f"Cancelling on {self.where}")
        if why := await run.call_off():
            self.watcher.log(
                f"It could not be cancelled on {self.where} and may go on: {why}"
                f"{self._again(run.id)}",
                "warning",
            )
            return
        self.watcher.say(f"Cancelled on {self.where}")

    def _again(self, run_id: str) -> str:
        """How to cancel it later, if there is a way."""
        return ""

    def _is_over(self, run: Run) -> bool:
        """Whether it is the node's time that is over, and what ran had not ended."""
        return self.timeout is not None and self.elapsed >= self.timeout and run.finished is None

    def _too_late(self, error: JobTimedOut) -> JobTimedOut:
        return JobTimedOut(
            f"{self.what} did not end on {self.where} within {self.timeout:g} s. It was cancelled "
            "there.",
            advice="Give it more time: `timeout` is in seconds, and 0 is as long as it takes. "
            "Waiting for a worker and its start count, too.",
            details=error.details,
        )
