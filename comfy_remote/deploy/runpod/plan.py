"""What has to be made, changed or removed for what is wanted, and what it costs. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from ...advice import Hint
from ...errors import ConfigurationError
from ...targets.runpod.prices import price_by
from ...types import JsonValue
from ...units import counted, dollars, size_text
from ...wire.runpod_endpoints import (
    EndpointRequest,
    GpuRequest,
    RestEndpoint,
    RestGpuChoice,
    RestScaling,
    RestWorkers,
    ScalingRequest,
    WorkersRequest,
)
from ...wire.runpod_volumes import RestVolume, VolumeGrowth, VolumeRequest
from .gpus import GpuChoice, gpus_by_memory, gpus_by_name, gpus_of
from .listed import LISTED_ON, S3_CENTERS, STANDARD, volume_per_month
from .mark import MARK_VARIABLE, Mark
from .record import Made
from .there import Ours, There, mark_of
from .wanted import CUDA, DISK, IMAGE, TIMEOUT, VolumeWanted, Wanted, secret_names

__all__ = ["HOURS_A_MONTH", "Does", "Plan", "Step", "plan_deployment", "plan_removal"]

HOURS_A_MONTH = 730
_MASKED = "***"
_FLASHBOOT: Final = "FLASHBOOT"
_REQUEST_COUNT: Final = "REQUEST_COUNT"
_MUCH = 20_000_000_000  # bytes of models that a worker should not fetch at each start
_GB = 1_000_000_000

Request: TypeAlias = "VolumeRequest | VolumeGrowth | EndpointRequest"
_Differs: TypeAlias = Callable[[str, object, str], None]


class Does(Enum):
    """What a step does."""

    MAKE = "make"
    CHANGE = "change"
    LEAVE = "leave"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing of an account, and what is done with it.

    Attributes:
        kind: ``volume`` or ``endpoint``.
        id: Of what is there.
        title: For people.
        facts: What it will be, or what changes, for people.
        cost: A sentence's part, for people; empty where nothing is known of it.
        per_month: US dollars a month, whether it is used or not; ``None`` if that is not known.
        request: What is sent, for what is made or changed.
    """

    does: Does
    kind: str
    id: str | None
    title: str
    facts: tuple[str, ...] = ()
    cost: str = ""
    per_month: float | None = 0.0
    request: Request | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Keys as the attributes', without the request."""
        return {
            "does": self.does.value,
            "kind": self.kind,
            "id": self.id,
            "title": self.title,
            "facts": list(self.facts),
            "cost": self.cost,
            "per_month": self.per_month,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order.

    Attributes:
        volume: That the endpoint has or gets, if it exists already.
        secrets: Of RunPod's console, which have to be there.
        notes: Sentences for people.
    """

    mark: Mark
    steps: tuple[Step, ...]
    volume: RestVolume | None = None
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> list[Step]:
        """The steps that do something."""
        return [step for step in self.steps if step.does is not Does.LEAVE]

    def does_the_same(self, other: Plan) -> bool:
        """Whether another plan, of a moment later, does what this one does."""

        def done(plan: Plan) -> list[tuple[object, ...]]:
            return [(one.does, one.kind, one.id, one.request) for one in plan.steps]

        return done(self) == done(other) and self.mark == other.mark

    def to_json(self) -> dict[str, JsonValue]:
        """For ``--json``."""
        costs = [step.per_month for step in self.steps if step.does is not Does.REMOVE]
        known = [cost for cost in costs if cost is not None]
        return {
            "name": self.mark.name,
            "steps": [step.to_json() for step in self.steps],
            "per_month": sum(known) if len(known) == len(costs) else None,
            "secrets": list(self.secrets),
            "notes": list(self.notes),
        }


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
    volume, step = _volume(wanted, there, ours, mark, notes)
    steps = [] if step is None else [step]
    center = volume.center if volume is not None else None
    if step is not None and isinstance(step.request, VolumeRequest):
        center = step.request.center
    if ours.endpoint is None:
        steps.append(_new_endpoint(wanted, there, mark, volume, center, notes))
    else:
        pending = step is not None and step.does is Does.MAKE
        change = _change(wanted, there, ours.endpoint, volume, center, pending=pending)
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
    if ours.endpoint is None and ours.volume is None:
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
        cost, per_month = _volume_cost(volume.size, volume.type)
        steps.append(Step(does, "volume", volume.id, _volume_title(volume), lost, cost, per_month))
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


# The volume


def _volume(
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
    cost, per_month = _volume_cost(asked.size, volume.type)
    facts = (f"{volume.size} GB → {asked.size} GB; it cannot shrink again",)
    return Step(
        Does.CHANGE,
        "volume",
        volume.id,
        _volume_title(volume),
        facts,
        cost,
        per_month,
        VolumeGrowth(size=asked.size),
    )


def _left(volume: RestVolume) -> Step:
    cost, per_month = _volume_cost(volume.size, volume.type)
    facts = (f"{volume.size} GB",)
    return Step(Does.LEAVE, "volume", volume.id, _volume_title(volume), facts, cost, per_month)


def _new_volume(
    asked: VolumeWanted, wanted: Wanted, there: There, mark: Mark, notes: list[str]
) -> Step:
    having = {one.id: one.volume_types for one in there.centers if one.volume_types}
    if asked.center is None or asked.center not in having:
        said = (
            f"{asked.center} is no data centre of RunPod's with network volumes."
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
    cost, per_month = _volume_cost(asked.size, tier)
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


def _volume_title(volume: RestVolume) -> str:
    return f"{volume.id} in {volume.center}"


def _volume_cost(size: int, tier: str) -> tuple[str, float | None]:
    per_month = volume_per_month(size, tier)
    if per_month is None:
        return "its price is in RunPod's console (it differs by data centre)", None
    return f"{dollars(per_month)} a month, used or not (list price of {LISTED_ON})", per_month


def _tier_words(tier: str) -> str:
    return "standard storage" if tier == STANDARD else "high-performance storage"


# The endpoint


def _new_endpoint(
    wanted: Wanted,
    there: There,
    mark: Mark,
    volume: RestVolume | None,
    center: str | None,
    notes: list[str],
) -> Step:
    choice = _gpus(wanted, there, notes)
    scaling, idle = _scaling(wanted, None)
    most = max(wanted.max_workers or wanted.profile.most, wanted.min_workers or 0, 1)
    image = wanted.image or IMAGE
    without_volume = center is None
    disk = wanted.disk or DISK + (-(-wanted.models // _GB) if without_volume else 0)
    request = EndpointRequest(
        name=wanted.name,
        type="QUEUE",
        image=image,
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
        flashboot=_FLASHBOOT,
    )
    cost, per_month = _endpoint_cost(request, there)
    notes += _availability(choice.pools, choice.excluded, center, there)
    if without_volume and wanted.models > _MUCH:
        notes.append(Hint.ENDPOINT_WITHOUT_VOLUME(size=size_text(wanted.models)))
    facts = (
        choice.title,
        f"image {image}",
        f"at most {counted(most, 'worker')}",
        *([f"{counted(wanted.min_workers, 'active worker')}"] if wanted.min_workers else []),
        _idle_words(idle, scaling),
        f"a job may take {_minutes(wanted.timeout or TIMEOUT)}",
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


def _scaling(wanted: Wanted, now: RestScaling | None) -> tuple[ScalingRequest, int | None]:
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


def _change(
    wanted: Wanted,
    there: There,
    endpoint: RestEndpoint,
    volume: RestVolume | None,
    center: str | None,
    *,
    pending: bool,
) -> Step:
    """What is changed of an endpoint: only what is wanted otherwise than it is."""
    changes: dict[str, object] = {}
    facts: list[str] = []

    def differs(key: str, value: object, words: str) -> None:
        changes[key] = value
        facts.append(words)

    if wanted.image is not None and wanted.image != endpoint.image:
        differs("image", wanted.image, f"image {endpoint.image} → {wanted.image}")
    if wanted.disk is not None and wanted.disk != endpoint.disk:
        differs("disk", wanted.disk, f"disk {endpoint.disk} GB → {wanted.disk} GB")
    if (gpu := _changed_gpu(wanted, there, endpoint)) is not None:
        differs("gpu", gpu[0], gpu[1])
    _change_workers(wanted, endpoint, differs)
    timeout = wanted.timeout and wanted.timeout * 1000
    if timeout and timeout != endpoint.timeout:
        before = _minutes((endpoint.timeout or 0) / 1000)
        differs("timeout", timeout, f"a job may take {before} → {_minutes(timeout / 1000)}")
    if wanted.use is not None and endpoint.flashboot == "OFF":
        differs("flashboot", _FLASHBOOT, "FlashBoot on")
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
        after = _after(endpoint, request)
    cost, per_month = _cost_of(after, there)
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
    scaling, idle = _scaling(wanted, endpoint.scaling)
    least = now.min if wanted.min_workers is None else wanted.min_workers
    most = wanted.max_workers
    if most is None:
        # RunPod sets it to 0 after a week without jobs.
        most = wanted.profile.most if wanted.use is not None or now.max == 0 else now.max
    most = max(most, least)
    if wanted.use is None and wanted.idle is None:
        idle = now.idle_timeout
    if wanted.use is not None and endpoint.scaling != _as_rest(scaling):
        differs("scaling", scaling, str(_as_rest(scaling)))
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


def _as_rest(scaling: ScalingRequest) -> RestScaling:
    return RestScaling(type=scaling.type, delay=scaling.delay, count=scaling.count)


def _after(endpoint: RestEndpoint, request: EndpointRequest) -> RestEndpoint:
    """The endpoint as far as its price goes, once it is changed."""
    changed: dict[str, object] = {}
    if request.gpu is not None:
        changed["gpu"] = RestGpuChoice(
            pools=list(request.gpu.pools),
            excluded=list(request.gpu.excluded or ()),
            count=endpoint.gpu.count if endpoint.gpu is not None else 1,
        )
    if request.workers is not None:
        changed["workers"] = RestWorkers(min=request.workers.min or 0, max=request.workers.max or 0)
    return endpoint.model_copy(update=changed)


def _endpoint_cost(request: EndpointRequest, there: There) -> tuple[str, float | None]:
    return _cost_of(_after(RestEndpoint(id=""), request), there)


def _cost_of(endpoint: RestEndpoint, there: There) -> tuple[str, float | None]:
    """What a worker costs, and what active workers cost a month."""
    least = endpoint.workers.min if endpoint.workers is not None else 0
    price = price_by(endpoint, there.gpus)
    if price is None:
        return "RunPod lists no price for these GPUs", None if least else 0.0
    hour = dollars(price.per_hour)
    if price.lowest is not None:
        hour = f"{dollars(price.lowest)} to {hour}"
    words = f"{hour} an hour for each worker that runs"
    if not least:
        return f"{words}, nothing while none does", 0.0
    per_month = price.standing * HOURS_A_MONTH
    active = counted(least, "active worker")
    return f"{words}; {dollars(per_month)} a month for {active}, used or not", per_month


def _availability(
    pools: Sequence[str], excluded: Sequence[str], center: str | None, there: There
) -> list[str]:
    """A sentence, if none of the GPUs is free where they would be."""
    wanted = gpus_of(pools, excluded, there.gpus)
    if not wanted or any(one.availability is None for one in wanted):
        return []
    free = {
        place.id for one in wanted for place in one.centers or [] if place.availability != "NONE"
    }
    names = " or ".join(dict.fromkeys(one.name or one.id for one in wanted))
    if center is not None and center not in free:
        elsewhere = f" Some are free in {', '.join(sorted(free))}." if free else ""
        return [f"{center} has no {names} free now: jobs would wait.{elsewhere}"]
    if center is None and all(one.availability == "NONE" for one in wanted):
        return [f"No {names} is free now: jobs would wait."]
    return []


def _idle_words(idle: int | None, scaling: ScalingRequest) -> str:
    return str(_as_rest(scaling)) if idle is None else f"idle workers wait {idle} s"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
