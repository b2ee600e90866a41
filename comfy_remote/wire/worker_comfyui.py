"""``worker-comfyui``: the answers of the public RunPod worker (its README, 5.0 and later)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["WorkerComfyUIAnswer", "WorkerComfyUIImage"]


class WorkerComfyUIImage(BaseModel):
    """One file: its bytes in base64, or the address of an object in a bucket."""

    model_config = ConfigDict(extra="ignore")

    filename: str
    type: Literal["base64", "s3_url"]
    data: str


class WorkerComfyUIAnswer(BaseModel):
    """A result. Only saved images and videos: it has no place for previews, audio or text.

    Attributes:
        images: In the order of the prompt's nodes.
        errors: What went wrong without failing the job.
        status: ``success_no_images`` when there are none; absent otherwise.
    """

    model_config = ConfigDict(extra="ignore")

    images: list[WorkerComfyUIImage] = []
    errors: list[str] | None = None
    status: Literal["success_no_images"] | None = None
