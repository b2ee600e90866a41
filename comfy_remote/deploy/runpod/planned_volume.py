"""What is done with the network volume of an endpoint: made, grown, left. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import ConfigurationError
from ...wire.runpod_volumes import RestVolume, VolumeGrowth, VolumeRequest
from .costs import volume_cost
from .gpus import gpus_by_name, gpus_of
from .listed import LISTED_ON, S3_CENTERS, STANDARD
from .mark import Mark
from .steps import Does, Step
from .there import Ours, There
from .wanted import VolumeWanted, Wanted

__all__ = ["planned_volume", "volume_title"]


def planned_volume(
    wanted: Wanted, there: There, ours: Ours, mark: Mark, notes: list[str]
) -> tuple[RestVolume | None, Step | None]:
    """The volume of the endpoint, if it exists, and what is done with it."""
    asked = wanted.volume
    if asked is not None and asked.id is not None:
        known = next((one for one in there.volumes if one.id == asked.id), None)
        if known is None:
            titles = ", ".join(f"{one.id} ({one.name}, {one.center})" for one in there.volumes)
            raise ConfigurationError(
                f"This RunPod account has no network volume {asked.id!r}.",
                advice=f"It has {titles or 'none'}.",
            )
        return known, _left(known)
    if ours.volume is not None:
        return ours.volume, _grown(wanted, ours.volume, notes)
    if asked is None:
        return None, None
    return None, _new_volume(asked, wanted, there, mark, notes)


def _grown(wanted: Wanted, volume: RestVolume, notes: list[str]) -> Step:
    asked = wanted.volume
    if asked is None:
        return _left(volume)
    if asked.center not in (None, volume.center):
        raise ConfigurationError(
            f"The volume of {wanted.name} is in {volume.center}, and a volume cannot move to "
            f"{asked.center}.",
            advice=f"Name {volume.center}, or make another deployment under another name.",
        )
    if asked.size < volume.size:
        notes.append(
            f"The volume has {volume.size} GB already. RunPod's volumes grow and never shrink."
        )
    if asked.size <= volume.size:
        return _left(volume)
    cost, per_month = volume_cost(asked.size, volume.type)
    facts = (f"{volume.size} GB → {asked.size} GB; it cannot shrink again",)
    return Step(
        Does.CHANGE,
        "volume",
        volume.id,
        volume_title(volume),
        facts,
        cost,
        per_month,
        VolumeGrowth(size=asked.size),
    )


def _left(volume: RestVolume) -> Step:
    cost, per_month = volume_cost(volume.size, volume.type)
    facts = (f"{volume.size} GB",)
    return Step(Does.LEAVE, "volume", volume.id, volume_title(volume), facts, cost, per_month)


def _new_volume(
    asked: VolumeWanted, wanted: Wanted, there: There, mark: Mark, notes: list[str]
) -> Step:
    having = {one.id: one.volume_types for one in there.centers if one.volume_types}
    if asked.center is None or asked.center not in having:
        said = (
            f"{asked.center} is not a RunPod data centre with network volumes."
            if asked.center
            else "A new volume needs a data centre."
        )
        raise ConfigurationError(
            said,
            advice=f"Name one behind the size: {asked.size}@DATACENTER. "
            f"{_centers_for(wanted, there, having)}",
        )
    tier = STANDARD if STANDARD in having[asked.center] else "HIGH_PERFORMANCE"
    if asked.center not in S3_CENTERS:
        notes.append(
            f"{asked.center} is not listed with an S3 API for volumes ({LISTED_ON}), so files of "
            "this machine cannot be sent to it without a worker. Models with an address can be "
            "fetched there."
        )
    cost, per_month = volume_cost(asked.size, tier)
    request = VolumeRequest(
        name=mark.volume,
        size=asked.size,
        center=asked.center,
        type="STANDARD" if tier == STANDARD else "HIGH_PERFORMANCE",
    )
    title = f"{asked.size} GB in {asked.center}"
    return Step(Does.MAKE, "volume", None, title, (_tier_words(tier),), cost, per_month, request)


def _centers_for(wanted: Wanted, there: There, having: Mapping[str, Sequence[str]]) -> str:
    """Data centres that have volumes and the GPUs that are wanted, for people."""
    gpus = there.gpus
    if wanted.gpus:
        choice = gpus_by_name(wanted.gpus, gpus)
        gpus = gpus_of(choice.pools, choice.excluded, gpus)
    free = {
        center.id for gpu in gpus for center in gpu.centers or [] if center.availability != "NONE"
    }
    good = sorted(having.keys() & free & S3_CENTERS) or sorted(having.keys() & free)
    return f"These have GPUs for it now: {', '.join(good or sorted(having))}."


def volume_title(volume: RestVolume) -> str:
    """What people can find it by."""
    return f"{volume.id} in {volume.center}"


def _tier_words(tier: str) -> str:
    return "standard storage" if tier == STANDARD else "high-performance storage"
