"""What has to be made, changed or removed for what is wanted, and what it costs. Asks nobody."""

from __future__ import annotations

from ...advice import Hint
from ...errors import ConfigurationError
from ...wire.runpod_endpoints import EndpointRequest
from ...wire.runpod_volumes import VolumeRequest
from .changed_endpoint import changed_endpoint
from .costs import volume_cost
from .mark import Mark
from .new_endpoint import new_endpoint
from .planned_volume import planned_volume, volume_title
from .record import Made
from .steps import Does, Plan, Step
from .there import Ours, There, mark_of
from .wanted import Wanted, secret_names

__all__ = ["Does", "Plan", "Step", "plan_deployment", "plan_removal"]


def plan_deployment(wanted: Wanted, there: There, made: Made | None, mark: Mark) -> Plan:
    """What an endpoint as it is wanted takes.

    Args:
        made: What this machine's record says of that name.
        mark: For what is made, if nothing of that name is there or was begun.

    Raises:
        ConfigurationError: It cannot be had: the GPU, the data centre, a smaller volume.
    """
    ours = Ours.among(there, wanted.name, made)
    mark = _mark(ours, made, mark)
    notes: list[str] = []
    volume, step = planned_volume(wanted, there, ours, mark, notes)
    steps = [] if step is None else [step]
    center = volume.center if volume is not None else None
    if step is not None and isinstance(step.request, VolumeRequest):
        center = step.request.center
    if ours.endpoint is None:
        steps.append(new_endpoint(wanted, there, mark, volume, center, notes))
    else:
        pending = step is not None and step.does is Does.MAKE
        change = changed_endpoint(wanted, there, ours.endpoint, volume, center, pending=pending)
        steps.append(change)
    request = steps[-1].request
    environment = request.env if isinstance(request, EndpointRequest) else None
    notes += _double_notes(wanted.name, ours)
    return Plan(mark, tuple(steps), volume, tuple(secret_names(environment or {})), tuple(notes))


def plan_removal(name: str, there: There, made: Made | None, *, with_volume: bool) -> Plan:
    """What removing a deployment takes. A volume, with all that is on it, only if that is said.

    Raises:
        ConfigurationError: Nothing of that name was made by Comfy Remote, or something else uses
            the volume.
    """
    ours = Ours.among(there, name, made)
    if made is None and ours.endpoint is None and ours.volume is None:
        raise ConfigurationError(
            f"This RunPod account has nothing that Comfy Remote made as {name!r}.",
            advice="Only what it made is removed. RunPod's console shows everything else.",
        )
    steps: list[Step] = []
    notes: list[str] = []
    if ours.endpoint is not None:
        one = ours.endpoint
        facts = ("jobs that wait or run there are cancelled",)
        steps.append(Step(Does.REMOVE, "endpoint", one.id, f"{name} ({one.id})", facts))
    elif made is not None and made.endpoint is not None:
        # Removed in the console, or a removal was stopped behind it.
        facts = (f"its endpoint {made.endpoint} is not in this account",)
        steps.append(Step(Does.REMOVE, "target", made.endpoint, name, facts))
        notes.append(
            f"The endpoint {made.endpoint} was made from here, and is not in this RunPod account. "
            "If it is in another one, use that account's key."
        )
    if ours.volume is not None:
        volume = ours.volume
        users = [
            one.name or one.id
            for one in there.endpoints
            if volume.id in (one.volumes or []) and one is not ours.endpoint
        ]
        if with_volume and users:
            raise ConfigurationError(
                f"The volume {volume.id} is used by another endpoint: {', '.join(users)}.",
                advice="Remove the endpoint alone, or take the volume from the other one first.",
            )
        does = Does.REMOVE if with_volume else Does.LEAVE
        lost = ("everything on it is lost",) if with_volume else ()
        cost, per_month = volume_cost(volume.size, volume.type)
        steps.append(Step(does, "volume", volume.id, volume_title(volume), lost, cost, per_month))
        if not with_volume:
            notes.append(Hint.VOLUME_STAYS())
    notes += _not_from_here(name, ours, made)
    notes += _double_notes(name, ours)
    return Plan(_mark(ours, made, Mark.new(name)), tuple(steps), ours.volume, (), tuple(notes))


def _mark(ours: Ours, made: Made | None, fresh: Mark) -> Mark:
    """That of what is there, else of what was begun, else a new one."""
    there = mark_of(ours.endpoint) if ours.endpoint is not None else None
    if there is None and ours.volume is not None:
        there = Mark.of_volume(ours.volume.name)
    begun = Mark(made.name, made.nonce) if made is not None else None
    return there or begun or fresh


def _not_from_here(name: str, ours: Ours, made: Made | None) -> list[str]:
    """A sentence, if this machine does not know what it is to remove."""
    known = {made.endpoint, made.volume} if made is not None else set()
    marks = [
        mark_of(ours.endpoint) if ours.endpoint is not None else None,
        Mark.of_volume(ours.volume.name) if ours.volume is not None else None,
    ]
    ids = [one.id if one is not None else None for one in (ours.endpoint, ours.volume)]
    begun = made.nonce if made is not None else None
    strange = [
        f"the {kind} {one}"
        for kind, one, mark in zip(("endpoint", "volume"), ids, marks, strict=True)
        if one is not None and one not in known and (mark is None or mark.nonce != begun)
    ]
    if not strange:
        return []
    return [
        f"This machine has no record of making {' and '.join(strange)}: another machine, or "
        f"somebody else with this account, may use the name {name}. Be sure that nobody needs it."
    ]


def _double_notes(name: str, ours: Ours) -> list[str]:
    if not ours.doubles:
        return []
    return [
        f"There is more than one thing called {name}: {', '.join(ours.doubles)} as well. Comfy "
        "Remote leaves that alone; if nobody needs it, remove it in RunPod's console."
    ]
