"""Endpoints that somebody makes and removes at RunPod in the page: planned, then carried out.

A plan is shown first and stays here, so the yes is to what was shown. What is carried out goes on
if the page is closed. If this server ends meanwhile, the record says at its next start what was
asked for and what was made; the same again goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import JsonValue, SecretStr

from ..aio import Background
from ..clean import cleaned_json
from ..config.folders import home
from ..config.settings import Configuration
from ..deploy.runpod import image
from ..deploy.runpod.carrying import CarryTimes, carry_out
from ..deploy.runpod.mark import Mark
from ..deploy.runpod.own_target import OwnTarget, forget_target, remember_target
from ..deploy.runpod.plan import plan_deployment, plan_removal
from ..deploy.runpod.record import DeploymentRecord, Made
from ..deploy.runpod.steps import Plan, Step
from ..deploy.runpod.there import There, look, mark_of
from ..errors import ComfyRemoteError, ConfigurationError, DeploymentFailed
from ..secrets import secret
from ..targets.runpod.account import RunPodAccount
from ..targets.runpod.kind import API_KEY_VARIABLE
from ..wire.runpod_endpoints import EndpointRequest
from .advice import error_json
from .deploy_form import DeployForm, Suggested, choices
from .deploy_shown import note_json, plan_json

if TYPE_CHECKING:
    from .own_targets import OwnTargets
    from .target_pool import TargetPool

__all__ = ["Deployments", "under_way"]

_log = logging.getLogger(__name__)

_MOST_PLANS = 8
_MOST_SHOWN = 20
_TIMES = CarryTimes()
_Again = Callable[[There, Made | None], Plan]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A plan that was shown.

    Attributes:
        id: Names it in the page.
        key: Of the account that it is for.
        asked: What was filled in; ``None`` for a removal.
    """

    id: str
    key: SecretStr
    plan: Plan
    again: _Again
    shown: dict[str, JsonValue]
    asked: dict[str, JsonValue] | None

    @property
    def name(self) -> str:
        return self.plan.mark.name


@dataclass
class _Doing:
    """A plan that is carried out, or was the last one."""

    planned: _Planned
    done: int = 0
    task: asyncio.Future[None] | None = None
    error: dict[str, JsonValue] | None = None
    target: OwnTarget = field(default_factory=OwnTarget)
    notes: list[JsonValue] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.task is not None and not self.task.done():
            return "running"
        return "done" if self.error is None else "failed"

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "name": self.planned.name,
            "removes": self.planned.asked is None,
            "state": self.state,
            "steps": self.planned.shown["steps"],
            "done": self.done,
            "error": self.error,
            "target": self.target.name,
            "notes": self.notes,
        }


class Deployments:
    """What the page may do with endpoints of its user's account. One at a time."""

    def __init__(self, pool: TargetPool, own: OwnTargets, times: CarryTimes = _TIMES) -> None:
        self._pool, self._own, self._times = pool, own, times
        self._plans: dict[str, _Planned] = {}
        self._now: _Doing | None = None
        self._background = Background()
        pool.before_close.append(self._background.stop)

    @property
    def running(self) -> str | None:
        """What is being made or removed."""
        return self._now.planned.name if self._now and self._now.state == "running" else None

    async def options(
        self, key: SecretStr | None, workflow: str, prompt: Mapping[str, JsonValue] | None
    ) -> dict[str, JsonValue]:
        """What can be chosen in the account, and what suits the open workflow.

        Args:
            key: One that was typed, which is stored if RunPod takes it.

        Raises: as `OwnTargets.asked`, `ComfyRemoteError` if the record cannot be read.
        """

        async def ask(environment: Mapping[str, str]) -> There:
            async with RunPodAccount(_key(environment), environment) as account:
                return await look(account)

        there, stored = await self._own.asked(key, ask)
        made = await asyncio.to_thread(_made)
        taken = await asyncio.to_thread(_taken, there)
        suggested = await asyncio.to_thread(Suggested.by, workflow, prompt, taken)
        found = {**choices(there), "suggested": suggested.to_json([*there.gpus]), "made": made}
        return cleaned_json({"stored": stored, **found})

    async def plan(self, form: DeployForm) -> dict[str, JsonValue]:
        """What an endpoint takes and costs. Nothing is changed.

        Raises:
            ConfigurationError: It cannot be had, or the name is another target's.
            AuthenticationError, TargetError: The account cannot be asked.
        """
        wanted = form.wanted()
        mark = Mark.new(wanted.name)

        def again(there: There, made: Made | None) -> Plan:
            return plan_deployment(wanted, there, made, mark)

        plan, there, key = await self._planned(wanted.name, again)
        await asyncio.to_thread(_check_target, plan)
        requests = [one.request for one in plan.steps if isinstance(one.request, EndpointRequest)]
        named = next((one.image for one in requests if one.image), None)
        facts = None if named is None else (named, await image.image_facts(named))
        shown = plan_json(plan, there, facts)
        return self._show(plan, again, key, shown, form.model_dump(mode="json"))

    async def plan_removal(self, name: str, *, with_volume: bool) -> dict[str, JsonValue]:
        """What removing takes, as `plan`. Nothing is changed."""

        def again(there: There, made: Made | None) -> Plan:
            return plan_removal(name, there, made, with_volume=with_volume)

        plan, there, key = await self._planned(name, again)
        return self._show(plan, again, key, plan_json(plan, there, None), None)

    def start(self, plan_id: str) -> dict[str, JsonValue]:
        """Begin what a plan says. How it goes, `state` says. The same yes again begins nothing.

        Raises:
            ConfigurationError: The plan is not known here, or another one is carried out.
        """
        if self._now is not None and self._now.planned.id == plan_id:
            return self._now.to_json()
        if self.running is not None:
            raise ConfigurationError(
                f"{self.running} is being made or removed already.", advice="Wait for it."
            )
        planned = self._plans.pop(plan_id, None)
        if planned is None:
            raise ConfigurationError(
                "That plan is not known any more. Nothing was done.",
                advice="Show the plan again, and agree to that one.",
            )
        doing = self._now = _Doing(planned)
        doing.task = self._background.start(self._carry_out(doing))
        return doing.to_json()

    async def state(self) -> dict[str, JsonValue]:
        """What is carried out, or was last; what this machine has on record."""
        made = await asyncio.to_thread(_made)
        now = None if self._now is None else self._now.to_json()
        return cleaned_json({"now": now, "made": made})

    async def _planned(self, name: str, again: _Again) -> tuple[Plan, There, SecretStr]:
        made = await asyncio.to_thread(_record().made, name)
        key = await asyncio.to_thread(_key, os.environ)
        async with RunPodAccount(key, os.environ) as account:
            there = await look(account, made)
        return again(there, made), there, key

    def _show(
        self,
        plan: Plan,
        again: _Again,
        key: SecretStr,
        shown: dict[str, JsonValue],
        asked: dict[str, JsonValue] | None,
    ) -> dict[str, JsonValue]:
        plan_id, shown = uuid.uuid4().hex, cleaned_json(shown)
        self._plans[plan_id] = _Planned(plan_id, key, plan, again, shown, asked)
        while len(self._plans) > _MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        return {"plan": plan_id, "removes": asked is None, **shown}

    async def _carry_out(self, doing: _Doing) -> None:
        try:
            await self._all_of(doing)
        except ComfyRemoteError as error:
            doing.error = error_json(error)
        except Exception as error:  # noqa: BLE001 - else it would run for ever in the page
            _log.exception("RunPod: unforeseen")
            doing.error = error_json(
                DeploymentFailed(
                    f"Comfy Remote failed: {type(error).__name__}: {error}",
                    advice="This is a fault of Comfy Remote; the log has the traceback.",
                )
            )

    async def _all_of(self, doing: _Doing) -> None:
        planned, record = doing.planned, _record()
        steps: list[Step] = []

        def done(step: Step) -> None:
            steps.append(step)
            doing.done += 1

        removes = planned.asked is None
        try:
            key = await asyncio.to_thread(_key, os.environ)
            if key != planned.key:
                raise ConfigurationError(
                    "The RunPod account's key is another one than when this was planned. Nothing "
                    "was done.",
                    advice="Look at it again, and say yes then.",
                )
            async with RunPodAccount(key, os.environ) as account:
                deployed = await carry_out(
                    account, planned.plan, planned.again, record, done, self._times, planned.asked
                )
        finally:
            # What is removed has no target, even if the next step fails.
            if removes:
                gone = replace(planned.plan, steps=tuple(steps))
                doing.target = await self._own.changed(forget_target, planned.name, gone)
        if not removes:
            doing.target = await self._own.changed(
                remember_target, planned.name, deployed, first_is_default=True
            )
        await asyncio.to_thread(record.finished, planned.name)
        doing.notes = [note_json(one) for one in deployed.notes]
        if doing.target.name is None and doing.target.said:
            doing.notes.append(note_json(doing.target.said))


def under_way() -> list[str]:
    """What was begun in the page and is not done, as the record has it. Blocking."""
    return [one.name for one in _record().all() if one.asked is not None][-_MOST_SHOWN:]


def _made() -> list[JsonValue]:
    """What this machine has on record, the last one first."""
    own = Configuration.load().own_targets
    by_address = {settings.target: name for name, settings in own.items()}
    return [
        {
            "name": one.name,
            "endpoint": one.endpoint,
            "volume": one.volume,
            "target": by_address.get(f"runpod:{one.endpoint}"),
            "asked": one.asked,
        }
        for one in reversed(_record().all()[-_MOST_SHOWN:])
    ]


def _taken(there: There) -> set[str]:
    """Names that a new endpoint should not get."""
    marks = [mark_of(one) for one in there.endpoints]
    marks += [Mark.of_volume(one.name) for one in there.volumes]
    return {
        *Configuration.load().targets,
        *(one.name for one in _record().all()),
        *(one.name for one in marks if one is not None),
    }


def _check_target(plan: Plan) -> None:
    """See that the name is no other target's.

    Raises:
        ConfigurationError: It is.
    """
    settings = Configuration.load().own_targets.get(plan.mark.name)
    ids = [step.id for step in plan.steps if step.kind == "endpoint"]
    if settings is not None and settings.target not in [f"runpod:{one}" for one in ids if one]:
        raise ConfigurationError(
            f"You have another target {plan.mark.name!r} already.", advice="Choose another name."
        )


def _record() -> DeploymentRecord:
    return DeploymentRecord(home())


def _key(environment: Mapping[str, str]) -> SecretStr:
    key = secret(API_KEY_VARIABLE, environment)
    if key is None:
        raise ConfigurationError("The RunPod account's key is not known.", advice="Type the key.")
    return key
