"""A target held to a lock: what is missing or different there, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..advice import Hint
from ..errors import LockNotMet
from ..targets.base import Target
from ..types import JsonValue
from ..units import size_text
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .lock import Lock, LockedComfyUI, LockedModel, LockedPack
from .needs import Needs
from .plan import Item, Plan, Standing, compare
from .there import all_there

__all__ = ["Held", "hold", "not_in_lock", "what_to_do"]

_SHOWN = 5  # names in a sentence


@dataclass(frozen=True, slots=True)
class Held:
    """A target, held to a lock.

    Attributes:
        plans: One for each target that may run it: several for a route.
    """

    plans: tuple[Plan, ...]

    @property
    def problems(self) -> list[tuple[Plan, Item]]:
        """What is missing or different, and where."""
        return [(plan, item) for plan in self.plans for item in plan.problems]

    @property
    def doubts(self) -> list[str]:
        """What the targets, or the lock, do not say, in sentences: one for each reason."""
        found: list[str] = []
        for plan in self.plans:
            by_reason: dict[str, list[str]] = {}
            for item in plan.of(Standing.UNKNOWN):
                by_reason.setdefault(item.why, []).append(item.name)
            for why, names in by_reason.items():
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                found.append(
                    f"{plan.target} is not held to {', '.join(names[:_SHOWN])}{more}: {why}."
                )
        return found

    def to_json(self) -> dict[str, JsonValue]:
        """``{"fits", "plans", "unknown"}``, for programs."""
        return {
            "fits": not self.problems,
            "plans": [plan.to_json() for plan in self.plans],
            "unknown": list(self.doubts),
        }

    def lines(self) -> list[str]:
        """What is missing or different, and what to do about each, a line each."""
        several = len(self.plans) > 1
        return [
            f"{f'{plan.target}: ' if several else ''}{item.sentence} {what_to_do(item)}".strip()
            for plan, item in self.problems
        ]

    def refuse(self, name: str) -> None:
        """Nothing, if every target is what the lock says.

        Args:
            name: What to call the lock.

        Raises:
            LockNotMet: One is not. Each thing is a line of the message, with what to do.
        """
        if not self.problems:
            return
        names = ", ".join(dict.fromkeys(plan.target for plan, _ in self.problems))
        raise LockNotMet(
            "\n".join([f"{names} is not what {name} says, so nothing was sent:", *self.lines()]),
            advice=Hint.LOCK_NOT_MET(),
            details={
                "problems": [
                    {"target": plan.target, **item.to_json(), "what_to_do": what_to_do(item)}
                    for plan, item in self.problems
                ]
            },
        )


async def hold(lock: Lock, target: Target) -> Held:
    """Compare a lock with what a target has; with what each member of a route has.

    Raises:
        ComfyRemoteError: A target could not be asked.
    """
    return Held(tuple(compare(lock, there) for there in await all_there(target, lock)))


def what_to_do(item: Item) -> str:
    """What to do about something that is missing or different, in words for everybody."""
    match item.needed:
        case LockedComfyUI(version=version):
            return f"Install ComfyUI {version} there."
        case LockedPack() as pack:
            return _install(pack)
        case LockedModel() as model if item.same_as is not None:
            return f"Copy or link {item.same_as} to models/{model.path} there."
        case LockedModel() as model:
            size = f" ({size_text(model.size)})" if model.size is not None else ""
            if model.addresses:
                first = model.addresses[0]
                rest = "" if first.shown == first.url else " (the rest of the address: in the lock)"
                return f"Put it into models/{model.path} there{size}: {first.shown}{rest}"
            return f"Copy it to models/{model.path} there{size}; no address of it is known."
        case _:
            return ""


def _install(pack: LockedPack) -> str:
    if pack.commit and pack.url:
        return f"Check out commit {pack.commit} of {pack.url} there."
    if pack.id and pack.version:
        return f"Install version {pack.version} of it there, from the Comfy Registry."
    if known := pack.url or pack.id:
        return f"Install {known} there."
    if pack.folder:
        return f"Copy its folder, {pack.folder}, to custom_nodes there."
    return "Find out which pack has it, and install that there."


def not_in_lock(
    lock: Lock,
    prompt: Prompt,
    *,
    schemas: Schemas,
    workflow: Mapping[str, JsonValue] | None = None,
) -> list[str]:
    """What a workflow uses and a lock does not name, for people: models, node classes.

    The workflow may have been changed since, or the lock may be another one's.
    """
    needs = Needs()
    needs.add("", prompt, workflow, schemas)
    classes = {name for pack in lock.packs for name in pack.classes}
    models = {(one.name, one.folder) for one in lock.models}
    names = {name for name, _ in models}
    stems = {PurePosixPath(name).stem for name, folder in models if folder == "embeddings"}
    missing = [name for name in needs.classes if name not in classes]
    for name, folder in needs.models:
        known = (name, folder) in models or (folder is None and name in names)
        if not known and not (folder == "embeddings" and PurePosixPath(name).name in stems):
            missing.append(f"{folder}/{name}" if folder else name)
    return missing
