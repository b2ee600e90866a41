"""``plain`` and ``images-b64``: answers with the files in base64."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from ..errors import ComfyRemoteError, ConfigurationError, JobTimedOut, WorkflowInvalid

__all__ = [
    "FailedOutput",
    "ImageB64",
    "ImagesB64Answer",
    "PlainAnswer",
    "PlainError",
    "plain_error_type",
]

PlainErrorType = Literal["validation", "timeout", "internal"]


class PlainAnswer(BaseModel):
    """A result in ``plain``.

    Attributes:
        images: The files' bytes, base64, in the order of the prompt's nodes.
        filenames: Their names, in the same order.
        execution_time_seconds: From the job's arrival to its end.
        prompt_id: ComfyUI's id of the run.
        warnings: What went wrong without failing the job; ``None`` if nothing did.
    """

    status: Literal["success"] = "success"
    images: list[str]
    filenames: list[str]
    execution_time_seconds: float
    prompt_id: str
    warnings: list[str] | None = None


class FailedOutput(BaseModel):
    """The ``output`` of a job that failed: all that ``run_sync()`` of RunPod's Python SDK gives.

    Attributes:
        error_message: What happened and what to do. RunPod shows it under the job's ``error``,
            which that SDK leaves out.
    """

    status: Literal["error"] = "error"
    error_type: PlainErrorType
    error_message: str

    @classmethod
    def of(cls, error: ComfyRemoteError) -> FailedOutput:
        """What is said of an error."""
        return cls(error_type=plain_error_type(error), error_message=str(error))


class PlainError(FailedOutput):
    """An error in ``plain``."""

    error: str
    execution_time_seconds: float


def plain_error_type(error: ComfyRemoteError) -> PlainErrorType:
    """The kind of an error."""
    if isinstance(error, JobTimedOut):
        return "timeout"
    return "validation" if isinstance(error, WorkflowInvalid | ConfigurationError) else "internal"


class ImageB64(BaseModel):
    """One file: its bytes in base64, and its name if the worker gives it."""

    b64: str
    name: str | None = None


class ImagesB64Answer(BaseModel):
    """A result in ``images-b64``, which ComfyUI's page passes on to ``POST /remote/save``.

    Attributes:
        warnings: What went wrong without failing the job; ``None`` if nothing did.
    """

    images: list[ImageB64]
    warnings: list[str] | None = None
