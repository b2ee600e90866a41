"""RunPod's pods, as its REST API and ``runpodctl`` list them, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/pods`` in RunPod's OpenAPI document (REST API v2),
and ``podListOutput`` in ``cmd/pod/list.go`` of runpod/runpodctl (2.1).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = ["CtlPod", "PodPort", "RestPod", "RestPodList", "ctl_pods"]


class _Model(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


class PodPort(_Model):
    """A port that is open to the internet, without RunPod's proxy."""

    private: int | None = None
    public: int | None = None
    ip: str | None = None


class _Gpu(_Model):
    id: str = ""
    count: int = 1


class _Runtime(_Model):
    ports: list[PodPort] = []


class RestPod(_Model):
    """One pod of ``GET /v2/pods``.

    Attributes:
        status: ``PROVISIONING``, ``STARTING``, ``RUNNING``, ``EXITED``, ``ERROR``, ``TERMINATED``.
        ports: What the container exposes: ``8188/http`` goes through the proxy, ``22/tcp`` not.
        cost: US dollars an hour; 0 while it is stopped.
    """

    id: str
    name: str = ""
    status: str = ""
    ports: list[str] | None = None
    gpu: _Gpu | None = None
    cost: float | None = None
    runtime: _Runtime | None = None


class RestPodList(_Model):
    """The answer to ``GET /v2/pods``."""

    pods: list[RestPod]


class CtlPod(_Model):
    """One pod of ``runpodctl pod list``; it says nothing of ports."""

    id: str
    name: str = ""
    desired_status: str = Field("", alias="desiredStatus")
    gpu_id: str = Field("", alias="gpuId")
    gpu_count: int = Field(1, alias="gpuCount")
    cost_per_hr: float | None = Field(None, alias="costPerHr")


ctl_pods: TypeAdapter[list[CtlPod] | None] = TypeAdapter(list[CtlPod] | None)
"""What ``runpodctl pod list`` prints; Go writes an empty list as ``null`` now and then."""
