"""What is changed of an endpoint that is there: only what is wanted otherwise. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...errors import ConfigurationError
from ...units import counted
from ...wire.runpod_endpoints import (
    EndpointRequest,
    GpuRequest,
    RestEndpoint,
    RestGpuChoice,
    RestWorkers,
    WorkersRequest,
)
from ...wire.runpod_volumes import RestVolume
from .costs import changed, endpoint_cost
from .gpus import gpus_by_name, gpus_of
from .new_endpoint import FLASHBOOT, as_rest, minutes, scaling_for
from .steps import Does, Step
from .there import There
from .wanted import Wanted

__all__ = ["changed_endpoint"]

_MASKED = "***"

_Differs: TypeAlias = Callable[[str, object, str], None]


def changed_endpoint(
    wanted: Wanted,
    there: There,
    endpoint: RestEndpoint,
    volume: RestVolume | None,
    center: str | None,
    *,
    pending: bool,
) -> Step:
    """The step that changes an endpoint, or leaves it.

    Args:
        volume: That it is to have, if it exists already.
        center: Of that volume, which may not exist yet.
        pending: Whether the volume is yet to be made.
    """
    changes: dict[str, object] = {}
    facts: list[str] = []

    def differs(key: str, value: object, words: str) -> None:
        changes[key] = value
        facts.append(words)

    if wanted.image is not None and wanted.image != endpoint.image:
        differs("image", wanted.image, f"image {endpoint.image} → {wanted.image}")
        if endpoint.registry is not None and wanted.registry is None:
            changes["registry"] = endpoint.registry  # it counts for the new one, too
    login = None if wanted.registry is None else there.registry(wanted.registry)
    if login is not None and login.id != endpoint.registry:
        differs(
            "registry", login.id, f"its image is loaded with the login {login.name or login.id}"
        )
    if wanted.disk is not None and wanted.disk != endpoint.disk:
        differs("disk", wanted.disk, f"disk {endpoint.disk} GB → {wanted.disk} GB")
    if (gpu := _changed_gpu(wanted, there, endpoint)) is not None:
        differs("gpu", gpu[0], gpu[1])
    _change_workers(wanted, endpoint, differs)
    timeout = wanted.timeout and wanted.timeout * 1000
    if timeout and timeout != endpoint.timeout:
        before = minutes((endpoint.timeout or 0) / 1000)
        differs("timeout", timeout, f"a job may take {before} → {minutes(timeout / 1000)}")
    if wanted.use is not None and endpoint.flashboot == "OFF":
        differs("flashboot", FLASHBOOT, "FlashBoot on")
    env = endpoint.env or {}
    new = {name: value for name, value in wanted.env.items() if env.get(name) != value}
    if new:
        if any(_MASKED in value for value in env.values()):
            raise ConfigurationError(
                f"RunPod hides the values of variables of {wanted.name}, so they cannot be sent "
                "back with a new one.",
                advice="Set the new ones in RunPod's console.",
            )
        differs("env", {**env, **new}, f"sets {', '.join(sorted(new))}")
    attached = endpoint.volumes or []
    if pending or (volume is not None and volume.id not in attached):
        centers = endpoint.centers or []
        # One that is yet to be made is added when it has an id.
        changes["volumes"] = tuple(attached) if volume is None else (*attached, volume.id)
        if center is not None and center not in centers and (centers or not attached):
            changes["centers"] = (*centers, center)
        facts.append(f"gets the volume, so it runs in {center}")
    request = EndpointRequest.model_validate(changes) if facts else None
    after = endpoint
    if request is not None:
        after = changed(endpoint, request)
    cost, per_month = endpoint_cost(after, there)
    does = Does.LEAVE if request is None else Does.CHANGE
    title = f"{wanted.name} ({endpoint.id})"
    return Step(does, "endpoint", endpoint.id, title, tuple(facts), cost, per_month, request)


def _changed_gpu(
    wanted: Wanted, there: There, endpoint: RestEndpoint
) -> tuple[GpuRequest, str] | None:
    now = endpoint.gpu or RestGpuChoice()
    if not wanted.gpus and wanted.cuda in (None, now.least_cuda):
        return None
    pools, excluded = tuple(now.pools), tuple(sorted(one.strip() for one in now.excluded))
    title = ""
    if wanted.gpus:
        choice = gpus_by_name(wanted.gpus, there.gpus)
        same = (choice.pools, choice.excluded) == (pools, excluded)
        if same and wanted.cuda in (None, now.least_cuda):
            return None
        before = [one.name or one.id for one in gpus_of(pools, excluded, there.gpus)]
        title = f"{' or '.join(dict.fromkeys(before)) or 'GPUs'} → {choice.title}"
        pools, excluded = choice.pools, choice.excluded
    cuda = wanted.cuda if wanted.cuda != now.least_cuda else None
    if cuda is not None:
        words = f"hosts with CUDA {cuda} or later"
        title = f"{title}, {words}" if title else words
    request = GpuRequest(
        pools=pools,
        excluded=excluded or None,
        least_cuda=cuda,
        cuda=() if cuda is not None and now.cuda else None,
    )
    return request, title


def _change_workers(wanted: Wanted, endpoint: RestEndpoint, differs: _Differs) -> None:
    now = endpoint.workers or RestWorkers()
    scaling, idle = scaling_for(wanted, endpoint.scaling)
    least = now.min if wanted.min_workers is None else wanted.min_workers
    most = wanted.max_workers
    if most is None:
        # RunPod sets it to 0 after a week without jobs.
        most = wanted.profile.most if wanted.use is not None or now.max == 0 else now.max
    most = max(most, least)
    if wanted.use is None and wanted.idle is None:
        idle = now.idle_timeout
    if wanted.use is not None and endpoint.scaling != as_rest(scaling):
        differs("scaling", scaling, str(as_rest(scaling)))
    said = []
    if (now.min, now.max) != (least, most):
        if now.min != least:
            said.append(f"active workers {now.min} → {least}")
        if now.max != most:
            said.append(f"at most {now.max} → {counted(most, 'worker')}")
    if idle is not None and idle != now.idle_timeout:
        said.append(f"idle workers wait {idle} s")
    if said:
        request = WorkersRequest(min=least, max=most, idle_timeout=idle)
        differs("workers", request, ", ".join(said))
