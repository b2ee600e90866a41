"""Jobs about models: ``action`` ``ensure``, ``check``, ``prune`` or ``models``."""

from __future__ import annotations

import platform

from pydantic import BaseModel, JsonValue

from ..events import Progress
from ..wire.models import ModelsRequest
from ..wire.repo_list import parse_repo_list
from .engine import Engine
from .models.fetching import Say
from .models.library import ModelLibrary
from .progress import ProgressReporter, Report
from .settings import WorkerSettings

__all__ = ["act_on_models", "models_of", "say_to"]


def models_of(engine: Engine, settings: WorkerSettings) -> ModelLibrary:
    """The models of a worker and its engine."""
    name = settings.worker or platform.node() or "another worker"
    return ModelLibrary(settings.models, lambda: engine.models_folder, worker=name)


async def act_on_models(
    library: ModelLibrary, payload: JsonValue, report: Report
) -> dict[str, JsonValue]:
    """Do what a job about models asks for.

    Returns:
        One of the answers in `wire.models`, as JSON.

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
        say = say_to(reporter)
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
            case "models":
                answer = await library.models()
    return answer.model_dump(mode="json")


def say_to(reporter: ProgressReporter) -> Say:
    """What is said, as the message of a progress snapshot."""
    return lambda words: reporter.progress(Progress(message=words))
