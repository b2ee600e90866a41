"""A plan for RunPod as the page gets it: values, which it words in its own language."""

from __future__ import annotations

from ..advice import Advice, Hint
from ..deploy.runpod.costs import changed
from ..deploy.runpod.gpus import gpus_of
from ..deploy.runpod.image import ImageFacts
from ..deploy.runpod.steps import Plan, Step
from ..deploy.runpod.there import There
from ..targets.own_command import own_command
from ..targets.runpod.prices import price_by
from ..types import JsonValue
from ..wire.runpod_endpoints import EndpointRequest, RestEndpoint
from ..wire.runpod_volumes import VolumeGrowth, VolumeRequest
from .advice import for_page

__all__ = ["note_json", "plan_json"]

_SHOWN_OTHERWISE = frozenset({Hint.GPU_CHOSEN, Hint.VOLUME_STAYS})
"""The page shows the GPUs, and words what stays, by itself."""


def plan_json(
    plan: Plan, there: There, image: tuple[str, ImageFacts] | None
) -> dict[str, JsonValue]:
    """A plan.

    Args:
        there: What it was made of.
        image: What its registry says of the image that workers are to run.
    """
    notes: list[JsonValue] = [
        note_json(one)
        for one in plan.notes
        if not (isinstance(one, Advice) and one.hint in _SHOWN_OTHERWISE)
    ]
    return {
        "name": plan.mark.name,
        "steps": [_step(step, plan, there) for step in plan.steps],
        "per_month": plan.to_json()["per_month"],
        "image": None
        if image is None
        else {"name": image[0], "state": image[1].state.replace(" ", "_"), "size": image[1].size},
        "notes": notes,
    }


def note_json(note: str) -> dict[str, JsonValue]:
    """A sentence in the server's words, and its code, by which the page says it in others."""
    hint: JsonValue = None
    if isinstance(note, Advice):
        hint = {**note.to_json(), "command": own_command()}
    return {"text": for_page(note), "hint": hint}


def _step(step: Step, plan: Plan, there: There) -> dict[str, JsonValue]:
    shown: dict[str, JsonValue] = {
        "does": step.does.value,
        "kind": step.kind,
        "id": step.id,
        "name": plan.mark.name,
        "per_month": step.per_month,
        "per_hour": None,
    }
    if step.kind == "volume":
        return {**shown, **_volume(step, plan)}
    if step.kind == "target":
        return shown
    now = next((one for one in there.endpoints if one.id == step.id), RestEndpoint(id=""))
    request = step.request if isinstance(step.request, EndpointRequest) else EndpointRequest()
    price = price_by(changed(now, request), there.gpus)
    if price is not None:
        least = price.per_hour if price.lowest is None else price.lowest
        shown["per_hour"] = {"least": least, "most": price.per_hour}
    return {**shown, **_endpoint(request, there)}


def _volume(step: Step, plan: Plan) -> dict[str, JsonValue]:
    match step.request:
        case VolumeRequest() as request:
            return {"size": request.size, "center": request.center}
        case VolumeGrowth() as request:
            before = plan.volume.size if plan.volume is not None else None
            center = plan.volume.center if plan.volume is not None else None
            return {"size": request.size, "center": center, "before": before}
        case _ if plan.volume is not None:
            return {"size": plan.volume.size, "center": plan.volume.center}
    return {}


def _endpoint(request: EndpointRequest, there: There) -> dict[str, JsonValue]:
    """What is set of it; what is not sent is absent."""
    found: dict[str, JsonValue] = {}
    if request.gpu is not None:
        gpus = gpus_of(request.gpu.pools, request.gpu.excluded or (), there.gpus)
        found["gpus"] = [*dict.fromkeys(one.name or one.id for one in gpus)]
    if request.workers is not None:
        found["workers"] = request.workers.max
        found["active"] = request.workers.min
        found["idle"] = request.workers.idle_timeout
    if request.centers:
        found["centers"] = [*request.centers]
    if request.image is not None:
        found["image"] = request.image
    if request.registry is not None:
        found["login"] = there.registry(request.registry).name
    if request.disk is not None:
        found["disk"] = request.disk
    if request.timeout is not None:
        found["minutes"] = request.timeout / 60_000
    return found
