"""RunPod's serverless endpoints, as its REST API lists them, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/serverless``, and ``GET`` and ``PATCH`` of
``/v2/serverless/ID`` in RunPod's OpenAPI document: only the fields that are sent are changed.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ..units import counted

__all__ = ["RestEndpoint", "RestEndpointList", "RestWorkers"]


class _Gpu(BaseModel):
    """The GPUs of an endpoint's workers.

    Attributes:
        pools: A worker gets a GPU of any of them.
        excluded: GPU types of these pools that it does not get.
        count: GPUs a worker.
    """

    model_config = ConfigDict(populate_by_name=True)

    pools: list[str] = []
    excluded: list[str] = Field(default=[], alias="excludedTypes")
    count: int = 1


class RestWorkers(BaseModel):
    """How many workers an endpoint has, and how long idle ones wait (1 to 3600 seconds).

    Those of its fields that we do not know stay, since it is sent back as a whole.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    min: int = 0
    max: int = 0
    idle_timeout: int | None = Field(default=None, alias="idleTimeout")


class RestEndpoint(BaseModel):
    """One endpoint.

    Attributes:
        type: ``QUEUE``, or ``LOAD_BALANCER``, which has no queue.
        image: What its workers run.
        gpu: ``None`` for one without GPUs.
    """

    id: str
    name: str = ""
    type: str = ""
    image: str = ""
    gpu: _Gpu | None = None
    workers: RestWorkers | None = None

    def __str__(self) -> str:
        """For people: ``4m7x2k9q (image-generator, ADA_24, at most 5 workers)``."""
        facts = [self.name] if self.name else []
        if self.gpu is not None and self.gpu.pools:
            facts.append(" or ".join(self.gpu.pools))
        if self.workers is not None:
            facts.append(f"at most {counted(self.workers.max, 'worker')}")
        return f"{self.id} ({', '.join(facts)})" if facts else self.id


class RestEndpointList(BaseModel):
    """The answer to ``GET /v2/serverless``."""

    endpoints: list[RestEndpoint]
