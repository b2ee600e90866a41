"""A new endpoint: what is sent for it, and what it says of it. Asks nobody."""

from __future__ import annotations

from typing import Final

from ...advice import Hint
from ...errors import ConfigurationError
from ...units import counted, size_text
from ...wire.runpod_endpoints import (
    EndpointRequest,
    GpuRequest,
    RestEndpoint,
    RestScaling,
    ScalingRequest,
    WorkersRequest,
)
from ...wire.runpod_volumes import RestVolume
from .costs import availability_notes, changed, endpoint_cost
from .gpus import GpuChoice, gpus_by_memory, gpus_by_name
from .mark import MARK_VARIABLE, Mark
from .steps import Does, Step
from .there import There
from .wanted import CUDA, DISK, IMAGE, TIMEOUT, Wanted

__all__ = ["FLASHBOOT", "as_rest", "minutes", "new_endpoint", "scaling_for"]

FLASHBOOT: Final = "FLASHBOOT"
_REQUEST_COUNT: Final = "REQUEST_COUNT"
_MUCH = 20_000_000_000  # bytes of models that a worker should not fetch at each start
_GB = 1_000_000_000


def new_endpoint(
    wanted: Wanted,
    there: There,
    mark: Mark,
    volume: RestVolume | None,
    center: str | None,
    notes: list[str],
) -> Step:
    """The step that makes the endpoint.

    Args:
        volume: That it gets, if it exists already.
        center: Of its volume, which may not exist yet; ``None`` without a volume.
        notes: Takes sentences for people.
    """
    choice = _gpus(wanted, there, notes)
    scaling, idle = scaling_for(wanted, None)
    most = max(wanted.max_workers or wanted.profile.most, wanted.min_workers or 0, 1)
    image = wanted.image or IMAGE
    without_volume = center is None
    disk = wanted.disk or DISK + (-(-wanted.models // _GB) if without_volume else 0)
    login = None if wanted.registry is None else there.registry(wanted.registry)
    request = EndpointRequest(
        name=wanted.name,
        type="QUEUE",
        image=image,
        registry=None if login is None else login.id,
        disk=disk,
        env={"DOWNLOAD_MODELS": "true", **wanted.env, MARK_VARIABLE: str(mark)},
        gpu=GpuRequest(
            pools=choice.pools,
            excluded=choice.excluded or None,
            count=1,
            least_cuda=wanted.cuda or CUDA,
        ),
        workers=WorkersRequest(min=wanted.min_workers or 0, max=most, idle_timeout=idle),
        scaling=scaling,
        centers=None if center is None else (center,),
        volumes=None if volume is None else (volume.id,),
        timeout=(wanted.timeout or TIMEOUT) * 1000,
        flashboot=FLASHBOOT,
    )
    cost, per_month = endpoint_cost(changed(RestEndpoint(id=""), request), there)
    notes += availability_notes(choice.pools, choice.excluded, center, there)
    if without_volume and wanted.models > _MUCH:
        notes.append(Hint.ENDPOINT_WITHOUT_VOLUME(size=size_text(wanted.models)))
    facts = (
        choice.title,
        f"image {image}",
        *([] if login is None else [f"loaded with the login {login.name or login.id}"]),
        f"at most {counted(most, 'worker')}",
        *([f"{counted(wanted.min_workers, 'active worker')}"] if wanted.min_workers else []),
        _idle_words(idle, scaling),
        f"a job may take {minutes(wanted.timeout or TIMEOUT)}",
        "FlashBoot on",
        f"in {center}" if center else "in any data centre",
    )
    return Step(Does.MAKE, "endpoint", None, wanted.name, facts, cost, per_month, request)


def _gpus(wanted: Wanted, there: There, notes: list[str]) -> GpuChoice:
    if wanted.gpus:
        return gpus_by_name(wanted.gpus, there.gpus)
    need = wanted.memory
    choice = gpus_by_memory(need.gb if need is not None else 24, there.gpus)
    why = f", since {need.why}" if need is not None else ", which is enough for most workflows"
    notes.append(Hint.GPU_CHOSEN(title=choice.title, why=why))
    return choice


def scaling_for(wanted: Wanted, now: RestScaling | None) -> tuple[ScalingRequest, int | None]:
    """When workers are added, and how long idle ones wait.

    Raises:
        ConfigurationError: An idle time is wanted where RunPod takes none.
    """
    scaling, idle = wanted.profile.scaling, wanted.profile.idle
    if wanted.use is None and now is not None and now.type == _REQUEST_COUNT:
        scaling, idle = ScalingRequest(type=_REQUEST_COUNT, count=now.count or 1), None
    if wanted.idle is not None:
        if scaling.type == _REQUEST_COUNT:
            raise ConfigurationError(
                "An idle time cannot be set for steady use: RunPod takes none where workers are "
                "added by the number of jobs.",
                advice="Omit it, or choose another use.",
            )
        idle = wanted.idle
    return scaling, idle


def as_rest(scaling: ScalingRequest) -> RestScaling:
    """As RunPod shows it."""
    return RestScaling(type=scaling.type, delay=scaling.delay, count=scaling.count)


def _idle_words(idle: int | None, scaling: ScalingRequest) -> str:
    return str(as_rest(scaling)) if idle is None else f"idle workers wait {idle} s"


def minutes(seconds: float) -> str:
    """A time that was set, for people."""
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
