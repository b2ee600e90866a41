"""RunPod's network volumes and data centres, as its REST API lists, makes and changes them.

Source of facts: ``/v2/network-volumes`` and ``/v2/catalog/datacenters`` in RunPod's OpenAPI
document (REST API v2). A volume's size only grows, its data centre and its tier stay, and several
may have one name.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..types import JsonValue

__all__ = [
    "LARGEST_VOLUME",
    "SMALLEST_VOLUME",
    "RestDataCenter",
    "RestDataCenterList",
    "RestVolume",
    "RestVolumeList",
    "VolumeGrowth",
    "VolumeRequest",
]

SMALLEST_VOLUME, LARGEST_VOLUME = 10, 4096
"""GB that a volume may have."""

VolumeType = Literal["STANDARD", "HIGH_PERFORMANCE"]


class RestVolume(BaseModel):
    """One network volume.

    Attributes:
        size: GB.
        center: Of its data centre: ``EU-RO-1``.
        type: ``STANDARD`` or ``HIGH_PERFORMANCE``.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: str
    name: str = ""
    size: int
    center: str = Field(validation_alias="dataCenter")
    type: str = ""


class RestVolumeList(BaseModel):
    """The answer to ``GET /v2/network-volumes``."""

    volumes: list[RestVolume] = Field(validation_alias="networkVolumes")


class RestDataCenter(BaseModel):
    """A data centre.

    Attributes:
        volume_types: Tiers of network volumes that it has; none if empty.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: str
    name: str = ""
    volume_types: list[str] = Field(default=[], validation_alias="networkVolumeTypes")


class RestDataCenterList(BaseModel):
    """The answer to ``GET /v2/catalog/datacenters``."""

    centers: list[RestDataCenter] = Field(validation_alias="dataCenters")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def body(self) -> JsonValue:
        """As it is sent."""
        sent: JsonValue = self.model_dump(mode="json", by_alias=True)
        return sent


class VolumeRequest(_Request):
    """A volume to be made. Without ``type``, RunPod takes its data centre's own, which costs more
    in some."""

    name: str = Field(min_length=1)
    size: int = Field(ge=SMALLEST_VOLUME, le=LARGEST_VOLUME)
    center: str = Field(serialization_alias="dataCenter", min_length=1)
    type: VolumeType


class VolumeGrowth(_Request):
    """The new size of a volume, in GB: never less than it has."""

    size: int = Field(ge=SMALLEST_VOLUME, le=LARGEST_VOLUME)
