"""One job that runs a workflow: its inputs, its runs on the engine, its answer."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
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
from ..targets.base import InputFile, RunRequest
from ..targets.comfyui.target import ComfyUITarget, engine_of
from ..targets.engine_files import EngineFolders, folders_in
from ..targets.input_names import UsersNames
from ..wire.repo_list import parse_repo_list
from ..wire.request import JobRequest
from ..workflow.prompt import Prompt
from ..workflow.repo_list import without_repo_list
from ..workflow.schema import Schemas
from .actions import EngineFacts
from .changes import changed, convert, embedded_workflow, needs_schemas, plain_prompt
from .cleanup import Cleaner
from .connection import Connect
from .dialects import AnswerFacts, Dialect
from .engine import Engine, needs_fresh_engine
from .inputs import InputReceiver
from .job_folders import JobFolders
from .models.library import ModelLibrary
from .progress import ProgressReporter, Report
from .recovery import end_if_hung
from .result import build_answer, shown_within
from .run import EngineRun, RunResult, at_most, unless_engine_dies
from .sent_models import LackingModels, fetch_lacking
from .settings import WorkerSettings, default_result_limit
from .storage import (
    BucketStore,
    InputStore,
    KeptFiles,
    Store,
    bucket_guard,
    check_address,
    gateway_store,
)
from .storage import settings_of as bucket_settings_of
from .what_ran import WhatRan

__all__ = ["JobResult", "WorkerParts", "WorkflowJob"]

# For the error beside a failed job's outputs: its message, a traceback and log lines.
_ROOM_FOR_ERROR = 64 * 1024

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class WorkerParts:
    """What all jobs of one worker share.

    Attributes:
        engine: Started by the job that needs it, if not before.
        connect: Opens a target for the engine's URL.
        models: For a request's ``repo_list`` and ``models``.
        settings: Limits, and where large outputs go.
        environ: For ``COMFY_ORG_API_KEY``; its secrets must not appear in an error.
        store: Where large outputs go, unless a bucket takes them.
        inputs: Has the input files that a job names by their SHA-256 alone.
        folders: Each job's own files are in one of them.
        kept: Where large outputs go in the end.
        about: What is known of the engine.
        what_ran: Confirms in an answer what has made it.
    """

    engine: Engine
    connect: Connect
    models: ModelLibrary
    settings: WorkerSettings
    environ: Mapping[str, str]
    store: Store | None
    inputs: InputStore | None
    folders: JobFolders = field(default_factory=JobFolders)
    kept: KeptFiles = field(init=False)
    about: EngineFacts = field(init=False)
    cleaner: Cleaner = field(init=False)
    store_of_inputs: InputStore | None = field(init=False)
    receiver: InputReceiver = field(init=False)
    what_ran: WhatRan = field(init=False)
    stores: list[Store] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.kept = KeptFiles(settings.folder / "outputs", limit=settings.kept_limit)
        self.about = EngineFacts(self.engine)
        self.what_ran = WhatRan(self.engine, self.models, settings.models.volume)
        self.cleaner = Cleaner()
        gateway = gateway_store(settings)
        self.stores: list[Store] = [one for one in (self.store, gateway) if one is not None]
        self.store_of_inputs = self.inputs or gateway
        self.receiver = InputReceiver(settings, self.store_of_inputs)


@dataclass(frozen=True, slots=True)
class JobResult:
    """An answer, and why the job failed after it had saved what is in it (else ``None``)."""

    answer: dict[str, JsonValue]
    error: ComfyRemoteError | None = None


class WorkflowJob:
    """One job.

    Attributes:
        begun: When it came, by the monotonic clock.
        comfy_org_key: For nodes that call Comfy.org's services.
        warnings: What went wrong without failing it.
    """

    def __init__(
        self, job_id: str, request: JobRequest, dialect: Dialect, parts: WorkerParts
    ) -> None:
        self.id = job_id
        self.request = request
        self.dialect = dialect
        self.parts = parts
        self.begun = time.monotonic()
        key = request.comfy_org_api_key
        environ = parts.environ
        self.comfy_org_key = key.get_secret_value() if key else environ.get("COMFY_ORG_API_KEY")
        self.warnings: list[str] = []
        settings, config = parts.settings, request.s3_config
        self._bucket, self._bucket_guard = settings.bucket, None
        if config is not None:
            self._bucket_guard = bucket_guard(settings)
            self._bucket = bucket_settings_of(config, self._bucket_guard)
        self._attempt: _Attempt | None = None
        self._folder: Path | None = None

    async def run(self, report: Report) -> JobResult:
        """Run the job.

        Returns:
            The answer, in the request's dialect.

        Raises:
            ComfyRemoteError: Why there is none.
        """
        try:
            return await self._run(report)
        finally:
            for problem in await self.parts.receiver.delete_stored(self.request):
                _log.warning("job %s: an input stays in storage: %s", self.id, problem)

    async def clean_up(self) -> None:
        """Remove what an answered job has left here and in the engine's history."""
        if self._attempt is not None:
            await self._attempt.be_forgotten()
        if self._folder is not None:
            await self.parts.folders.remove(self._folder)

    @property
    def left_running(self) -> str | None:
        """The engine's id of a run that may not have ended there."""
        run = self._attempt.run if self._attempt is not None else None
        return run.unfinished if run is not None else None

    @property
    def stores(self) -> list[Store]:
        """Where large outputs go: the request's or worker's bucket, a store, here."""
        buckets: list[Store] = []
        if self._bucket is not None:
            buckets.append(BucketStore(self._bucket, self._bucket_guard))
        return [*buckets, *self.parts.stores, self.parts.kept]

    async def _run(self, report: Report) -> JobResult:
        request = self.request
        # Before anything is started or fetched: what is wrong with the request itself.
        lines = parse_repo_list(request.repo_list)
        if self._bucket is not None and self._bucket_guard is not None:
            await check_address(self._bucket, self._bucket_guard)
        prompt = None if needs_schemas(request) else changed(plain_prompt(request), request)
        folder = self._folder = await self.parts.folders.new()
        files = await self.parts.receiver.receive(request, folder, self.id)
        async with ProgressReporter(report, previews=request.previews) as reporter:
            if lines:
                ensured = await self.parts.models.ensure_for_run(lines, reporter.say)
                self.warnings += ensured.notes
            # What its nodes buy from a service would be paid for twice.
            may_repeat = not self.comfy_org_key
            first = _Attempt(self, prompt, files, reporter, folder / "1", may_repeat)
            self._attempt = first
            try:
                return await first.result()
            except (EngineCrashed, OutOfMemory, OutputLost) as error:
                if not may_repeat or needs_fresh_engine(error) or not first.may_help(error):
                    raise
                warning = f"{error.message} The job is run again, once."
            _log.warning("job %s: %s", self.id, warning)
            self.warnings.append(warning)
            reporter.progress(Progress(message=warning))
            await first.be_forgotten()
            self._attempt = first.again(folder / "2")
            return await self._attempt.result()


@dataclass(eq=False)
class _Attempt:
    """One run of a job, from an engine that may have to be started to the answer.

    Attributes:
        prompt: ``None`` where the engine's schemas are needed to convert the workflow.
        folder: For the outputs.
        may_repeat: Whether there will be another attempt if that can help.
        run: On the engine; ``None`` until it begins.
        prompt_id: The engine's.
        cleaned: Whether its files in the engine's folders have been removed, all of them.
    """

    job: WorkflowJob
    prompt: Prompt | None
    files: Sequence[InputFile]
    reporter: ProgressReporter
    folder: Path
    may_repeat: bool
    names: UsersNames = field(default_factory=lambda: UsersNames({}))
    run: EngineRun | None = None
    prompt_id: str = ""
    cleaned: bool = False

    def __post_init__(self) -> None:
        self.parts = self.job.parts

    def again(self, folder: Path) -> _Attempt:
        """The attempt after this one, which is the last."""
        return _Attempt(self.job, self.prompt, self.files, self.reporter, folder, may_repeat=False)

    def may_help(self, error: ComfyRemoteError) -> bool:
        """Whether another attempt may do better after an error of this one."""
        stale = self.run.stale if self.run is not None else []
        return bool(stale) or not isinstance(error, OutputLost)

    async def result(self) -> JobResult:
        """The answer.

        Raises:
            ComfyRemoteError: Why there is none; with the engine's log, if that may say more.
        """
        engine = self.parts.engine
        self.folder.mkdir()
        opening = self.parts.connect(await engine.ready())
        mark = engine.log_mark()
        try:
            result = await unless_engine_dies(engine, self._on(opening))
        except ExecutionFailed as error:
            self._add_log(error, mark)
            raise
        except TargetError as error:
            log = engine.log_since(mark)  # gone with its process
            crash = await end_if_hung(engine, error)
            if crash is None:
                raise
            crash.details["engine_log"] = "\n".join(log)
            raise crash from error
        if isinstance(result.error, ExecutionFailed):
            self._add_log(result.error, mark)
        return result

    def _add_log(self, error: ExecutionFailed, mark: int) -> None:
        if log := self.parts.engine.log_since(mark):
            error.details.setdefault("engine_log", self.names.text("\n".join(log)))

    async def _on(self, opening: AbstractAsyncContextManager[ComfyUITarget]) -> JobResult:
        """The answer, from an engine that is up."""
        job, parts = self.job, self.parts
        async with opening as target:
            stats = await parts.about.stats(target)
            if (folders := self._folders(stats)) is not None:
                target.place_inputs_in(folders.input)
            if self.prompt is None:
                nodes = (await target.describe()).nodes
                schemas = Schemas(nodes or {}, "the worker's engine")
                self.prompt = changed(convert(job.request, schemas), job.request)
            self.prompt = without_repo_list(self.prompt)
            lacking = await fetch_lacking(
                job.request.models, target, parts.models, self.reporter.say
            )
            key = job.comfy_org_key
            # A new id each time: RunPod may give us the same job again, and an engine that had run
            # it would answer with the old run.
            self.prompt_id = str(uuid.uuid4())
            request = RunRequest(
                self.prompt_id,
                parts.cleaner.runnable(self.prompt),
                self.files,
                embedded_workflow(job.request),
                extra_data={"api_key_comfy_org": key} if key else {},
            )
            self.names = UsersNames(request.prompt)
            run = EngineRun(
                parts.engine,
                target,
                job.id,
                folders,
                parts.settings.engine_patience,
            )
            self.run = run
            try:
                result = await self._ran(run, request, lacking)
            except BaseException:
                await self._remove_files(run, self.prompt, target.uploaded)
                parts.cleaner.run_again(self.prompt, run.stale)
                raise
            # The files are in our folder now, which the next worker removes if this one is killed.
            removing = asyncio.ensure_future(self._remove_files(run, self.prompt, target.uploaded))
            try:
                return await self._answer(result, run, stats, request)
            finally:
                await removing
                self.cleaned = True

    async def _ran(self, run: EngineRun, request: RunRequest, lacking: LackingModels) -> RunResult:
        """The run's result; its errors say which models could not be fetched."""
        try:
            result = await run.result(
                request, self.reporter, self.job.dialect, self.folder, may_repeat=self.may_repeat
            )
        except ComfyRemoteError as error:
            explained = lacking.explain(error)
            if explained is error:
                raise
            raise explained from error
        if result.error is not None:
            return replace(result, error=lacking.explain(result.error))
        return result

    def _folders(self, stats: Mapping[str, JsonValue]) -> EngineFolders | None:
        """The engine's folders, if it was started here: then what is new there is this job's."""
        if self.parts.engine.pid is None:
            return None
        return folders_in(stats, started_here=True)

    async def _remove_files(
        self, run: EngineRun, prompt: Prompt, uploaded: Mapping[tuple[str, str], str]
    ) -> None:
        # Whoever has started the engine owns its folders.
        if run.folders is not None and not self.parts.settings.keep_outputs:
            await self.parts.cleaner.remove_files(
                run.folders, prompt, run.produced, uploaded.values(), run.started
            )

    async def be_forgotten(self) -> None:
        """Take it out of the history of an engine that was started here; remove what it left."""
        engine, settings = self.parts.engine, self.parts.settings
        run = self.run
        if (
            run is not None
            and run.folders is not None
            and not (self.cleaned or settings.keep_outputs)
        ):
            # It was stopped, and may have written more until it ended; or its clean-up was.
            uploaded = [*run.target.uploaded.values()]
            await self.parts.cleaner.remove_rest(run.folders, uploaded, run.started)
        ours = engine.pid is not None and engine.alive and not settings.keep_outputs
        if self.run is not None and ours:
            await at_most(settings.engine_patience, self._forget(), "forget the job")

    async def _forget(self) -> None:
        async with self.parts.connect(await self.parts.engine.ready()) as target:
            await target.forget(self.prompt_id)

    async def _answer(
        self,
        result: RunResult,
        run: EngineRun,
        stats: Mapping[str, JsonValue],
        request: RunRequest,
    ) -> JobResult:
        job, parts, settings = self.job, self.parts, self.parts.settings
        for problem in result.problems:
            _log.warning("job %s: %s", job.id, problem)
        shown, left_out = shown_within(run.shown)
        facts = AnswerFacts(
            run.timings,
            engine_of(stats),
            settings.worker,
            request.job_id,
            round(time.monotonic() - job.begun, 3),
            await self.parts.receiver.kept(request.files),
            result.problems,
            shown,
            await parts.what_ran.of(stats, request.prompt),
            run.mostly_cached,
        )
        room = _ROOM_FOR_ERROR if result.error is not None else 0
        try:
            answer = await build_answer(
                result.outputs,
                job.dialect,
                facts,
                job_id=job.id,
                folder=self.folder,
                limit=(settings.result_limit or default_result_limit(job.id)) - room,
                stores=job.stores,
                warnings=[*job.warnings, *run.notes, *map(str, result.problems), *left_out],
            )
        except OutputTooLarge as error:
            if result.error is None:
                raise
            result.error.details["outputs_lost"] = error.message
            raise result.error from error
        return JobResult(answer, result.error)
