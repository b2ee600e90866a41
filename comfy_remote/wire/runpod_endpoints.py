"""RunPod's serverless endpoints, as its REST API lists, makes and changes them, as far as we look.

Source of facts: ``GET`` and ``POST https://api.runpod.io/v2/serverless``, and ``GET`` and ``PATCH``
of ``/v2/serverless/ID`` in RunPod's OpenAPI document (REST API v2): only the fields that are sent
are changed. Answers may have more than these models know; requests have nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..types import JsonValue
from ..units import counted

__all__ = [
    "LONGEST_IDLE",
    "EndpointRequest",
    "GpuRequest",
    "RestEndpoint",
    "RestEndpointList",
    "RestGpuChoice",
    "RestScaling",
    "RestWorkers",
    "ScalingRequest",
    "WorkersRequest",
]

LONGEST_IDLE = 3600
"""Seconds that an idle worker may wait for a job, at most; at least 1."""

_Names = Annotated[list[str], BeforeValidator(lambda value: [] if value is None else value)]
"""Also for ``null``: one odd endpoint of an account must not hide all others."""

ScalingType = Literal["QUEUE_DELAY", "REQUEST_COUNT"]
FlashBoot = Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]


class RestGpuChoice(BaseModel):
    """The GPUs of an endpoint's workers.

    Attributes:
        pools: A worker gets a GPU of any of them.
        excluded: GPU types of these pools that it does not get.
        count: GPUs a worker.
        cuda: CUDA versions of hosts, as ``13.0``; any if empty.
        least_cuda: The lowest CUDA version of a host.
    """

    model_config = ConfigDict(populate_by_name=True)

    pools: _Names = []
    excluded: _Names = Field(default=[], validation_alias="excludedTypes")
    count: int = 1
    cuda: _Names = Field(default=[], validation_alias="allowedCudaVersions")
    least_cuda: str | None = Field(default=None, validation_alias="minCudaVersion")


class RestScaling(BaseModel):
    """When workers are added.

    Attributes:
        type: ``QUEUE_DELAY``: when jobs have waited so many seconds. ``REQUEST_COUNT``: one for
            each so many jobs that wait or run.
    """

    model_config = ConfigDict(populate_by_name=True)

    type: str = ""
    delay: float | None = Field(default=None, validation_alias="queueDelay")
    count: int | None = Field(default=None, validation_alias="requestCount")

    def __str__(self) -> str:
        """For people."""
        if self.type == "REQUEST_COUNT" and self.count is not None:
            return f"a worker for each {counted(self.count, 'job')} that waits or runs"
        if self.type == "QUEUE_DELAY" and self.delay is not None:
            return f"another worker when jobs wait {self.delay:g} s"
        return self.type


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
        registry: The id of the account's login for that image's registry, if it has one.
        env: Of its workers' containers, with plain values as they are.
        disk: GB of a worker's container.
        gpu: ``None`` for one without GPUs.
        centers: Data centres of its workers; any if empty.
        volumes: Ids of network volumes.
        timeout: Milliseconds that a job may run.
        flashboot: ``OFF``, ``FLASHBOOT``, ``PRIORITY_FLASHBOOT``.
        created: When, in RFC 3339.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: str
    name: str = ""
    type: str = ""
    image: str = ""
    registry: str | None = None
    env: dict[str, str] | None = None
    disk: int | None = None
    gpu: RestGpuChoice | None = None
    workers: RestWorkers | None = None
    scaling: RestScaling | None = None
    centers: list[str] | None = Field(default=None, validation_alias="dataCenterIds")
    volumes: list[str] | None = Field(default=None, validation_alias="networkVolumes")
    timeout: int | None = None
    flashboot: str | None = None
    created: Annotated[str, BeforeValidator(lambda value: value or "")] = Field(
        default="", validation_alias="createdAt"
    )

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


class _Request(BaseModel):
    """Nothing is sent that is not set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def body(self) -> JsonValue:
        """As it is sent."""
        sent: JsonValue = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return sent


class GpuRequest(_Request):
    """Which GPUs workers get. ``excludedTypes`` replaces those there, so it comes with ``pools``.

    Attributes:
        cuda: ``[]`` for no list of versions, which a ``least_cuda`` cannot stand beside.
    """

    pools: tuple[str, ...] = Field(min_length=1)
    excluded: tuple[str, ...] | None = Field(default=None, serialization_alias="excludedTypes")
    count: int | None = Field(default=None, ge=1)
    cuda: tuple[str, ...] | None = Field(default=None, serialization_alias="allowedCudaVersions")
    least_cuda: str | None = Field(
        default=None, serialization_alias="minCudaVersion", pattern=r"^\d+\.\d+$"
    )


class WorkersRequest(_Request):
    """How many workers; ``idle_timeout`` is refused with ``REQUEST_COUNT``."""

    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)
    idle_timeout: int | None = Field(
        default=None, serialization_alias="idleTimeout", ge=1, le=LONGEST_IDLE
    )


class ScalingRequest(_Request):
    """When workers are added: see `RestScaling`."""

    type: ScalingType
    delay: float | None = Field(default=None, serialization_alias="queueDelay", ge=0.5)
    count: int | None = Field(default=None, serialization_alias="requestCount", ge=1)


class EndpointRequest(_Request):
    """What an endpoint is to be: to make one, with at least ``name``, ``type``, ``scaling``,
    ``image`` and ``gpu``; or what is to be changed of one.

    Attributes:
        registry: The id of one of the account's logins for image registries.
        env: Replaces what is there.
        volumes: Ids; replaces what is there.
        timeout: Milliseconds.
    """

    name: str | None = Field(default=None, min_length=1)
    type: Literal["QUEUE"] | None = None
    image: str | None = None
    registry: str | None = None
    disk: int | None = Field(default=None, ge=1)
    env: dict[str, str] | None = None
    gpu: GpuRequest | None = None
    workers: WorkersRequest | None = None
    scaling: ScalingRequest | None = None
    centers: tuple[str, ...] | None = Field(default=None, serialization_alias="dataCenterIds")
    volumes: tuple[str, ...] | None = Field(default=None, serialization_alias="networkVolumes")
    timeout: int | None = None
    flashboot: FlashBoot | None = None
