"""A plan of *Bring it to NAME*: shown in the page, and there until its yes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pydantic import JsonValue

from ..clean import cleaned_json
from ..jobs.client import Client
from ..ready.holding import what_to_do
from ..ready.lock import Lock, LockedModel, LockedPack
from ..ready.plan import Standing
from ..ready.sync.lacking import Planned
from ..ready.sync.packs import PackStep
from ..ready.sync.planning import Sources
from ..ready.sync.steps import Step, SyncPlan, Way
from .bring_state import Bring, Row

__all__ = ["ShownPlan"]

_OLD = 3600.0  # seconds
_FROM_WORKFLOW = "workflow"

_Step: TypeAlias = "Step | PackStep"


@dataclass
class ShownPlan:
    """A plan that was shown, and waits for a yes.

    Attributes:
        client: Of the target as it was asked: by now, its name may mean another one.
        sources: That it was made with.
        made: The plan itself.
        core: Classes of ComfyUI's own that are not there.
        agreed: What has had its yes before, as `_agreed_to` says it.
        brings: What came of the yes.
    """

    target: str
    client: Client
    sources: Sources
    made: Planned
    core: list[str]
    agreed: frozenset[str]
    brings: Bring | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _made_at: float = field(default_factory=time.monotonic)

    @property
    def is_old(self) -> bool:
        """Whether the target may have changed since."""
        return time.monotonic() - self._made_at > _OLD

    def chosen(self, numbers: Collection[int]) -> list[_Step]:
        """The steps of some numbers that change something."""
        steps = enumerate(self.made.plan.all_steps)
        return [one for number, one in steps if number in numbers and one.way.brings]

    def only(self, chosen: Collection[_Step]) -> SyncPlan:
        """The plan with nothing but what was chosen."""
        return replace(
            self.made.plan,
            steps=tuple(one for one in chosen if isinstance(one, Step)),
            packs=tuple(one for one in chosen if isinstance(one, PackStep)),
        )

    def begun(self, chosen: Collection[_Step]) -> Bring:
        """What was chosen, as it begins."""
        rows = [Row(one.item.kind, one.item.name, one.size, one.way.value) for one in chosen]
        agreed = frozenset(map(_agreed_to, chosen))
        return Bring(uuid.uuid4().hex, self.target, self._lock_of(chosen), agreed, rows)

    def _lock_of(self, chosen: Collection[_Step]) -> Lock:
        """What is needed of what was chosen: all that is left, should it be interrupted."""
        needed = [one.item.needed for one in chosen]
        return self.made.lock.model_copy(
            update={
                "models": tuple(one for one in needed if isinstance(one, LockedModel)),
                "packs": tuple(one for one in needed if isinstance(one, LockedPack)),
                "workflows": (),
            }
        )

    def to_json(self) -> JsonValue:
        """For the page: see docs/routes.md."""
        plan = self.made.plan
        return cleaned_json(
            {
                "id": self.id,
                "target": self.target,
                "steps": [
                    self._step_json(number, one)
                    for number, one in enumerate(plan.all_steps)
                    if one.way is not Way.NONE
                ],
                "core": list(self.core),
                "speeds": {"sent": plan.speeds.sent, "fetched": plan.speeds.fetched},
                "notes": list(plan.notes),
            }
        )

    def _step_json(self, number: int, step: _Step) -> JsonValue:
        """One that would change something, or cannot.

        Chosen by itself is only what comes from the owner, or was agreed to before: a stranger's
        workflow may name any address, the hash of any file, and any code.
        """
        item, by_hand = step.item, ""
        if step.way is Way.IMPOSSIBLE and item.standing is Standing.MISSING:
            by_hand = what_to_do(item)
        described: dict[str, JsonValue] = {
            "number": number,
            "kind": item.kind,
            "name": item.name,
            "standing": item.standing.value,
            "way": step.way.value,
            "why": step.why or item.why,
            "what_to_do": by_hand,
            "chosen": step.way.brings and (self._is_own(step) or _agreed_to(step) in self.agreed),
        }
        if isinstance(step, PackStep):
            pin = None if step.wanted is None else str(step.wanted)
            source: dict[str, JsonValue] = {"size": None, "address": pin, "by": None}
            return {**described, **source, "commands": list(step.commands)}
        shown = step.to_json()
        by = None if step.address is None else step.address.by
        return {
            **described,
            "size": shown["size"],
            "address": shown["address"],
            "by": by,
            "commands": [],
        }

    def _is_own(self, step: _Step) -> bool:
        """Whether what a step brings is the owner's, and nothing that only a workflow names."""
        if isinstance(step, PackStep):
            return False
        if step.address is None and step.way is not Way.LINK:
            return True  # a file of this machine
        named = step.address is not None and step.address.by == _FROM_WORKFLOW
        return not named and step.model.path in self.made.own


def _agreed_to(step: _Step) -> str:
    """What a yes to a step is to: code, an address, or a file by its hash."""
    if isinstance(step, PackStep):
        return step.named
    if step.address is not None:
        return step.model.named(step.address)
    return f"model {step.model.path}: {step.model.sha256}"
