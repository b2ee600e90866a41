"""One run of one prompt on an engine that is up: submit, follow, collect."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..aio import first_of, within
from ..errors import (
    ComfyRemoteError,
    ExecutionFailed,
    OutOfMemory,
    OutputLost,
    TargetError,
    WorkflowInvalid,
)
from ..events import (
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Preview,
    Progress,
    Queued,
    ShownValues,
    Started,
)
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import RemoteRef, RunRequest
from ..targets.comfyui.target import ComfyUITarget
from ..targets.engine_files import EngineFolders, NodeTimes, with_unlisted
from ..workflow.workload import mostly_cached
from .collect import Collected, CollectedOutput, collect_outputs
from .dialects import Dialect
from .engine import Engine
from .progress import ProgressReporter

__all__ = ["EngineRun", "RunResult", "at_most", "unless_engine_dies"]

_CRASH_PATIENCE = 1.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outputs of a run, and what is wrong with it.

    Attributes:
        outputs: In our own files.
        error: Why the job failed after it had saved these; ``None`` if it succeeded.
    """

    outputs: list[CollectedOutput]
    problems: list[OutputProblem]
    error: ComfyRemoteError | None = None


@dataclass(eq=False)
class EngineRun:
    """One run.

    Attributes:
        engine: Asked whether there is any use in cancelling.
        job_id: The queue's, for the log.
        folders: The engine's, if it is here and its files are ours: outputs are taken from there,
            and what is new in ``output`` after the run is the job's, even if no node listed it.
        patience: Seconds for the engine to answer a cancel, and to free its memory.
        timings: Seconds by phase, as far as it got: ``upload``, ``queue``, ``run``, ``collect``.
        started: When it was submitted, in seconds since the epoch.
        produced: What its nodes have listed until now, whether it succeeds or not.
        notes: Sentences on what was changed in the prompt for this engine.
        shown: By node, what it shows besides its outputs.
        unfinished: The id under which it was submitted, unless it is known to have ended.
        mostly_cached: Whether its engine still had the results of most of it.
        stale: Files that nodes in the engine's cache still list, and that are not there. These
            nodes have to run again.
    """

    engine: Engine
    target: ComfyUITarget
    job_id: str
    folders: EngineFolders | None = None
    patience: float = 10.0
    timings: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    produced: list[RemoteOutput] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: Mapping[str, ShownValues] = field(default_factory=dict)
    stale: list[RemoteOutput] = field(default_factory=list)
    unfinished: str | None = None
    mostly_cached: bool = False
    _times: NodeTimes = field(default_factory=NodeTimes)

    async def result(
        self,
        run: RunRequest,
        reporter: ProgressReporter,
        dialect: Dialect,
        folder: Path,
        *,
        may_repeat: bool,
    ) -> RunResult:
        """Run it, and bring what an answer can hold into ``folder``.

        Args:
            may_repeat: Whether there will be another run if that can help.

        Raises:
            ComfyRemoteError: Why there is nothing to bring, or why to run it again. Out of
                memory, the engine has been asked to free what it can.
        """
        self.started = time.time()
        begun = time.monotonic()
        self.unfinished = run.job_id
        try:
            ref = await self._submit(run)
        except WorkflowInvalid:
            self.unfinished = None
            raise
        self.timings["upload"] = _since(begun)
        finished = await self._follow(ref, run, reporter)
        if self.folders is not None:
            finished = await with_unlisted(
                finished, self.folders.output, self.started, run.prompt, self._times
            )
        self.unfinished = None
        self.produced += finished.outputs
        self.shown = finished.shown
        self.mostly_cached = mostly_cached(run.prompt, finished.details.get("cached_nodes"))
        error = await self._error_of(finished)
        if error is None:
            wanted = dialect.wanted(finished.outputs, shows_values=bool(finished.shown))
        else:
            wanted = dialect.can_hold(finished.outputs)
            if not wanted or (may_repeat and isinstance(error, OutOfMemory)):
                raise error
        begun = time.monotonic()
        collected = await collect_outputs(self.target, wanted, folder, run.prompt, self.folders)
        self.timings["collect"] = _since(begun)
        if error is None and may_repeat:
            self._check_cache(finished, collected)
        if wanted and not collected.outputs:
            raise error or collected.lost[0][1]
        problems = [*finished.problems, *collected.problems]
        return RunResult(collected.outputs, problems, error)

    def _check_cache(self, finished: Finished, collected: Collected) -> None:
        """Refuse outputs of cached nodes whose files are gone.

        Raises:
            OutputLost: A node in the engine's cache lists a file that does not exist any more.
        """
        cached = finished.details.get("cached_nodes")
        known = set(map(str, cached)) if isinstance(cached, list) else set()
        stale = [
            (output, error)
            for output, error in collected.lost
            if output.node_id in known and isinstance(error, OutputLost)
        ]
        if stale:
            self.stale = [output for output, _ in stale]
            raise stale[0][1]

    async def _submit(self, run: RunRequest) -> RemoteRef:
        """Submit. A job that is stopped meanwhile is stopped on the engine, too."""
        submission = asyncio.ensure_future(self.target.submit(run))
        try:
            return await asyncio.shield(submission)
        except asyncio.CancelledError:
            if self.engine.alive:
                await asyncio.wait({submission}, timeout=self.patience)
            if submission.done() and submission.exception() is None:
                await self._cancel(submission.result())
            submission.cancel()
            raise

    async def _follow(
        self, ref: RemoteRef, run: RunRequest, reporter: ProgressReporter
    ) -> Finished:
        submitted = time.monotonic()
        started: float | None = None
        try:
            async with aclosing(self.target.follow(ref, run.prompt)) as events:
                async for event in events:
                    match event:
                        case Queued(ahead) if ahead:
                            # Without reports, a client guesses the progress.
                            reporter.progress(Progress(message=_behind(ahead)))
                        case Started():
                            started = time.monotonic()
                        case Progress():
                            self._times.running(event.node_id, time.time())
                            reporter.progress(event)
                        case Preview():
                            reporter.preview(event)
                        case NodeText():
                            reporter.text(event)
                        case OutputReady(output):
                            self.produced.append(output)
                        case Log():
                            _log.warning("job %s: %s", self.job_id, event.message)
                            if event.level == "info":  # about the prompt, not about the engine
                                self.notes.append(event.message)
                        case Finished():
                            if started is not None:
                                self.timings["queue"] = round(started - submitted, 3)
                                self.timings["run"] = _since(started)
                            return event
        except asyncio.CancelledError:
            await self._cancel(ref)
            raise
        raise TargetError("The engine's events ended without the end of the job.")

    async def _error_of(self, finished: Finished) -> ComfyRemoteError | None:
        if finished.state is JobState.SUCCEEDED:
            return None
        error = finished.error or ExecutionFailed("The engine gave no reason for failing the job.")
        if isinstance(error, OutOfMemory):
            # What is still loaded would make the next run fail as well.
            await at_most(self.patience, self.target.free_memory(), "free its memory")
        return error

    async def _cancel(self, ref: RemoteRef) -> None:
        if self.engine.alive:
            await at_most(self.patience, self.target.cancel(ref), "cancel the job")


def _behind(ahead: int) -> str:
    jobs = "another prompt" if ahead == 1 else f"{ahead} other prompts"
    return f"It waits for {jobs} in the queue of the worker's ComfyUI."


async def unless_engine_dies(engine: Engine, work: Coroutine[None, None, _T]) -> _T:
    """The work's result; or, as soon as the engine's process ends, how it ended.

    The client would wait for the engine to come back for as long as its patience lasts.

    Raises:
        EngineCrashed: It has ended.
    """
    async with first_of(work, engine.died()) as (job, death):
        if not job.done():
            raise death.result()
        try:
            result: _T = job.result()
        except TargetError as error:
            # A connection breaks a moment before the process has quite ended.
            await asyncio.wait({death}, timeout=_CRASH_PATIENCE)
            if death.done():
                raise death.result() from error
            raise
        return result


async def at_most(seconds: float, request: Awaitable[None], what: str) -> None:
    """Await a request to the engine; its failure is logged, and changes nothing."""
    try:
        await within(request, seconds)
    except (ComfyRemoteError, asyncio.TimeoutError) as error:
        _log.warning("the engine could not be asked to %s: %s", what, error)


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 3)
