"""The body of ``/run`` for a job that runs a workflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from pydantic import JsonValue, ValidationError

from ...wire.request import COMFY_REMOTE_1, ModelSent
from ...workflow.models import ModelSource
from ..base import RunRequest
from .inputs import StoredInput, inputs_in_request

__all__ = ["request_body"]

_log = logging.getLogger(__name__)


def request_body(
    request: RunRequest,
    stored: Mapping[str, StoredInput],
    policy: Mapping[str, int | bool],
) -> bytes:
    """The JSON body of ``/run``. Blocking: it reads the files."""
    job: dict[str, JsonValue] = {
        "workflow": cast("JsonValue", request.prompt),  # a TypedDict is a dict
        "format": COMFY_REMOTE_1,
        "previews": True,
    }
    job.update(inputs_in_request(request.files, stored, request.known_inputs))
    if request.workflow is not None:
        job["ui_workflow"] = dict(request.workflow)
    if request.repo_list:
        job["repo_list"] = request.repo_list
    if models := list(_models_sent(request.models)):
        job["models"] = models
    return json.dumps({"input": job, **({"policy": policy} if policy else {})}).encode()


def _models_sent(models: Iterable[ModelSource]) -> Iterator[JsonValue]:
    """What a worker accepts of what a workflow says; anybody may have written anything there."""
    for model in models:
        try:
            sent = ModelSent(
                name=model.name,
                url=model.url,
                directory=model.folder,
                hash=model.hash,
                hash_type=model.hash_type,
            )
        except ValidationError:
            _log.info("where the workflow says that a model can be had is not sent: %r", model.name)
        else:
            yield sent.model_dump(mode="json", exclude_none=True)
