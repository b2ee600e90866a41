"""RunPod's serverless endpoint API, as far as a client uses it (docs.runpod.io/serverless)."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    JobTimedOut,
    OutOfMemory,
    WorkflowInvalid,
    error_from_json,
)
from ..json_text import parse_json
from .plain import FailedOutput
from .worker_comfyui import node_in

__all__ = [
    "FILES_HEADER",
    "IDEMPOTENCY_HEADER",
    "RUNSYNC_BODY_LIMIT",
    "RUN_BODY_LIMIT",
    "STORE_LARGE_OUTPUTS",
    "EndpointHealth",
    "JobStatus",
    "RunPodState",
    "check_endpoint_id",
    "error_from_runpod",
    "error_to_runpod",
    "failure_to_runpod",
]

RUN_RESULT_LIMIT = 10_000_000
"""Bytes of JSON that RunPod accepts as the result of a job of ``/run``."""
RUN_BODY_LIMIT = 10 * 1024 * 1024
"""Bytes that ``/run`` accepts."""

RUNSYNC_BODY_LIMIT = 20 * 1024 * 1024
"""Bytes that ``/runsync`` accepts."""

STORE_LARGE_OUTPUTS = (
    "Give the worker a bucket (BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY "
    "in its environment), or save fewer or smaller files (JPEG or WebP, a smaller size or batch)."
)
"""What to do about a result that is too large; the public worker-comfyui has the same variables."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""Our gateway answers a second ``/run`` with the same key by the first one's job, and shows that
by this header (value ``supported``) on ``/health``. RunPod does neither."""

FILES_HEADER = "X-Comfy-Remote-Files"
"""Our gateway shows by this header on ``/health`` that it takes input files by themselves
(``HEAD`` and ``PUT files/SHA256``), and how many bytes one may have. It also means that the
gateway reads our keys of ``policy``."""


_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_endpoint_id(endpoint: str) -> None:
    """Refuse (`ConfigurationError`) what cannot be the id of a gateway's endpoint."""
    if not _ENDPOINT_ID.fullmatch(endpoint):
        raise ConfigurationError(
            f"{endpoint!r} cannot be the id of an endpoint.",
            advice="Use 1 to 64 letters, digits, - and _.",
        )


class RunPodState(str, Enum):
    """The states a RunPod job goes through."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (RunPodState.IN_QUEUE, RunPodState.IN_PROGRESS)


class JobStatus(BaseModel):
    """What ``/run``, ``/runsync``, ``/status`` and ``/cancel`` answer.

    Attributes:
        delay_time: Milliseconds in the queue.
        execution_time: Milliseconds on a worker.
        attempt: Which start of the job it is, on a gateway of ours, if not the first.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: str
    status: RunPodState
    output: JsonValue = None
    error: JsonValue = None
    delay_time: float | None = Field(default=None, alias="delayTime", allow_inf_nan=False)
    execution_time: float | None = Field(default=None, alias="executionTime", allow_inf_nan=False)
    worker_id: str | None = Field(default=None, alias="workerId")
    attempt: int = 1


class _JobCounts(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    completed: int = 0
    failed: int = 0
    in_progress: int = Field(default=0, alias="inProgress")
    in_queue: int = Field(default=0, alias="inQueue")
    retried: int = 0


class _WorkerCounts(BaseModel):
    """Workers by their state; ``throttled`` ones wait for a GPU that is free."""

    idle: int = 0
    running: int = 0
    initializing: int = 0
    throttled: int = 0


class EndpointHealth(BaseModel):
    """What ``/health`` answers.

    Attributes:
        idle_timeout: Seconds that an idle worker waits for a job, at the front of an app on Modal.
        hardware: What its containers have, at the front of an app on Modal: `wire.modal.Hardware`.
    """

    model_config = ConfigDict(populate_by_name=True)

    jobs: _JobCounts = Field(default_factory=_JobCounts)
    workers: _WorkerCounts = Field(default_factory=_WorkerCounts)
    idle_timeout: float | None = Field(default=None, alias="idleTimeout", allow_inf_nan=False)
    hardware: JsonValue = None


def error_to_runpod(error: ComfyRemoteError) -> str:
    """The error as RunPod carries it: a JSON string with RunPod's own three keys and ours."""
    return json.dumps(
        {
            "error_type": error.code,
            "error_message": str(error),
            "error_traceback": str(error.details.get("traceback", "")),
            "comfy_remote": error.to_json(),
        }
    )


def failure_to_runpod(error: ComfyRemoteError) -> dict[str, JsonValue]:
    """``error`` and ``output`` of a job that failed with nothing to show for it."""
    return {
        "output": FailedOutput.of(error).model_dump(mode="json"),
        "error": error_to_runpod(error),
    }


def error_from_runpod(error: JsonValue, output: JsonValue = None) -> ComfyRemoteError:
    """The error behind a failed job's ``error``.

    It may be our own (see `error_to_runpod`), the RunPod SDK's JSON string with
    ``error_type``, ``error_message`` and ``error_traceback``, or plain words.

    Args:
        output: The failed job's ``output``. worker-comfyui's ``error`` is often only "Job
            processing failed"; ``details`` in its output says why. A ``plain`` worker's output
            has the ``error_type``.
    """
    data: Any = error
    if isinstance(data, str):
        try:
            data = parse_json(data)
        except ValueError:
            data = None
    if not isinstance(data, dict):
        said = error if isinstance(error, str) and error.strip() else "no reason was given"
        words = "\n  ".join([said, *_details(output)])
        kind = output.get("error_type") if isinstance(output, dict) else None
        if kind == "validation":
            return WorkflowInvalid(f"The worker refused the job: {words}")
        if kind == "timeout":
            return JobTimedOut(f"The worker gave up on the job: {words}")
        return _failure(words)
    if isinstance(ours := data.get("comfy_remote"), dict):
        return error_from_json(ours)
    message = data.get("error_message") or data.get("message") or json.dumps(data)
    return _failure(
        str(message),
        exception_type=str(data.get("error_type", "")),
        traceback=str(data.get("error_traceback", "")),
    )


def _failure(words: str, **details: JsonValue) -> ExecutionFailed:
    message = f"The worker failed the job: {words}"
    details.update(node_in(words))
    # What torch says on CUDA and elsewhere; another worker passes on no exception's class.
    if "out of memory" in words.lower() or "Allocation on device" in words:
        advice = "Use a smaller size or batch, a smaller (quantised) model, or a larger GPU."
        return OutOfMemory(message, advice=advice, details=details)
    return ExecutionFailed(message, details=details)


def _details(output: JsonValue) -> list[str]:
    lines = output.get("details") if isinstance(output, dict) else None
    return [str(line) for line in lines] if isinstance(lines, list) else []
