"""One job that runs a workflow: its inputs, its runs on the engine, its answer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    ExecutionFailed,
    OutOfMemory,
    OutputLost,
    OutputTooLarge,
    TargetError,
)
from ..events import Progress
from ..media.temporary import TemporaryFolder
from ..targets.base import InputFile, RunRequest
from ..targets.comfyui.target import engine_of
from ..targets.engine_folders import folders_in
from ..targets.input_names import UsersNames
from ..wire.repo_list import parse_repo_list
from ..wire.request import JobRequest
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .actions import EngineFacts, say_to
from .changes import changed, convert, embedded_workflow, needs_schemas, plain_prompt
from .cleanup import Cleaner
from .dialects import AnswerFacts
from .engine import needs_fresh_engine
from .inputs import InputReceiver
from .models.library import ModelLibrary
from .progress import ProgressReporter, Report
from .recovery import end_if_hung
from .result import build_answer, shown_within
from .run import EngineRun, EngineTarget, JobEngine, RunResult, unless_engine_dies
from .sent_models import fetch_lacking
from .settings import WorkerSettings, default_result_limit
from .storage import (
    BucketStore,
    KeptFiles,
    ResultStore,
    Store,
    bucket_guard,
    check_address,
    settings_of,
)

__all__ = ["JobResult", "WorkflowJob"]

# For the error beside a failed job's outputs: its message, a traceback and log lines.
_ROOM_FOR_ERROR = 64 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobResult:
    """An answer, and why the job failed after it had saved what is in it (else ``None``)."""

    answer: dict[str, JsonValue]
    error: ComfyRemoteError | None = None


class WorkflowJob:
    """One job.

    Args:
        job_id: The queue's id.
        request: What was sent.
        engine: Started by `run`, if need be.
        connect: Makes the target for the engine's URL.
        models: For the request's ``repo_list`` and ``models``.
        kept: Where large outputs go in the end.
        about: What is known of the engine.
        cleaner: The engine's.
        receiver: Brings the input files here.
        settings: Limits, and where large outputs go.
        environ: For ``COMFY_ORG_API_KEY``.
        store: Where large outputs go, unless a bucket takes them.
    """

    def __init__(
        self,
        job_id: str,
        request: JobRequest,
        *,
        engine: JobEngine,
        connect: Callable[[str], EngineTarget],
        models: ModelLibrary,
        kept: KeptFiles,
        about: EngineFacts,
        cleaner: Cleaner,
        receiver: InputReceiver,
        settings: WorkerSettings,
        environ: Mapping[str, str] = os.environ,
        store: Store | None = None,
    ) -> None:
        self._id = job_id
        self._store = store
        self._request = request
        self._engine = engine
        self._connect = connect
        self._models = models
        self._kept = kept
        self._about = about
        self._cleaner = cleaner
        self._receiver = receiver
        self._settings = settings
        self._begun = time.monotonic()
        key = request.comfy_org_api_key
        self._comfy_org_key = key.get_secret_value() if key else environ.get("COMFY_ORG_API_KEY")
        config = request.s3_config
        self._bucket_guard = bucket_guard(settings) if config else None
        self._bucket = settings_of(config, bucket_guard(settings)) if config else settings.bucket
        self._last_run: EngineRun | None = None
        self._names = UsersNames({})
        self._warnings: list[str] = []

    async def run(self, report: Report) -> JobResult:
        """Run it.

        Returns:
            The answer, in the request's format.

        Raises:
            ComfyRemoteError: Why there is none.
        """
        try:
            return await self._run(report)
        finally:
            for problem in await self._receiver.delete_stored(self._request):
                _log.warning("job %s: an input stays in storage: %s", self._id, problem)

    @property
    def left_running(self) -> str | None:
        """The engine's id of a run that may not have ended there."""
        return self._last_run.unfinished if self._last_run is not None else None

    async def _run(self, report: Report) -> JobResult:
        request = self._request
        # Before anything is started or fetched: what is wrong with the request itself.
        lines = parse_repo_list(request.repo_list)
        if self._bucket is not None and self._bucket_guard is not None:
            await check_address(self._bucket, self._bucket_guard)
        prompt = None if needs_schemas(request) else changed(plain_prompt(request), request)
        with TemporaryFolder("job") as name:
            folder = Path(name)
            files = await self._receiver.receive(request, folder)
            async with ProgressReporter(report, previews=request.previews) as reporter:
                if lines:
                    await self._models.ensure_for_run(lines, say_to(reporter))
                try:
                    return await self._attempt(
                        prompt, files, reporter, folder / "1", may_repeat=self._may_run_again
                    )
                except (EngineCrashed, OutOfMemory, OutputLost) as error:
                    stale = self._last_run.stale if self._last_run is not None else []
                    if isinstance(error, OutputLost) and not stale:
                        raise
                    if not self._may_run_again or needs_fresh_engine(error):
                        raise
                    self._tell(f"{error.message} The job is run again, once.", reporter)
                return await self._attempt(prompt, files, reporter, folder / "2", may_repeat=False)

    @property
    def _may_run_again(self) -> bool:
        # What its nodes order from a service would be paid for twice.
        return not self._comfy_org_key

    def _tell(self, warning: str, reporter: ProgressReporter) -> None:
        _log.warning("job %s: %s", self._id, warning)
        self._warnings.append(warning)
        reporter.progress(Progress(message=warning))

    async def _attempt(
        self,
        prompt: Prompt | None,
        files: Sequence[InputFile],
        reporter: ProgressReporter,
        folder: Path,
        *,
        may_repeat: bool,
    ) -> JobResult:
        """One run, from an engine that may have to be started to the answer."""
        folder.mkdir()
        target = self._connect(await self._engine.ready())
        mark = self._engine.log_mark()
        try:
            result = await unless_engine_dies(
                self._engine,
                self._answer(target, prompt, files, reporter, folder, may_repeat=may_repeat),
            )
        except ExecutionFailed as error:
            self._add_log(error, mark)
            raise
        except TargetError as error:
            log = self._engine.log_since(mark)  # gone with its process
            crash = await end_if_hung(self._engine, error)
            if crash is None:
                raise
            crash.details["engine_log"] = "\n".join(log)
            raise crash from error
        if isinstance(result.error, ExecutionFailed):
            self._add_log(result.error, mark)
        return result

    def _add_log(self, error: ExecutionFailed, mark: int) -> None:
        if log := self._engine.log_since(mark):
            error.details.setdefault("engine_log", self._names.text("\n".join(log)))

    async def _answer(
        self,
        target: EngineTarget,
        prompt: Prompt | None,
        files: Sequence[InputFile],
        reporter: ProgressReporter,
        folder: Path,
        *,
        may_repeat: bool,
    ) -> JobResult:
        request = self._request
        async with target:
            stats = await self._about.stats(target)
            if prompt is None:
                prompt = changed(await self._converted(target), request)
            lacking = await fetch_lacking(request.models, target, self._models, say_to(reporter))
            # A new id each time: RunPod may give us the same job again, and an engine that
            # had run it would answer with the old run.
            run = RunRequest(
                str(uuid.uuid4()),
                self._cleaner.runnable(prompt),
                files,
                embedded_workflow(request),
                extra_data={"api_key_comfy_org": self._comfy_org_key}
                if self._comfy_org_key
                else {},
            )
            self._names = UsersNames(run.prompt)
            engine_run = self._last_run = EngineRun(
                self._engine, target, self._id, self._output_folder(stats)
            )
            try:
                result = await engine_run.result(
                    run, reporter, request.format, folder, may_repeat=may_repeat
                )
            except BaseException as error:
                await self._clean(target, prompt, run, engine_run, stats)
                self._cleaner.run_again(prompt, engine_run.stale)
                if not isinstance(error, ComfyRemoteError):
                    raise
                explained = lacking.explain(error)
                if explained is error:
                    raise
                raise explained from error
            if result.error is not None:
                result = replace(result, error=lacking.explain(result.error))
            # The files are in a folder of ours now: theirs can go while the answer is made.
            cleaning = asyncio.ensure_future(self._clean(target, prompt, run, engine_run, stats))
            try:
                return await self._build(result, engine_run, engine_of(stats), run)
            finally:
                await cleaning

    def _output_folder(self, stats: Mapping[str, JsonValue]) -> Path | None:
        """The engine's output folder, if what is new in it can only be this job's."""
        folders = folders_in(stats) if self._engine.pid is not None else None
        return folders.output if folders is not None else None

    async def _clean(
        self,
        target: EngineTarget,
        prompt: Prompt,
        run: RunRequest,
        engine_run: EngineRun,
        stats: Mapping[str, JsonValue],
    ) -> None:
        # The folders of an engine that somebody else has started are theirs.
        ours = self._engine.pid is not None and self._engine.alive
        if not ours or self._settings.keep_outputs:
            return
        await self._cleaner.clean(
            target,
            prompt,
            engine_run.produced,
            target.uploaded.values(),
            stats=stats,
            prompt_id=run.job_id,
            since=engine_run.started,
        )

    async def _converted(self, target: EngineTarget) -> Prompt:
        nodes = (await target.describe()).nodes
        return convert(self._request, Schemas(nodes or {}, "the worker's engine"))

    async def _build(
        self,
        result: RunResult,
        engine_run: EngineRun,
        engine: str | None,
        run: RunRequest,
    ) -> JobResult:
        for problem in result.problems:
            _log.warning("job %s: %s", self._id, problem)
        try:
            answer = await self._built(result, engine_run, engine, run)
        except OutputTooLarge as error:
            if result.error is None:
                raise
            result.error.details["outputs_lost"] = error.message
            raise result.error from error
        return JobResult(answer, result.error)

    async def _built(
        self,
        result: RunResult,
        engine_run: EngineRun,
        engine: str | None,
        run: RunRequest,
    ) -> dict[str, JsonValue]:
        settings = self._settings
        room = _ROOM_FOR_ERROR if result.error is not None else 0
        shown, left_out = shown_within(engine_run.shown)
        return await build_answer(
            result.outputs,
            self._request.format,
            AnswerFacts(
                engine_run.timings,
                engine,
                settings.worker,
                run.job_id,
                round(time.monotonic() - self._begun, 3),
                await self._receiver.kept(run.files),
                result.problems,
                shown,
            ),
            job_id=self._id,
            limit=(settings.result_limit or default_result_limit(self._id)) - room,
            stores=self._stores(),
            warnings=[
                *self._warnings,
                *engine_run.notes,
                *map(str, result.problems),
                *left_out,
            ],
        )

    def _stores(self) -> list[Store]:
        """Where large outputs go: the request's or worker's bucket, a store, here."""
        settings, stores = self._settings, list[Store]()
        if self._bucket is not None:
            stores.append(BucketStore(self._bucket, self._bucket_guard))
        if self._store is not None:
            stores.append(self._store)
        if settings.store_url:
            stores.append(ResultStore(settings.store_url, settings.store_key))
        return [*stores, self._kept]
