"""The body of ``/run`` for a job that runs a workflow: its input files in it, or by a bucket."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

from pydantic import JsonValue, ValidationError

from ...media.files import safe_relative_path
from ...net.bucket import Bucket
from ...wire.request import COMFY_REMOTE_1, ModelSent
from ...workflow.models import ModelSource
from ..base import InputFile, RunRequest, input_errors
from ..upload_progress import UploadProgress

__all__ = ["StoredInput", "request_body", "store_input", "too_many_bytes"]

_log = logging.getLogger(__name__)

# A job may wait in the queue for a day; the worker deletes what it has fetched.
_VALID_SECONDS = 24 * 3600
# What two signed addresses take in the request, about.
_ADDRESSES = 2500


def request_body(
    request: RunRequest,
    stored: Mapping[str, StoredInput],
    policy: Mapping[str, JsonValue],
    there: Collection[str] = (),
) -> bytes:
    """The JSON body of ``/run``. Blocking: it reads the files.

    Args:
        there: SHA-256 of the files that the endpoint has; so it has the request's `known_inputs`.
    """
    job: dict[str, JsonValue] = {
        "workflow": cast("JsonValue", request.prompt),  # a TypedDict is a dict
        "format": COMFY_REMOTE_1,
        "previews": True,
    }
    by_hash = {*there, *request.known_inputs}
    job.update(_inputs_in_request(request.files, stored, by_hash))
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


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A file in the bucket, and the addresses that a worker may use once."""

    key: str
    url: str
    delete_url: str


async def store_input(
    bucket: Bucket, job_id: str, file: InputFile, progress: UploadProgress
) -> StoredInput:
    """Upload a file for one job."""
    key = f"inputs/{quote(job_id, safe='')}/{file.sha256[:12]}/{safe_relative_path(file.name).name}"
    await bucket.put(file.path, key, lambda sent: progress.note(file, sent))
    return StoredInput(
        key,
        await bucket.sign("GET", key, _VALID_SECONDS),
        await bucket.sign("DELETE", key, _VALID_SECONDS),
    )


def _inputs_in_request(
    files: Sequence[InputFile], stored: Mapping[str, StoredInput], known: Collection[str] = ()
) -> dict[str, JsonValue]:
    """The request's ``images`` and ``files``. Blocking: it reads what is not stored.

    Args:
        known: SHA-256 of those that the endpoint has: only that is sent of them.
    """
    inline: list[JsonValue] = [
        # As worker-comfyui's clients send them: that worker takes them, too.
        {"name": file.name, "image": _encoded(file), "sha256": file.sha256}
        for file in files
        if file.name not in stored and file.sha256 not in known
    ]
    elsewhere: list[JsonValue] = [
        {
            "name": file.name,
            "url": stored[file.name].url,
            "sha256": file.sha256,
            "delete_url": stored[file.name].delete_url,
        }
        for file in files
        if file.name in stored
    ]
    elsewhere += [
        {"name": file.name, "sha256": file.sha256} for file in files if file.sha256 in known
    ]
    return {**({"images": inline} if inline else {}), **({"files": elsewhere} if elsewhere else {})}


def too_many_bytes(files: Sequence[InputFile], excess: int) -> list[InputFile]:
    """The largest of the files, as many as it takes to save so many bytes of the request."""
    chosen = []
    for file in sorted(files, key=lambda one: one.size, reverse=True):
        if excess <= 0:
            break
        chosen.append(file)
        excess -= (file.size + 2) // 3 * 4 - _ADDRESSES
    return chosen


def _encoded(file: InputFile) -> str:
    with input_errors(file.path):
        return base64.b64encode(file.path.read_bytes()).decode("ascii")
