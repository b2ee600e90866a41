"""Jobs about the models of a worker: ``ensure``, ``check``, ``prune``, ``models``, ``place``."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, JsonValue

from ..errors import ComfyRemoteError
from ..targets.comfyui.target import ComfyUITarget
from ..wire.models import ModelsAnswer, ModelsRequest, PlaceAnswer, PlaceRequest
from ..wire.repo_list import parse_repo_list
from .engine import Engine
from .models.library import ModelLibrary
from .progress import ProgressReporter, Report
from .settings import WorkerSettings
from .storage import InputStore

__all__ = ["act_on_models", "models_listed", "models_of", "place_model"]


def models_of(engine: Engine, settings: WorkerSettings) -> ModelLibrary:
    """The models of a worker and its engine."""
    name = settings.worker or platform.node() or "another worker"
    return ModelLibrary(settings.models, lambda: engine.models_folder, worker=name)


async def models_listed(target: ComfyUITarget) -> dict[str, list[str]]:
    """The models that the engine lists, by folder."""
    try:
        return await target.models()
    except ComfyRemoteError:
        return {}  # a ComfyUI from before 2024 has no such route


async def act_on_models(
    library: ModelLibrary,
    payload: JsonValue,
    report: Report,
    listed: Callable[[], Awaitable[dict[str, list[str]]]],
) -> dict[str, JsonValue]:
    """Do what a job about models asks for; one of the answers in `wire.models`, as JSON.

    Args:
        listed: Asks the engine for the names of its models, by folder: all that is known of them
            where the worker knows no folder for models (an engine at a URL).

    Raises:
        WorkflowInvalid: The request, or a line of its list, cannot be read. Nothing was done.
        ModelUnavailable: A model cannot be had.
        LocalStorageError: The disk is full, or cannot be written to.
        ConfigurationError: This worker has no folder for models.
    """
    request = ModelsRequest.parse(payload)
    lines = parse_repo_list(request.repo_list)
    answer: BaseModel
    async with ProgressReporter(report) as reporter:
        say = reporter.say
        match request.action:
            case "ensure":
                answer = await library.ensure(
                    lines, say, prune_others=request.prune, name=request.list_name
                )
            case "check":
                answer = await library.check(
                    lines, prune_others=request.prune, name=request.list_name
                )
            case "prune":
                answer = await library.prune(
                    lines, say, everything=request.everything, name=request.list_name
                )
            case "models" if library.has_folder:
                answer = await library.models()
            case "models":
                answer = ModelsAnswer.of_names(await listed())
    return answer.model_dump(mode="json")


async def place_model(
    library: ModelLibrary,
    store: InputStore | None,
    job_id: str,
    payload: JsonValue,
    report: Report,
) -> PlaceAnswer:
    """Do what a `PlaceRequest` asks for.

    Args:
        store: Has the model's parts; ``None`` where clients can put none anywhere.

    Raises:
        WorkflowInvalid: The request is not valid. Nothing was done.
        ModelUnavailable: It cannot be had, or may not: says why.
        LocalStorageError: The disk is full, or cannot be written to.
    """
    request = PlaceRequest.parse(payload)

    async def fetch(sha256: str, path: Path) -> bool:
        return store is not None and await store.fetch(job_id, sha256, path)

    async with ProgressReporter(report) as reporter:
        return await library.place(request, fetch, reporter.say)
