"""RunPod's GPUs and what it charges for them, as its REST API says it, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/catalog/gpus`` in RunPod's OpenAPI document
(REST API v2): list prices in US dollars an hour for a single GPU, without an account's discounts.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["HIGHEST_PRICE", "GpuCenter", "RestGpu", "RestGpuList"]

HIGHEST_PRICE = 1000.0
"""US dollars an hour: nothing costs more."""


def _price(value: object) -> float | None:
    """A price; ``None`` for what can be none, as a placeholder of 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and 0 < value <= HIGHEST_PRICE else None


class _Prices(BaseModel):
    """Of one GPU.

    Attributes:
        serverless: The rate of the GPU's pool; ``None`` if it is in none that the account may use.
    """

    serverless: Annotated[float | None, BeforeValidator(_price)] = None


class GpuCenter(BaseModel):
    """A data centre that has a GPU type, and how many of it are free, as in `RestGpu`."""

    id: str
    availability: str = ""


class RestGpu(BaseModel):
    """A GPU type.

    Attributes:
        id: As endpoints exclude it: ``NVIDIA GeForce RTX 4090``.
        name: As people call it: ``RTX 4090``.
        pool: As endpoints choose it: ``ADA_24``; ``None`` if it is not for serverless workers.
        memory: GB.
        availability: How many are free now: ``NONE``, ``LOW``, ``MEDIUM``, ``HIGH``; ``None`` if
            that was not asked.
        centers: Where it is offered now, if that was asked.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: str
    name: str = ""
    pool: str | None = None
    memory: int = 0
    price: _Prices = _Prices()
    availability: str | None = None
    centers: list[GpuCenter] | None = Field(default=None, validation_alias="dataCenters")


class RestGpuList(BaseModel):
    """The answer to ``GET /v2/catalog/gpus``."""

    gpus: list[RestGpu]
