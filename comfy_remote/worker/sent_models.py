"""Models with an address in the request: those that the engine lacks are fetched before it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..advice import Hint
from ..errors import ComfyRemoteError, ExecutionFailed, ModelUnavailable, WorkflowInvalid
from ..targets.comfyui.target import ComfyUITarget
from ..wire.repo_list import ModelLine
from ..wire.request import ModelSent
from ..workflow.models import FOLDERS
from .model_actions import models_listed
from .models.downloads import Say
from .models.folders import folder_of
from .models.library import ModelLibrary

__all__ = ["LackingModels", "fetch_lacking"]

_NO_SUCH_FOLDER = WorkflowInvalid(
    "The workflow wants them in a folder for models that this ComfyUI does not know.",
    advice=Hint.CHECK_MODELS_FOLDER(),
)


@dataclass(frozen=True, slots=True)
class LackingModels:
    """Models that the engine lacks, and why they were not fetched.

    Whether that matters, only the engine can say: a node may find its model in a way of its own.

    Attributes:
        models: By folder and name: ``checkpoints/a.safetensors``.
        reason: Why; its advice says what to do.
    """

    models: Sequence[str]
    reason: ComfyRemoteError

    def explain(self, error: ComfyRemoteError) -> ComfyRemoteError:
        """The engine's error; with the reason, if it is about one of these models.

        Mostly it refuses the prompt. Some versions do not look at a list that is empty, and the
        node that loads the model fails.
        """
        if not (isinstance(error, WorkflowInvalid) or type(error) is ExecutionFailed):
            return error
        said = f"{error.message} {json.dumps(error.details, ensure_ascii=False)}"
        lacking = [model for model in self.models if PurePosixPath(model).name in said]
        if not lacking:
            return error
        return type(error)(
            f"{error.message} Models that this worker lacks: {', '.join(lacking)}. "
            f"{self.reason.message}",
            advice=self.reason.advice,
            details={**error.details, "missing_models": [*lacking]},
        )


async def fetch_lacking(
    models: Sequence[ModelSent], target: ComfyUITarget, library: ModelLibrary, say: Say
) -> LackingModels:
    """Fetch the models that the engine does not list, if this worker may; what is still missing.

    Nothing is pruned.

    Args:
        target: The engine, which may know folders that the library does not.

    Raises:
        LocalStorageError: The disk is full, or cannot be written to.
    """
    # Only where it matters: a request a folder.
    found = await models_listed(target) if models else {}
    listed = {folder_of(folder): set(names) for folder, names in found.items()}
    lines = [
        ModelLine(0, folder_of(one.directory), one.url, one.name, one.sha256)
        for one in models
        if _posix(one.name) not in listed.get(folder_of(one.directory), ())
    ]
    strange = [line for line in lines if line.kind not in FOLDERS and line.kind not in listed]
    lines = [line for line in lines if line not in strange]
    try:
        if lines:
            answer = await library.ensure_for_run(lines, say)
            if not answer.ensured:
                return LackingModels(
                    _names([*lines, *strange]), ModelUnavailable(" ".join(answer.notes))
                )
    except (ModelUnavailable, WorkflowInvalid) as error:
        return LackingModels(_names([*lines, *strange]), error)
    return LackingModels(_names(strange), _NO_SUCH_FOLDER)


def _names(lines: Sequence[ModelLine]) -> list[str]:
    return [f"{line.kind}/{line.name}" for line in lines]


def _posix(name: str) -> str:
    return name.replace("\\", "/")
