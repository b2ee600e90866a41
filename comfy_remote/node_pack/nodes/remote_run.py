"""A workflow on a target, for a node: followed, told of, and called off when it has to be."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ...config.settings import Configuration
from ...errors import ComfyRemoteError, JobTimedOut
from ...events import Event, Finished, Log, Preview, Progress, Queued, Started
from ...jobs.client import Client
from ...jobs.cost import RunEstimate, estimate_run
from ...jobs.estimate import estimate_progress, with_estimates
from ...jobs.job import Job
from ...jobs.output import Output
from ...jobs.record import Record
from ...targets.base import RunRequest, not_returned
from ...units import dollars
from ...workflow.prompt import Prompt

__all__ = ["RemoteRun", "Watcher", "pictures_of"]

_INTERRUPT_POLL = 0.25
_SUBMIT_GRACE = 20.0
_CANCEL_GRACE = 10.0
_END_GRACE = 5.0

_T = TypeVar("_T")


class Watcher(Protocol):
    """Who is told how a run goes, and may end it."""

    def say(self, text: str) -> None:
        """Show a line, instead of the one before."""

    def log(self, message: str, level: str) -> None:
        """Keep a line; the level is one of `logging`'s names in lower case."""

    async def progress(self, done: float, total: float) -> None:
        """Move the bar; ``total`` is above 0."""

    async def preview(self, preview: Preview) -> None:
        """Show a picture of work in progress."""

    def check(self) -> None:
        """Called several times a second. Raises what shall end the run."""


@dataclass
class RemoteRun:
    """One run.

    Args:
        target: A name or an address, for `Client`.
        watcher: Who is told.
        timeout: Seconds from now within which it must end; ``None`` for as long as it takes.
        source: A word for where the job comes from, for the record.
        on_event: Called with each of the job's events.
    """

    target: str
    watcher: Watcher
    timeout: float | None = None
    source: str = "RunPod Remote Execute"
    on_event: Callable[[Event], None] | None = None
    _line: str = field(default="", init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _job: Job | None = field(default=None, init=False)

    async def outputs(self, client: Client, record: Record, request: RunRequest) -> list[Output]:
        """Run it and bring here what it made; see `run`."""
        return await self.run(client, record, request, Job.outputs)

    async def run(
        self,
        client: Client,
        record: Record,
        request: RunRequest,
        collect: Callable[[Job], Awaitable[_T]],
    ) -> _T:
        """Run it, and collect what it made. If this ends early, the job is cancelled.

        Args:
            client: Open, of `target`.
            record: The client's.
            request: Complete.
            collect: Called with the job once it has ended, however it did.

        Raises:
            ComfyRemoteError: Whatever went wrong.
            BaseException: What the watcher raises.
        """
        price = Configuration.load().price_per_hour(self.target)
        estimate = await record.read_at_once(
            estimate_run, record, client.target.name, request.prompt, price
        )
        self.watcher.log(f"{self.target}: {estimate.sentence()}", "info")
        if sentence := not_returned(client.target, request.prompt):
            self.watcher.log(sentence, "warning")
        self._line = f"Sending to {self.target}"
        if estimate.seconds is not None:
            self._line += f". {estimate.sentence()}"
        running = asyncio.ensure_future(self._follow(client, record, request, collect))
        told = ""
        try:
            while not running.done():
                line = f"{self._line} ({self._elapsed():.0f} s)"
                if line != told:
                    self.watcher.say(told := line)
                await asyncio.wait({running}, timeout=_INTERRUPT_POLL)
                self.watcher.check()
            collected = running.result()
        except JobTimedOut as error:
            await self._call_off(running)
            raise self._too_late(error) from error
        except BaseException:
            await self._call_off(running)
            raise
        self.watcher.say(self._summary(estimate))
        return collected

    async def _follow(
        self,
        client: Client,
        record: Record,
        request: RunRequest,
        collect: Callable[[Job], Awaitable[_T]],
    ) -> _T:
        job = self._job = await client.send(
            request, source=self.source, timeout=self.timeout, begun=self._began
        )
        guess = await record.read_at_once(
            estimate_progress, record, client.target.name, request.prompt
        )
        async for event in with_estimates(job.__aiter__(), guess):
            if self.on_event is not None:
                self.on_event(event)
            match event:
                case Queued(position):
                    ahead = f", {position} ahead" if position else ""
                    self._line = f"Queued on {self.target}{ahead}"
                case Started():
                    self._line = f"Running on {self.target}"
                case Progress():
                    self._line = f"Running on {self.target}: {_described(event)}"
                    if event.nodes_total > 0:
                        await self.watcher.progress(
                            event.fraction * event.nodes_total, event.nodes_total
                        )
                case Preview():
                    await self.watcher.preview(event)
                case Log():
                    self.watcher.log(event.message, event.level)
                case Finished():
                    self._line = f"Fetching from {self.target}"
                    if event.error is not None and event.outputs:
                        self.watcher.log(
                            f"Before it failed, the job had saved {len(event.outputs)}: "
                            f"`comfy-remote jobs resume {job.id}` fetches them.",
                            "warning",
                        )
        collected = await collect(job)
        told = len(job.finished.problems) if job.finished is not None else 0
        for problem in job.problems[told:]:
            self.watcher.log(f"{problem}", "warning")
        return collected

    async def _call_off(self, running: asyncio.Future[_T]) -> None:
        """Stop following, and see that the job stops, too: a GPU that nobody waits for costs."""
        begun = time.monotonic()
        # The job may be there already: only the answer to its submission tells how to cancel it.
        while self._job is None and time.monotonic() - begun < _SUBMIT_GRACE:
            if (await asyncio.wait({running}, timeout=_INTERRUPT_POLL))[0]:
                break
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        job = self._job
        if job is None or job.state.final:
            return
        self.watcher.say(f"Cancelling on {self.target}")
        try:
            await asyncio.wait_for(job.cancel(), _CANCEL_GRACE)
        except (ComfyRemoteError, asyncio.TimeoutError) as error:
            self.watcher.log(
                f"The job could not be cancelled and may go on: {error} Try again with "
                f"`comfy-remote jobs cancel {job.id}`.",
                "warning",
            )
            return
        with contextlib.suppress(ComfyRemoteError, asyncio.TimeoutError):
            await asyncio.wait_for(job.wait(), _END_GRACE)  # so that the record knows its end
        self.watcher.say(f"Cancelled on {self.target}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _too_late(self, error: JobTimedOut) -> JobTimedOut:
        if self.timeout is None or self._elapsed() < self.timeout:
            return error  # the endpoint's own limit
        if self._job is not None and self._job.state.final:
            return error  # it has run, and its outputs did not arrive in time
        return JobTimedOut(
            f"The workflow did not end on {self.target} within {self.timeout:g} s. It was "
            "cancelled there.",
            advice="Give it more time: `timeout` is in seconds, and 0 is as long as it takes. "
            "Waiting for a worker and its start count, too.",
            details=error.details,
        )

    def _summary(self, estimate: RunEstimate) -> str:
        text = f"Done on {self.target} in {self._elapsed():.0f} s"
        finished = self._job.finished if self._job is not None else None
        seconds = finished.details.get("run_seconds") if finished is not None else None
        if isinstance(seconds, int | float):
            text += f", {seconds:.1f} s of it on the GPU"
            if estimate.price_per_hour is not None:
                text += f": {dollars(seconds * estimate.price_per_hour / 3600)}"
        return text


def pictures_of(outputs: list[Output], prompt: Prompt) -> list[Output]:
    """The pictures among the outputs: the saved ones or, where there are none, the previews.

    In the order of the prompt; those whose node is not known come last, as they came.
    """
    order = {node_id: number for number, node_id in enumerate(prompt)}
    pictures = [output for output in outputs if output.kind == "image"]
    saved = [output for output in pictures if output.folder != "temp"]
    return sorted(saved or pictures, key=lambda output: order.get(output.node_id or "", len(order)))


def _described(progress: Progress) -> str:
    """``3 of 7 nodes, KSampler 12/20``; an estimate says so in its message."""
    parts = []
    if progress.nodes_total > 0:
        parts.append(f"{progress.nodes_done} of {progress.nodes_total} nodes")
    if progress.node_class:
        steps = (
            f" {progress.step:g}/{progress.steps:g}"
            if progress.step is not None and progress.steps
            else ""
        )
        parts.append(f"{progress.node_class}{steps}")
    if progress.message:
        parts.append(progress.message)
    return ", ".join(parts)
