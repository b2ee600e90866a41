"""What runs in the GPU container: our worker, and the ComfyUI that it drives."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import modal
from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ...errors import ComfyRemoteError, EngineCrashed, TargetUnreachable, WorkflowInvalid
from ...gateway.needs import needs_of
from ...net.retry import Backoff, retried
from ...wire.models import MODEL_ACTIONS
from ...wire.repo_list import parse_repo_list
from ...wire.runpod import error_to_runpod
from ...worker.engine import Engine
from ...worker.handler import JobHandler
from ...worker.model_actions import models_of
from ...worker.models.library import ModelLibrary
from ...worker.models.settings import ModelSettings
from ...worker.report import EngineReport
from ...worker.settings import WorkerSettings
from .calls import MODAL_FAILED
from .config import ModalConfig
from .image import COMFYUI
from .notes import Notes, RunNote, TextDict
from .outputs import OutputVolume, VolumeStore

__all__ = ["ModalWorker", "ModelVolume", "fetch_models"]

_MOST_STARTS = 2

# The worker says that time is up, before Modal ends the container for it.
_LAST_WORDS = 30.0

_log = logging.getLogger(__name__)


class ModelVolume(Protocol):
    """What is used of the `modal.Volume` with the models."""

    # Modal's methods are objects that are called, and have the asynchronous call as `aio`.
    commit: Any
    reload: Any


class ModalWorker:
    """One container: its engine, and the jobs that come, one at a time.

    Args:
        outputs: The volume for large outputs, mounted at ``outputs_folder``.
        models: The volume with the models, mounted as ComfyUI's ``models``.
        environ: The container's; ``COMFY_REMOTE_ENGINE`` names another engine than the
            ComfyUI of the image.
    """

    def __init__(
        self,
        config: ModalConfig,
        *,
        notes: TextDict,
        outputs: OutputVolume,
        outputs_folder: Path,
        models: ModelVolume,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        arguments = f"{environ.get('COMFYUI_ARGS', '')} {config.comfyui_arguments}".strip()
        environ = {**environ, "COMFYUI_ARGS": arguments}
        # The way to the packages of this Python, which are not those of ComfyUI's own.
        environ.pop("PYTHONPATH", None)
        self._engine = Engine.named(environ.get("COMFY_REMOTE_ENGINE") or COMFYUI, environ)
        settings = WorkerSettings.from_environ(environ)
        allowed = settings.models.download
        self._settings = replace(
            settings,
            job_timeout=max(1.0, config.timeout - _LAST_WORDS),
            worker=environ.get("MODAL_TASK_ID") or "modal",
            models=replace(
                settings.models, download=config.download_models if allowed is None else allowed
            ),
        )
        self._store = VolumeStore(outputs, outputs_folder)
        self._handler = JobHandler(
            self._engine,
            self._settings,
            models=models_of(self._engine, self._settings),
            environ=environ,
            store=self._store,
        )
        self._notes = Notes(notes)
        self._models = models

    async def ready(self) -> None:
        """Start the engine, and wait until it answers.

        A failure is only logged: the job starts the engine again, and its client learns why it
        failed. A container that ended here would be started again and again, with its GPU.
        """
        await asyncio.to_thread(self._store.forget_old)
        try:
            await self._engine.ready()
        except ComfyRemoteError as error:
            _log.error("the engine does not start: %s", error)

    def stop(self) -> None:
        """End the engine."""
        self._engine.stop()

    async def run(self, call_id: str, payload: str) -> str:
        """Run one job. Cancelled when its call is: the engine stops.

        Modal starts a call again whose container has ended, as often as that happens, and each
        start is paid for. Here a job has two, and one whose request or nodes do not allow it one.

        Returns:
            What a RunPod handler returns, as JSON: the output, and under ``error`` why it failed.
        """
        job = from_json(payload)
        try:
            note = await self._begin(call_id, job)
        except ComfyRemoteError as error:
            return to_json({"error": error_to_runpod(error)}).decode()

        async def report(snapshot: dict[str, JsonValue]) -> None:
            nonlocal note
            note = note.model_copy(update={"progress": snapshot})
            await self._notes.runs(call_id, note)

        await self._see_new_models()
        answer = await self._handler(call_id, job, report)
        if _may_fetch_models(job):
            await self._show_new_models()
        if answer.get("refresh_worker") and not modal.is_local():
            await self._take_no_more()
        try:
            await self._handler.ready()
        except ComfyRemoteError as error:
            _log.error("the engine is not ready for the next job: %s", error)  # which says why
        except Exception:  # noqa: BLE001 - without its answer, Modal would run this job again
            _log.exception("the engine is not ready for the next job")
        done = note.model_copy(update={"progress": None, "finished": time.time()})
        await self._note(call_id, done)
        return to_json(answer).decode()

    async def _begin(self, call_id: str, job: JsonValue) -> RunNote:
        """The note of this start, written.

        Raises:
            EngineCrashed: The job has been started before, and may not be started again.
            TargetUnreachable: It is not known whether it has.
        """
        note = RunNote(worker=self._settings.worker, started=time.time())
        try:
            before = await retried(
                lambda: self._notes.begins(call_id, note), Backoff(), *MODAL_FAILED
            )
            if before is None:
                return note
            call = await self._notes.of_call(call_id)
            refused = "The job is not started again: its request or its nodes do not allow that."
            if before.attempt >= _MOST_STARTS:
                refused = "The job has been started again once already."
            elif call is not None and call.repeat_lost and not await self._may_cost(job):
                note = note.model_copy(update={"attempt": before.attempt + 1})
                await self._notes.runs(call_id, note)
                _log.warning("job %s is started again: its container has ended", call_id)
                return note
        except MODAL_FAILED as error:
            raise TargetUnreachable(
                "Modal's Dict did not say whether the job has been started before, so it was not "
                f"started: {type(error).__name__}: {error}",
                advice="Run it again; https://status.modal.com reports outages.",
            ) from error
        raise EngineCrashed(
            f"The container that ran the job has ended. {refused}",
            advice="Often its memory was not enough (a larger gpu_type, or memory in "
            "modal_config.json), or Modal took its machine back. Run it again, if it is still "
            "wanted.",
        )

    async def _may_cost(self, job: JsonValue) -> bool:
        """Whether a node of the job buys something from a service each time that it runs."""
        paid = (await EngineReport(self._engine)()).paid
        return not needs_of(job).nodes.isdisjoint(paid)

    async def _note(self, call_id: str, note: RunNote) -> None:
        """Write a note; the job does not depend on it."""
        try:
            await self._notes.runs(call_id, note)
        except MODAL_FAILED as error:
            _log.warning("the progress of %s could not be noted: %s", call_id, error)

    async def _take_no_more(self) -> None:
        """Leave the next job to another container."""
        try:
            await modal.experimental.stop_fetching_inputs.aio()
        except MODAL_FAILED as error:
            _log.warning("this container goes on, though it should be replaced: %s", error)

    async def _see_new_models(self) -> None:
        """Load what other containers have put on the volume since this one started."""
        try:
            await self._models.reload.aio()
        except (*MODAL_FAILED, RuntimeError) as error:
            # A model that is in use is an open file, and keeps the mount as it is.
            _log.info("the models volume could not be reloaded: %s", error)

    async def _show_new_models(self) -> None:
        """Publish what this container has fetched to the others."""
        try:
            await self._models.commit.aio()
        except MODAL_FAILED as error:
            # What the job has made is not lost for it. Modal does the same at times by itself.
            _log.warning("the models volume was not committed: %s", error)


def fetch_models(config: ModalConfig, folder: Path) -> list[str]:
    """Fetch the models of `ModalConfig.models` that are missing. Blocking.

    Args:
        folder: ComfyUI's ``models``.

    Returns:
        All of them: their paths below ``folder``.

    Raises:
        ModelUnavailable: One cannot be had; says which, and why.
        LocalStorageError: The disk is full.
    """
    lines = parse_repo_list(config.models)
    if not lines:
        return []
    settings = replace(ModelSettings.from_environ(), folder=folder, download=True)
    library = ModelLibrary(settings, lambda: folder)
    logged = ""

    def say(words: str) -> None:
        nonlocal logged
        if words != logged:
            logged = words
            _log.info("%s", words)

    return asyncio.run(library.ensure(lines, say)).ensured


def _may_fetch_models(job: JsonValue) -> bool:
    if not isinstance(job, dict):
        return False
    if str(job.get("action")) in MODEL_ACTIONS or job.get("models"):
        return True
    try:
        return bool(parse_repo_list(_text_of(job.get("repo_list"))))
    except WorkflowInvalid:
        return False  # the handler says so


def _text_of(value: JsonValue) -> str:
    lines = value if isinstance(value, list) else [value]
    return "\n".join(line for line in lines if isinstance(line, str))
