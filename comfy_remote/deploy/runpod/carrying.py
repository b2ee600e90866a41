"""Carries a plan out, step by step: nothing is made twice, whatever answer gets lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from ...advice import Hint
from ...aio import in_thread, off_the_loop
from ...errors import (
    ComfyRemoteError,
    ConfigurationError,
    DeploymentFailed,
    SubmissionUnknown,
    TargetError,
)
from ...targets.runpod.account import RunPodAccount
from ...types import JsonValue
from ...wire.runpod_endpoints import EndpointRequest, RestEndpoint
from ...wire.runpod_volumes import RestVolume, VolumeGrowth, VolumeRequest
from .listed import volume_per_month
from .mark import Mark
from .plan import Does, Plan, Step
from .record import DeploymentRecord, Made
from .there import There, endpoints_named, look, mark_of, volumes_named

__all__ = ["CarryTimes", "Deployed", "carry_out"]

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class CarryTimes:
    """How long something is looked for whose answer got lost.

    Attributes:
        looks: How often the account is asked.
        between: Seconds between two of them.
    """

    looks: int = 6
    between: float = 3.0


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is there now.

    Attributes:
        endpoint: ``None`` once it is removed.
        volume: That of the endpoint, if it has one.
        notes: Sentences for people.
    """

    endpoint: RestEndpoint | None = None
    volume: RestVolume | None = None
    notes: tuple[str, ...] = ()


async def carry_out(
    account: RunPodAccount,
    plan: Plan,
    again: Callable[[There, Made | None], Plan],
    record: DeploymentRecord,
    done: Callable[[Step], None] = lambda _step: None,
    times: CarryTimes = CarryTimes(),
    asked: dict[str, JsonValue] | None = None,
) -> Deployed:
    """Do what a plan says, if it is still what has to be done.

    Args:
        again: Makes the same plan of what is there by now.
        done: Called after each step.
        asked: Recorded before anything is made: see `Made`.

    Raises:
        ConfigurationError: The account or a price has changed since, or RunPod refuses a step.
        DeploymentFailed: It is not known whether something was made.
        LocalStorageError: Something is being deployed already, or cannot be written down.
        TargetError: RunPod cannot be asked.
    """
    async with off_the_loop(record.changing()):
        name = plan.mark.name
        made = await in_thread(record.made, name)
        now = again(await look(account, made), made)
        if not plan.does_the_same(now):
            raise ConfigurationError(
                "What the RunPod account has changed since the plan was made. Nothing was done.",
                advice="Do the same again to see what is to be done now.",
            )
        if not plan.costs_the_same(now):
            raise ConfigurationError(
                "RunPod's prices have changed since the plan was made. Nothing was done.",
                advice="Do the same again to see what it costs now.",
            )
        if made is None or made.nonce != plan.mark.nonce:
            made = Made(name=name, nonce=plan.mark.nonce)
        if asked is not None:
            made = made.model_copy(update={"asked": asked})
        carrying = _Carrying(account, plan, made, record, done, times)
        try:
            return await carrying.all()
        except ComfyRemoteError as error:
            raise _with_what_was_made(error, carrying.made_here) from error


class _Carrying:
    """One plan that is carried out.

    Attributes:
        made_here: What this has made so far, for people, with what it costs.
    """

    def __init__(
        self,
        account: RunPodAccount,
        plan: Plan,
        made: Made,
        record: DeploymentRecord,
        done: Callable[[Step], None],
        times: CarryTimes,
    ) -> None:
        self._account, self._plan, self._record = account, plan, record
        self._done, self._times = done, times
        self._made = made
        self._now = Deployed(volume=plan.volume)
        self._new_volume: RestVolume | None = None
        self.made_here: list[str] = []

    async def all(self) -> Deployed:
        for step in self._plan.steps:
            match step.request, step.does:
                case VolumeRequest() as request, Does.MAKE:
                    await self._make_volume(request)
                case EndpointRequest() as request, Does.MAKE:
                    await self._make_endpoint(request)
                case VolumeGrowth() as request, _:
                    grown = await self._account.grow_volume(_id(step), request)
                    self._now = replace(self._now, volume=grown)
                case EndpointRequest() as request, _:
                    await self._change_endpoint(_id(step), request)
                case None, Does.REMOVE:
                    await self._remove(step)
                case _:
                    await self._find(step)
            self._done(step)
        if self._plan.removes:
            await self._note_removal()
        return self._now

    async def _note(self, **changed: str | None) -> None:
        self._made = self._made.model_copy(update=changed)
        await in_thread(self._record.put, self._made)

    async def _make_volume(self, request: VolumeRequest) -> None:
        await self._note()

        async def find() -> RestVolume | None:
            there = await self._account.volumes()
            return next((one for one in there if one.name == request.name), None)

        volume = await self._once(
            f"the volume {request.name}", self._account.make_volume(request), find
        )
        await self._note(volume=volume.id)
        cost = volume_per_month(volume.size, volume.type)
        per_month = "" if cost is None else f", ${cost:.2f} a month"
        self.made_here.append(f"the volume {volume.id} ({volume.size} GB{per_month})")
        there = volumes_named(await self._account.volumes(), self._plan.mark.name)
        first = min([volume, *there], key=lambda one: one.id)
        if first.id != volume.id:
            # Another machine has made one as well. Ours is empty.
            await self._account.remove_volume(volume.id)
            self.made_here.pop()
            volume = first
            await self._note(volume=None)
        else:
            self._new_volume = volume
        self._now = replace(self._now, volume=volume)

    async def _make_endpoint(self, request: EndpointRequest) -> None:
        await self._note()
        request = self._with_volume(request)
        mark = self._plan.mark

        async def find() -> RestEndpoint | None:
            there = await self._account.endpoints()
            return next((one for one in there if mark_of(one) == mark), None)

        endpoint = await self._once(
            f"the endpoint {mark.name}", self._account.make_endpoint(request), find
        )
        await self._note(endpoint=endpoint.id)
        self.made_here.append(f"the endpoint {endpoint.id}")
        endpoint = await self._the_first(endpoint, mark)
        unlike = _unlike(request, endpoint)
        notes = (
            [f"RunPod has set {', '.join(unlike)} otherwise than it was asked to."]
            if unlike
            else []
        )
        self._now = replace(self._now, endpoint=endpoint, notes=(*self._now.notes, *notes))

    async def _the_first(self, endpoint: RestEndpoint, mark: Mark) -> RestEndpoint:
        """This endpoint, or that of another machine which has made the same one before: then this
        one is removed, which has no job yet, and its volume with it."""
        there = endpoints_named(await self._account.endpoints(), mark.name)
        first = min([endpoint, *there], key=lambda one: (one.created, one.id))
        if first.id == endpoint.id:
            return endpoint
        await self._account.remove_endpoint(endpoint.id)
        ours = self._new_volume
        if ours is not None and ours.id not in (first.volumes or []):
            await self._account.remove_volume(ours.id)
            await self._note(volume=None)
        attached = [one for one in await self._account.volumes() if one.id in (first.volumes or [])]
        self._now = Deployed(
            volume=next(iter(attached), None),
            notes=(
                f"Another machine has made {mark.name} meanwhile. Its endpoint {first.id} is used, "
                "and what was made here is removed again.",
            ),
        )
        # That machine's mark: the next plan finds it as what it is.
        found = mark_of(first)
        await self._note(endpoint=first.id, nonce=found.nonce if found is not None else mark.nonce)
        return first

    async def _change_endpoint(self, endpoint: str, request: EndpointRequest) -> None:
        changed = await self._account.change_endpoint(endpoint, self._with_volume(request))
        self._now = replace(self._now, endpoint=changed)
        await self._keep(changed)

    def _with_volume(self, request: EndpointRequest) -> EndpointRequest:
        """With the volume that a step before has made."""
        ours = self._now.volume
        made = any(isinstance(step.request, VolumeRequest) for step in self._plan.steps)
        if ours is None or not made:
            return request
        centers = request.centers or ()
        if ours.center not in centers:  # another machine has made it, in another data centre
            centers = (ours.center,) if request.name is not None else (*centers, ours.center)
        return request.model_copy(
            update={"volumes": (*(request.volumes or ()), ours.id), "centers": centers}
        )

    async def _find(self, step: Step) -> None:
        if step.kind == "endpoint":
            there = await self._account.endpoints()
            found = next((one for one in there if one.id == step.id), None)
            self._now = replace(self._now, endpoint=found)
            if found is not None:
                await self._keep(found)

    async def _keep(self, endpoint: RestEndpoint) -> None:
        """Write down an endpoint that was there, and the volume that was made with it."""
        volume = self._now.volume
        ours = volume is not None and Mark.of_volume(volume.name) is not None
        await self._note(endpoint=endpoint.id, volume=volume.id if volume and ours else None)

    async def _remove(self, step: Step) -> None:
        if step.kind == "endpoint":
            await self._account.remove_endpoint(_id(step))
        elif step.kind == "volume":
            try:
                await self._account.remove_volume(_id(step))
            except ComfyRemoteError as error:
                stays = (
                    f"The volume {_id(step)} stays, and goes on costing money. RunPod may keep it "
                    "while a worker has it: do the same again in a minute."
                )
                error.advice = " ".join(filter(None, [error.advice, stays]))
                raise
            self._now = replace(self._now, volume=None)

    async def _note_removal(self) -> None:
        """Only once all of it is done: until then, the record says whose target has to go."""
        left = [one for one in self._plan.steps if one.kind == "volume" and one.does is Does.LEAVE]
        if left:
            await self._note(endpoint=None, volume=left[0].id)
        else:
            await in_thread(self._record.forget, self._made.name)

    async def _once(
        self, what: str, sent: Awaitable[_Found], find: Callable[[], Awaitable[_Found | None]]
    ) -> _Found:
        """What a request makes; looked for if its answer got lost.

        Raises:
            DeploymentFailed: It was not found, so it may turn up yet.
        """
        try:
            return await sent
        except SubmissionUnknown as error:
            lost = error
        for number in range(self._times.looks):
            if number:
                await asyncio.sleep(self._times.between)
            # RunPod may be out of reach for longer than that one answer.
            with contextlib.suppress(TargetError):
                if (found := await find()) is not None:
                    return found
        raise DeploymentFailed(
            f"It is not known whether RunPod has made {what}: its answer got lost, and it is not "
            "there so far.",
            advice="Do the same again in a minute: it looks first, and goes on with what is there.",
            details=lost.details,
        ) from lost


def _with_what_was_made(error: ComfyRemoteError, made: list[str]) -> ComfyRemoteError:
    if made:
        what = " and ".join(made)
        goes_on = Hint.DEPLOYMENT_GOES_ON(made=what[0].upper() + what[1:])
        error.advice = f"{error.advice} {goes_on}" if error.advice else goes_on
    return error


def _id(step: Step) -> str:
    if step.id is None:
        raise TargetError(f"The plan names no {step.kind} to change.")
    return step.id


def _unlike(wanted: EndpointRequest, there: RestEndpoint) -> list[str]:
    """What RunPod has set otherwise than it was asked to, for people."""
    workers, now = wanted.workers, there.workers
    compared = {
        "FlashBoot": (wanted.flashboot, there.flashboot),
        "the time a job may take": (wanted.timeout, there.timeout),
        "the number of workers": (workers and workers.max, now and now.max),
        "the idle time": (workers and workers.idle_timeout, now and now.idle_timeout),
    }
    return [name for name, (asked, found) in compared.items() if asked not in (None, found)]
