"""RunPod's pods, as its REST API and ``runpodctl`` list them, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/pods`` in RunPod's OpenAPI document (REST API v2),
and ``podListOutput`` in ``cmd/pod/list.go`` of runpod/runpodctl (2.1); for version 1, its
``cmd/pod/getPod.go`` and ``format/table.go``.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = ["CtlPod", "PodPort", "RestPod", "RestPodList", "ctl_pods", "pods_in_table"]


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
        started: When, in RFC 3339: ``2026-03-13T20:00:00Z``.
    """

    id: str
    name: str = ""
    status: str = ""
    ports: list[str] | None = None
    gpu: _Gpu | None = None
    cost: float | None = None
    started: str | None = Field(None, alias="startedAt")
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

_COUNTED_GPU = re.compile(r"(?P<count>\d+) (?P<name>\S.*)")


def pods_in_table(text: str) -> list[CtlPod]:
    """What ``runpodctl get pod`` prints: a table, the only form that version 1 has.

    Its columns are ID, NAME, GPU (``1 RTX 4090``), IMAGE NAME and STATUS.

    Raises:
        ValueError: It is no such table.
    """
    header, *rows = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    between = re.compile(r"\s*\t\s*" if "\t" in header else r"\s{2,}")
    columns = [column.upper() for column in between.split(header)]
    if not {"ID", "STATUS"} <= set(columns):
        raise ValueError("there is no table of pods")
    found = []
    for row in rows:
        cells = dict(zip(columns, between.split(row), strict=False))
        if not cells.get("ID"):
            raise ValueError("a row has no id")
        gpu = _COUNTED_GPU.fullmatch(cells.get("GPU", ""))
        found.append(
            CtlPod(
                id=cells["ID"],
                name=cells.get("NAME", ""),
                desiredStatus=cells.get("STATUS", ""),
                gpuId=gpu["name"] if gpu else "",
                gpuCount=int(gpu["count"]) if gpu else 1,
                costPerHr=None,
            )
        )
    return found
