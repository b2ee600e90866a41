"""What a plan is: its steps, what each costs, and what is sent for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ...types import JsonValue
from ...wire.runpod_endpoints import EndpointRequest
from ...wire.runpod_volumes import RestVolume, VolumeGrowth, VolumeRequest
from .mark import Mark

__all__ = ["Does", "Plan", "Request", "Step"]

Request: TypeAlias = "VolumeRequest | VolumeGrowth | EndpointRequest"


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
        kind: ``volume``, ``endpoint``, or ``target``: that of an endpoint that is gone.
        id: Of what is there; of a target, its endpoint's.
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

    @property
    def removes(self) -> bool:
        """Whether there is to be no endpoint."""
        return all(one.kind != "endpoint" or one.does is Does.REMOVE for one in self.steps)

    def does_the_same(self, other: Plan) -> bool:
        """Whether another plan, of a moment later, does what this one does."""

        def done(plan: Plan) -> list[tuple[object, ...]]:
            return [(one.does, one.kind, one.id, one.request) for one in plan.steps]

        return done(self) == done(other) and self.mark == other.mark

    def costs_the_same(self, other: Plan) -> bool:
        """Whether another plan that does the same has the same prices."""
        costs, others = (
            [(one.cost, one.per_month) for one in plan.steps] for plan in (self, other)
        )
        return costs == others

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
