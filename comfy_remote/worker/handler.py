"""One job from its input to its answer: what a RunPod handler does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    ExecutionFailed,
    JobTimedOut,
    OutOfMemory,
    TargetError,
)
from ..events import Finished, JobState, Log, Preview, Progress, Started
from ..targets.base import InputFile, RemoteRef, RunRequest, Target
from ..targets.comfyui import ComfyUITarget
from ..wire.models import MODEL_ACTIONS
from ..wire.repo_list import parse_repo_list
from ..wire.request import COMFY_REMOTE_1, JobRequest
from ..workflow.edit import apply_overrides
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt
from .collect import collect_outputs
from .failure import failure_answer
from .inputs import decode_inputs
from .model_actions import act_on_models, say_to
from .models.library import ModelLibrary
from .progress import ProgressReporter, Report
from .result import AnswerFacts, build_answer, wanted_outputs
from .settings import WorkerSettings, default_result_limit
from .store import ResultStore

__all__ = ["EngineTarget", "JobEngine", "JobHandler"]

_CANCEL_PATIENCE = 10.0
_CRASH_PATIENCE = 1.0

_log = logging.getLogger(__name__)


class JobEngine(Protocol):
    """What the handler needs of an engine; see `Engine`."""

    @property
    def alive(self) -> bool:
        """Whether there is any use in asking it something."""

    async def ready(self) -> str:
        """Wait until it answers (starting it if need be); its URL."""

    async def died(self) -> EngineCrashed:
        """Wait until it has ended; how."""


class EngineTarget(Target, Protocol):
    """A target that is an engine of ours; see `ComfyUITarget`."""

    async def engine(self) -> str | None:
        """Name and version."""

    async def free_memory(self) -> None:
        """Unload models, empty caches."""


class JobHandler:
    """Runs jobs on one engine, one at a time.

    Args:
        engine: Started by its first `ready`, if not before.
        settings: Limits, and where large outputs go.
        models: The worker's models; by default those of ``settings``, without the engine's.
        connect: Makes the target for the engine's URL.
        environ: Whose secrets must not appear in an error.
    """

    def __init__(
        self,
        engine: JobEngine,
        settings: WorkerSettings | None = None,
        *,
        models: ModelLibrary | None = None,
        connect: Callable[[str], EngineTarget] = ComfyUITarget,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._engine = engine
        self._settings = settings or WorkerSettings()
        self._models = models or ModelLibrary(self._settings.models)
        self._connect = connect
        self._environ = environ
        self._one_at_a_time = asyncio.Lock()

    async def __call__(
        self, job_id: str, payload: JsonValue, report: Report
    ) -> dict[str, JsonValue]:
        """Run one job.

        Args:
            job_id: The queue's id.
            payload: The job's ``input``.
            report: Sends a progress snapshot to the queue. None is under way any more when
                this returns.

        Returns:
            The answer, in the dialect the payload asks for; or ``{"error": …}`` for whatever
            went wrong.

        Raises:
            asyncio.CancelledError: The job was stopped; the engine has been told.
        """
        payload = _lenient(payload)
        ours = isinstance(payload, dict) and payload.get("format") == COMFY_REMOTE_1
        try:
            async with self._one_at_a_time:
                return await self._within_deadline(self._job(job_id, payload, report))
        except ComfyRemoteError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - what is not answered here never ends
            _log.exception("job %s: unforeseen", job_id)
            failure = ExecutionFailed(
                f"The worker failed: {type(error).__name__}: {error}",
                advice="This is a fault of the worker; its log has the traceback.",
            )
        _log.warning("job %s failed: %s: %s", job_id, failure.code, failure)
        return failure_answer(failure, ours=ours, environ=self._environ)

    async def _within_deadline(
        self, job: Coroutine[None, None, dict[str, JsonValue]]
    ) -> dict[str, JsonValue]:
        timeout = self._settings.job_timeout
        try:
            return await asyncio.wait_for(job, timeout)
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"The job took longer than the {timeout:g} s this worker allows, and was stopped.",
                advice="Set COMFY_REMOTE_JOB_TIMEOUT higher on the worker, or do less in one job.",
            ) from None

    async def _job(self, job_id: str, payload: JsonValue, report: Report) -> dict[str, JsonValue]:
        if isinstance(payload, dict) and payload.get("action") in MODEL_ACTIONS:
            return await act_on_models(self._models, payload, report)
        async with self._models.in_use():
            return await self._run(job_id, payload, report)

    async def _run(self, job_id: str, payload: JsonValue, report: Report) -> dict[str, JsonValue]:
        request = JobRequest.parse(payload)
        lines = parse_repo_list(request.repo_list)
        prompt = apply_overrides(parse_prompt(request.workflow), request.overrides)
        with tempfile.TemporaryDirectory(
            prefix="comfy-remote-job-", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            # Megabytes of base64 would hold up the gateway, or the SDK, that shares our loop.
            files = await asyncio.to_thread(decode_inputs, request.images, folder)
            async with ProgressReporter(report, previews=request.previews) as reporter:
                if lines:
                    await self._models.ensure_for_run(lines, say_to(reporter))
                url = await self._engine.ready()
                run = _Run(self._engine, self._connect(url), self._settings, job_id, folder)
                return await self._unless_engine_dies(run.answer(request, prompt, files, reporter))

    async def _unless_engine_dies(
        self, run: Coroutine[None, None, dict[str, JsonValue]]
    ) -> dict[str, JsonValue]:
        """The run's answer; or, as soon as the engine's process ends, how it ended.

        The client would wait for the engine to come back for as long as its patience lasts.
        """
        job = asyncio.ensure_future(run)
        death = asyncio.ensure_future(self._engine.died())
        try:
            await asyncio.wait({job, death}, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise death.result()
            try:
                return job.result()
            except TargetError as error:
                # A connection breaks a moment before the process has quite ended.
                await asyncio.wait({death}, timeout=_CRASH_PATIENCE)
                if death.done():
                    raise death.result() from error
                raise
        finally:
            for task in (job, death):
                task.cancel()
            await asyncio.gather(job, death, return_exceptions=True)


class _Run:
    """One run of one prompt on an engine that is up."""

    def __init__(
        self,
        engine: JobEngine,
        target: EngineTarget,
        settings: WorkerSettings,
        job_id: str,
        folder: Path,
    ) -> None:
        self._engine = engine
        self._target = target
        self._settings = settings
        self._job_id = job_id
        self._folder = folder
        self._timings: dict[str, float] = {}

    async def answer(
        self,
        request: JobRequest,
        prompt: Prompt,
        files: Sequence[InputFile],
        reporter: ProgressReporter,
    ) -> dict[str, JsonValue]:
        """Submit, follow, collect, answer."""
        settings = self._settings
        async with self._target:
            # A new id each time: RunPod may give us the same job again, and an engine that
            # had run it would answer with the old run.
            run = RunRequest(str(uuid.uuid4()), prompt, files, request.ui_workflow)
            begun = time.monotonic()
            ref = await self._submit(run)
            self._timings["upload"] = _since(begun)
            finished = await self._follow(ref, prompt, reporter)
            await self._check(finished)
            begun = time.monotonic()
            wanted = wanted_outputs(finished.outputs, request.format)
            collected = await collect_outputs(self._target, wanted, self._folder)
            self._timings["collect"] = _since(begun)
            return await build_answer(
                collected,
                request.format,
                AnswerFacts(self._timings, await self._target.engine(), settings.worker),
                job_id=self._job_id,
                limit=settings.result_limit or default_result_limit(self._job_id),
                store=ResultStore(settings.store_url, settings.store_key)
                if settings.store_url
                else None,
            )

    async def _submit(self, run: RunRequest) -> RemoteRef:
        """Submit; a job stopped in that very moment is stopped on the engine too."""
        submission = asyncio.ensure_future(self._target.submit(run))
        try:
            return await asyncio.shield(submission)
        except asyncio.CancelledError:
            if self._engine.alive:
                await asyncio.wait({submission}, timeout=_CANCEL_PATIENCE)
            if submission.done() and submission.exception() is None:
                await self._cancel(submission.result())
            submission.cancel()
            raise

    async def _follow(self, ref: RemoteRef, prompt: Prompt, reporter: ProgressReporter) -> Finished:
        submitted = time.monotonic()
        started: float | None = None
        try:
            async with aclosing(self._target.follow(ref, prompt)) as events:
                async for event in events:
                    match event:
                        case Started():
                            started = time.monotonic()
                        case Progress():
                            reporter.progress(event)
                        case Preview():
                            reporter.preview(event)
                        case Log():
                            _log.warning("job %s: %s", self._job_id, event.message)
                        case Finished():
                            if started is not None:
                                self._timings["queue"] = round(started - submitted, 3)
                                self._timings["run"] = _since(started)
                            return event
        except asyncio.CancelledError:
            await self._cancel(ref)
            raise
        raise TargetError("The engine's events ended without saying how the job did.")

    async def _check(self, finished: Finished) -> None:
        if finished.state is JobState.SUCCEEDED:
            return
        error = finished.error or ExecutionFailed("The engine failed the job without a reason.")
        if isinstance(error, OutOfMemory):
            # What is still loaded would make the next job fail as well.
            await _at_most(_CANCEL_PATIENCE, self._target.free_memory(), "free its memory")
        raise error

    async def _cancel(self, ref: RemoteRef) -> None:
        if self._engine.alive:
            await _at_most(_CANCEL_PATIENCE, self._target.cancel(ref), "cancel the job")


async def _at_most(seconds: float, request: Awaitable[None], what: str) -> None:
    """Await a request to the engine whose failure changes nothing."""
    try:
        await asyncio.wait_for(request, seconds)
    except (ComfyRemoteError, asyncio.TimeoutError) as error:
        _log.warning("the engine could not be asked to %s: %s", what, error)


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 3)


def _lenient(payload: JsonValue) -> JsonValue:
    """What worker-comfyui's clients may send: JSON in a string, ``null`` for "not given"."""
    if isinstance(payload, str):
        try:
            payload = json.loads(payload)
        except ValueError:
            return payload
    if isinstance(payload, dict):
        return {key: value for key, value in payload.items() if value is not None}
    return payload
