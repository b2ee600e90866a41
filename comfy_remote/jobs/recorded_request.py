"""What the record has of a job's request besides its prompt, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

from ..targets.base import InputFile, RunRequest
from ..types import JsonValue
from ..workflow.models import ModelSource
from ..workflow.prompt import Prompt

__all__ = ["request_from_json", "request_to_json"]


def request_to_json(request: RunRequest, *, whole: bool) -> str | None:
    """A request besides its prompt: its files by path and hash, and its models.

    Args:
        whole: Enough to send this very job again: the workflow in UI format as well, which may be
            large, and which files were named by their SHA-256. Otherwise, enough to run the prompt
            once more; ``None`` if the prompt alone is.
    """
    files: list[JsonValue] = [{**asdict(file), "path": str(file.path)} for file in request.files]
    models: list[JsonValue] = [asdict(model) for model in request.models]
    said: dict[str, JsonValue] = {
        "files": files,
        "repo_list": request.repo_list or "",
        "models": models,
        "retry_lost": request.retry_lost,
    }
    if whole:
        said |= {
            "workflow": None if request.workflow is None else dict(request.workflow),
            "front": request.front,
            "known_inputs": [*sorted(request.known_inputs)],
        }
    elif not (files or models or request.repo_list or not request.retry_lost):
        return None
    return json.dumps(said)


def request_from_json(job_id: str, prompt: Prompt, text: str) -> RunRequest | None:
    """The inverse; ``None`` if something else has changed the row."""
    try:
        said = json.loads(text)
        return RunRequest(
            job_id,
            prompt,
            [_file_from_json(file) for file in said["files"]],
            cast("dict[str, JsonValue] | None", said.get("workflow")),
            front=bool(said.get("front")),
            repo_list=str(said["repo_list"]),
            models=[ModelSource(**model) for model in said["models"]],
            known_inputs=frozenset(said.get("known_inputs", [])),
            retry_lost=said.get("retry_lost") is not False,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _file_from_json(file: dict[str, JsonValue]) -> InputFile:
    # Requests of version 0.1 have no places.
    places = cast("list[tuple[str, str]]", file.get("places", []))
    return InputFile(
        name=str(file["name"]),
        path=Path(str(file["path"])),
        size=int(str(file["size"])),
        sha256=str(file["sha256"]),
        places=tuple((node_id, key) for node_id, key in places),
    )
