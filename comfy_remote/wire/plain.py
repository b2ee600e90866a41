"""``plain``: the answers of a worker that returns pictures as a list of base64 texts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..errors import ComfyRemoteError, ConfigurationError, JobTimedOut, WorkflowInvalid

__all__ = ["PlainAnswer", "PlainError", "plain_error_type"]

PlainErrorType = Literal["validation", "timeout", "internal"]


class PlainAnswer(BaseModel):
    """A result.

    Attributes:
        images: The files' bytes, base64, in the order of the prompt's nodes.
        filenames: Their names, in the same order.
        execution_time_seconds: From the job's arrival to its end.
        prompt_id: ComfyUI's id of the run.
    """

    model_config = ConfigDict(extra="ignore")

    status: Literal["success"] = "success"
    images: list[str]
    filenames: list[str]
    execution_time_seconds: float
    prompt_id: str


class PlainError(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="ignore")

    status: Literal["error"] = "error"
    error_type: PlainErrorType
    error: str
    execution_time_seconds: float


def plain_error_type(error: ComfyRemoteError) -> PlainErrorType:
    """Which of the three kinds an error is."""
    if isinstance(error, JobTimedOut):
        return "timeout"
    return "validation" if isinstance(error, WorkflowInvalid | ConfigurationError) else "internal"
