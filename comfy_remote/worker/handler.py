"""A RunPod handler: a job's input in, its answer or its error out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine, Mapping

from pydantic import BaseModel, JsonValue

from ..aio import within
from ..errors import ComfyRemoteError, ExecutionFailed, JobTimedOut, WorkflowInvalid
from ..json_text import has_more_values
from ..secrets import SECRETS
from ..wire.actions import WORKER_ACTIONS
from ..wire.models import MODEL_ACTIONS, PLACE
from ..wire.nodes import NODE_ACTIONS
from ..wire.request import JobRequest
from .actions import describe, fetch_part, health
from .connection import Connect, EngineConnection
from .dialects import Failure, dialect_named, dialect_of
from .engine import Engine, needs_fresh_engine
from .job import JobResult, WorkerParts, WorkflowJob
from .model_actions import act_on_models, place_model
from .models.library import ModelLibrary
from .node_actions import act_on_nodes
from .progress import Report
from .recovery import settle
from .settings import WorkerSettings
from .storage import InputStore, Store

__all__ = ["JobHandler"]

_KNOWN_ACTIONS = (
    f"Use one of: run, {', '.join(sorted(MODEL_ACTIONS | NODE_ACTIONS | WORKER_ACTIONS))}."
)
_MOST_VALUES = 500_000
_FAREWELL = 8.0  # seconds: who stops a worker waits no longer
_UNREASONABLE = 1e9  # seconds: no deadline, but a mistake

_log = logging.getLogger(__name__)


class JobHandler:
    """Runs jobs on one engine, one at a time.

    Args:
        engine: Started by its first `ready`, if not before.
        settings: Limits, and where large outputs go.
        models: The worker's models; by default those of ``settings``, without the engine's.
        connect: Opens a target for the engine's URL; by default on one connection for all jobs.
        environ: Whose secrets must not appear in an error.
        store: Where large outputs go, unless a bucket takes them.
        inputs: Has the input files that a job names by their SHA-256 alone; by default the
            gateway's store of ``settings``, if there is one.
    """

    def __init__(
        self,
        engine: Engine,
        settings: WorkerSettings | None = None,
        *,
        models: ModelLibrary | None = None,
        connect: Connect | None = None,
        environ: Mapping[str, str] = os.environ,
        store: Store | None = None,
        inputs: InputStore | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings or WorkerSettings()
        self._connection = EngineConnection()
        self._parts = WorkerParts(
            engine,
            connect or self._connection.connect,
            models or ModelLibrary(self._settings.models),
            self._settings,
            environ,
            store,
            inputs,
        )
        self._one_at_a_time = asyncio.Lock()
        self._job_now: WorkflowJob | None = None
        self._settling: asyncio.Task[bool] | None = None
        self.broken: ComfyRemoteError | None = None
        """Why no job can run here: the engine cannot be started, or its GPU is lost."""

    async def ready(self) -> None:
        """Wait until the engine can take a job. Await this before taking one.

        It has been started. What the job before may have left running there has ended, and its
        files have been removed.

        Raises:
            ComfyRemoteError: The engine cannot be started: no job should be taken.
        """
        await self._settled()
        try:
            if not self._one_at_a_time.locked():
                await self._with_current_nodes()
            await self._engine.ready()
        except ComfyRemoteError as error:
            self.broken = error
            raise
        self.broken = None

    async def close(self) -> None:
        """Finish cleaning up after the last job, and close the connection to the engine.

        The next job opens another.
        """
        if self._settling is not None:
            await asyncio.wait({self._settling}, timeout=_FAREWELL)
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
            self._settling = None
        await self._connection.close()
        await self._parts.folders.close()

    async def __call__(
        self, job_id: str, payload: JsonValue, report: Report
    ) -> dict[str, JsonValue]:
        """Run one job.

        Args:
            report: Sends a progress snapshot to the queue. None is under way any more when
                this returns.

        Returns:
            The answer, in the dialect the payload asks for; or ``{"error": …}`` for whatever
            went wrong. With ``refresh_worker`` in it, the worker is to be replaced.

        Raises:
            asyncio.CancelledError: The job was stopped, and cancelled on the engine.
        """
        with self._parts.models.hashing_paused():
            return await self._answered(job_id, payload, report)

    async def _answered(
        self, job_id: str, payload: JsonValue, report: Report
    ) -> dict[str, JsonValue]:
        begun = time.monotonic()
        payload = _lenient(payload)
        saved: dict[str, JsonValue] | None = None
        try:
            async with self._one_at_a_time:
                await self._settled()  # before this job's own time begins
                await self._with_current_nodes()
                self._job_now = None
                try:
                    with SECRETS.holding(_secrets_of(payload)):
                        job = self._job(job_id, payload, report)
                        result = await self._within_deadline(job, payload)
                finally:
                    # Its answer does not wait for that; the next job does.
                    if self._job_now is not None:
                        self._settling = asyncio.ensure_future(self._settle(self._job_now))
        except ComfyRemoteError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - what is not answered here never ends
            _log.exception("job %s: unforeseen", job_id)
            failure = ExecutionFailed(
                f"The worker failed: {type(error).__name__}: {error}",
                advice="This is a bug in the worker; its log has the traceback.",
            )
        else:
            if result.error is None:
                answer = result.answer
                return {**answer, "refresh_worker": True} if self._settings.refresh else answer
            failure, saved = result.error, result.answer
        _log.warning("job %s failed: %s: %s", job_id, failure.code, failure)
        secrets = {**self._parts.environ, **_secrets_of(payload)}
        seconds = round(time.monotonic() - begun, 3)
        dialect = dialect_of(payload, self._settings.answer_format)
        answer = dialect.failure(Failure(failure, secrets, seconds, saved))
        if needs_fresh_engine(failure):
            self.broken = failure
            _log.error("no job can run here any more: asking for a fresh worker")
            await asyncio.to_thread(self._engine.stop)
        elif not self._settings.refresh:
            return answer
        return {**answer, "refresh_worker": True}

    async def _settle(self, job: WorkflowJob) -> bool:
        """Free the engine of a run that did not end, and remove what the job has left.

        Returns:
            Whether the run has ended there.
        """
        ended = True
        if (prompt_id := job.left_running) is not None:
            try:
                ended = await settle(self._engine, self._parts.connect, prompt_id, self._settings)
            except ComfyRemoteError as error:
                _log.error("the engine could not be started again: %s", error)
                ended = False
            except Exception:  # noqa: BLE001 - it would fail every job that comes after this one
                _log.exception("it is not known whether job %s has ended on the engine", job.id)
                ended = False
        try:
            await job.clean_up()
        except Exception:  # noqa: BLE001 - what one job leaves must not fail the next
            _log.exception("what job %s has left could not be removed", job.id)
        return ended

    async def left_running(self) -> bool:
        """Whether the job that was stopped last may still run: on an engine that somebody else has
        started; ours ends with its worker. This waits some seconds for the job's end.
        """
        if self._settling is None or self._engine.pid is not None:
            return False
        try:
            return not await within(asyncio.shield(self._settling), _FAREWELL)
        except asyncio.TimeoutError:
            return True

    async def _with_current_nodes(self) -> None:
        """End an engine whose node packs another worker, or another job, has replaced since."""
        if self._engine.nodes is None:
            return
        if await asyncio.to_thread(self._engine.has_old_nodes):
            _log.info("there are other node packs now: the engine is started again")
            await asyncio.to_thread(self._engine.stop)

    async def _settled(self) -> None:
        """Wait for `_settle`, which goes on if this is cancelled."""
        if self._settling is not None:
            await asyncio.shield(self._settling)
            self._settling = None

    async def _within_deadline(
        self, job: Coroutine[None, None, JobResult], payload: JsonValue
    ) -> JobResult:
        wanted = payload.get("timeout") if isinstance(payload, dict) else None
        limits = [self._settings.job_timeout] if self._settings.job_timeout else []
        if isinstance(wanted, int | float) and 0 < wanted < _UNREASONABLE:
            limits.append(float(wanted))
        timeout = min(limits, default=None)
        try:
            return await within(job, timeout)
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"The job ran longer than its limit of {timeout:g} s and was stopped.",
                advice="Do less in one job, or raise its timeout (or COMFY_REMOTE_JOB_TIMEOUT on "
                "the worker).",
            ) from None

    async def _job(self, job_id: str, payload: JsonValue, report: Report) -> JobResult:
        action = payload.get("action", "run") if isinstance(payload, dict) else "run"
        if not isinstance(action, str):
            raise WorkflowInvalid(
                "The job's input is not valid: action: it is not a string.", advice=_KNOWN_ACTIONS
            )
        if action == PLACE:
            answer = await place_model(
                self._parts.models, self._parts.store_of_inputs, job_id, payload, report
            )
            return JobResult(answer.model_dump(mode="json", exclude_none=True))
        if action in MODEL_ACTIONS:
            models = self._parts.models
            return JobResult(await act_on_models(models, payload, report, self._listed))
        if action in NODE_ACTIONS:
            changed = await act_on_nodes(self._engine, payload, report)
            return JobResult(changed.model_dump(mode="json", exclude_none=True))
        if action in WORKER_ACTIONS:
            about = await self._about_worker(action, payload)
            return JobResult(about.model_dump(mode="json", exclude_none=True))
        if action != "run":
            raise WorkflowInvalid(
                f"The job's input is not valid: action: unknown action {action!r}.",
                advice=_KNOWN_ACTIONS,
            )
        async with self._parts.models.in_use():
            request = JobRequest.parse(payload)
            named = request.format
            otherwise = self._settings.answer_format
            dialect = dialect_of(payload, otherwise) if named is None else dialect_named(named)
            job = self._job_now = WorkflowJob(job_id, request, dialect, self._parts)
            return await job.run(report)

    async def _listed(self) -> dict[str, list[str]]:
        """The names of the models that the engine lists, by folder."""
        async with self._parts.connect(await self._engine.ready()) as target:
            return await target.models()

    async def _about_worker(self, action: str, payload: JsonValue) -> BaseModel:
        if action == "fetch":
            return await fetch_part(self._parts.kept, payload)
        async with self._parts.connect(await self._engine.ready()) as target:
            if action == "health":
                return await health(target, self._settings.folder, self._settings.worker)
            models = self._parts.models
            return await describe(target, payload, self._settings, models, engine=self._engine)


def _lenient(payload: JsonValue) -> JsonValue:
    """The payload as worker-comfyui reads it: JSON in a string, ``null`` for what is missing."""
    if isinstance(payload, str) and not has_more_values(payload, _MOST_VALUES):
        try:
            payload = json.loads(payload)
        except ValueError:
            return payload
    if isinstance(payload, dict):
        return {key: value for key, value in payload.items() if value is not None}
    return payload


def _secrets_of(payload: JsonValue) -> dict[str, str]:
    """The keys that came with a request, under names of secrets."""
    if not isinstance(payload, dict):
        return {}
    config = payload.get("s3Config", payload.get("s3_config"))
    config = config if isinstance(config, dict) else {}
    found = {
        "REQUEST_COMFY_ORG_API_KEY": payload.get("comfy_org_api_key"),
        "REQUEST_S3_SECRET": config.get("accessSecret", config.get("access_secret")),
    }
    return {name: value for name, value in found.items() if isinstance(value, str)}
