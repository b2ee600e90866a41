"""RunPod's serverless endpoints, as its REST API lists them, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/serverless`` in RunPod's OpenAPI document.
"""

from __future__ import annotations

from pydantic import BaseModel

from ..units import counted

__all__ = ["RestEndpoint", "RestEndpointList"]


class _Gpu(BaseModel):
    pools: list[str] = []
    count: int = 1


class _Workers(BaseModel):
    min: int = 0
    max: int = 0


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
    workers: _Workers | None = None

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
