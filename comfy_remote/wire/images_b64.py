"""``images-b64``: the answer that ComfyUI's page passes on to ``POST /remote/save``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ImageB64", "ImagesB64Answer"]


class ImageB64(BaseModel):
    """One file: its bytes in base64, and its name where the worker says it."""

    model_config = ConfigDict(extra="ignore")

    b64: str
    name: str | None = None


class ImagesB64Answer(BaseModel):
    """A result, in the order of the prompt's nodes."""

    model_config = ConfigDict(extra="ignore")

    images: list[ImageB64]
