"""An endpoint as somebody fills it in in the page, and what is filled in to begin with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..config.own_file import name_from
from ..deploy.memory import SMALL, GpuMemory, memory_for, memory_for_models
from ..deploy.runpod.gpus import gpus_by_memory
from ..deploy.runpod.listed import S3_CENTERS
from ..deploy.runpod.mark import checked_name
from ..deploy.runpod.there import There
from ..deploy.runpod.wanted import IMAGE, PROFILES, Use, Wanted, volume_wanted
from ..errors import ComfyRemoteError
from ..ready.local import find_local
from ..ready.there import local_files
from ..wire.runpod_endpoints import LONGEST_IDLE
from ..wire.runpod_prices import RestGpu
from ..workflow.load import parse_workflow
from ..workflow.models import model_uses
from ..workflow.repo_list import without_repo_list
from ..workflow.schema import Schemas

__all__ = ["DeployForm", "Suggested", "choices"]

_MOST_GB = 1024
_USUAL_SIZE, _SIZES = 50, 10
"""GB of a new volume where no model's size is known, and what others are a multiple of."""
_ROOM = 1.5
"""A new volume's size, in sizes of the workflow's models."""

_Word = Annotated[str, Field(max_length=200)]


class DeployForm(BaseModel):
    """What the page's form sends. What is empty or ``None`` is as `Wanted` has it.

    Attributes:
        gpus: Names, the one to be preferred first; empty for what has ``memory``.
        memory: GB, as `Suggested` said.
        models: Bytes, likewise.
        volume: As `volume_wanted` reads it; empty for none.
    """

    model_config = ConfigDict(extra="forbid")

    name: _Word
    gpus: Annotated[list[_Word], Field(max_length=100)] = []
    memory: Annotated[int, Field(ge=0, le=_MOST_GB)] | None = None
    models: Annotated[int, Field(ge=0, lt=2**50)] = 0
    use: Use | None = None
    volume: _Word = ""
    image: Annotated[str, Field(max_length=500)] = ""
    registry: _Word = ""
    max_workers: Annotated[int, Field(ge=1, le=1000)] | None = None
    idle: Annotated[int, Field(ge=1, le=LONGEST_IDLE)] | None = None

    def wanted(self) -> Wanted:
        """What it means.

        Raises:
            ConfigurationError: The name cannot be one, or the volume is none.
        """
        memory = None if self.gpus or self.memory is None else GpuMemory(self.memory, "")
        return Wanted(
            checked_name(self.name.strip()),
            gpus=tuple(self.gpus),
            memory=memory,
            image=self.image.strip() or None,
            registry=self.registry.strip() or None,
            volume=volume_wanted(self.volume) if self.volume.strip() else None,
            max_workers=self.max_workers,
            idle=self.idle,
            use=self.use,
            models=self.models,
        )


@dataclass(frozen=True, slots=True)
class Suggested:
    """What is filled in to begin with.

    Attributes:
        memory: GB that the GPU needs.
        by_workflow: Whether the open workflow's models say so.
        models: Bytes of its models that are on this machine.
    """

    name: str
    memory: int
    by_workflow: bool
    models: int

    @classmethod
    def by(
        cls, workflow: str, prompt: Mapping[str, JsonValue] | None, taken: Collection[str]
    ) -> Suggested:
        """By the workflow that is open. Blocking.

        Args:
            workflow: What it is called; may be empty.
            prompt: In API format, as the page makes it; ``None`` where it made none.
            taken: Names of targets and deployments that are there already.
        """
        name = name_from(workflow)[:40] if workflow.strip() else "gpu"
        free = (one for n in count(1) if (one := name if n == 1 else f"{name}-{n}") not in taken)
        need, sizes = None, list[int]()
        if prompt:
            try:
                need, sizes = _needed(prompt)
            except ComfyRemoteError:
                need = None  # the form suggests what suits most, and says so
        gb = SMALL if need is None else need.gb
        return cls(next(free), gb, need is not None, sum(sizes))

    def to_json(self, gpus: list[RestGpu]) -> dict[str, JsonValue]:
        """For the page, with the GPUs that have the memory."""
        size = _USUAL_SIZE
        if self.models:
            size = max(_SIZES, -(-int(self.models * _ROOM / 1e9) // _SIZES) * _SIZES)
        try:
            chosen = gpus_by_memory(self.memory, gpus)
        except ComfyRemoteError:
            names = list[str]()
        else:
            names = [
                one.name or one.id
                for one in gpus
                if one.pool in chosen.pools and one.id not in chosen.excluded
            ]
        return {
            "name": self.name,
            "gpus": [*dict.fromkeys(names)],
            "memory": self.memory,
            "by_workflow": self.by_workflow,
            "models": self.models,
            "volume_size": size,
        }


def _needed(prompt: Mapping[str, JsonValue]) -> tuple[GpuMemory, list[int]]:
    """Memory, and the sizes of the models that are here, in bytes."""
    parsed = parse_workflow(dict(prompt), "The prompt").prompt or {}
    parsed = without_repo_list(parsed)
    here = find_local()
    uses = {(use.name.replace("\\", "/"), use.folder) for use in model_uses(parsed)}
    files = [] if here is None else local_files(here, uses)
    sizes = [one.size for one in files]
    by_size = memory_for_models(sizes) if len(files) == len(uses) else None
    return by_size or memory_for(parsed, Schemas.bundled()), sizes


def choices(there: There) -> dict[str, JsonValue]:
    """What can be chosen in an account."""
    gpus = [one for one in there.gpus if one.pool is not None]
    gpus.sort(key=lambda one: (one.memory, one.price.serverless or 0.0, one.name))
    shown: dict[str, JsonValue] = {}
    for one in gpus:
        centers = one.centers or []
        shown.setdefault(
            one.name or one.id,
            {
                "name": one.name or one.id,
                "memory": one.memory,
                "price": one.price.serverless,
                "free": None if one.availability is None else one.availability != "NONE",
                "centers": [each.id for each in centers if each.availability != "NONE"],
            },
        )
    return {
        "gpus": [*shown.values()],
        "centers": [
            {"id": one.id, "s3": one.id in S3_CENTERS}
            for one in sorted(there.centers, key=lambda one: one.id)
            if one.volume_types
        ],
        "volumes": [
            {"id": one.id, "name": one.name, "size": one.size, "center": one.center}
            for one in there.volumes
        ],
        "registries": [{"id": one.id, "name": one.name} for one in there.registries or ()],
        "uses": [
            {"use": use, "idle": profile.idle, "workers": profile.most}
            for use, profile in PROFILES.items()
        ],
        "image": IMAGE,
    }
