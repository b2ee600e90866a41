"""What is to be done for each node pack of a plan, by which way, and why. Pure.

A pack is code. Only exactly what a lock names is installed: a commit, or a version of the Comfy
Registry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from ...types import JsonValue
from ...wire.nodes import PackWanted
from ..lock import LockedComfyUI, LockedPack
from ..pins import Unpinned, named_pin, pin_of
from ..plan import Item, Plan, Standing
from .steps import Way, Ways

__all__ = ["ByHand", "PackStep", "pack_steps_of", "update_commands"]

_MOST = 200
"""Packs of one `wire.nodes.NodesRequest`."""


class ByHand(str, Enum):
    """What somebody who is to install a pack there has before them."""

    COMFYUI = "comfyui"
    """A ComfyUI, with its folder and its Python."""
    WORKER = "worker"
    """A worker of ours whose owner has not allowed it, or that has no folder for it."""
    RUNPOD = "runpod"
    """An endpoint of RunPod whose image is not ours, or that does not allow it."""
    MODAL = "modal"
    """An app on Modal: an image that is built from a project."""
    SANDBOX = "sandbox"
    """The sandbox: it has nodes of its own, and takes no packs."""
    OTHER = "other"
    """A service, whose provider decides what is installed."""


@dataclass(frozen=True, slots=True)
class PackStep:
    """One node pack.

    Attributes:
        item: What is needed, and what is there.
        way: `Way.INSTALL`, `Way.NONE` or `Way.IMPOSSIBLE`.
        why: A clause: what is installed, or why it is impossible.
        wanted: Exactly which code; ``None`` if the lock does not say.
        commands: For a shell in the folder of the ComfyUI there, where it has to be done by hand.
    """

    item: Item
    way: Way
    why: str = ""
    wanted: PackWanted | None = None
    commands: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes that come to the target: not known."""
        return None

    @property
    def named(self) -> str:
        """What its owner is asked to trust; empty where nothing can be installed."""
        return "" if self.wanted is None else named_pin(self.wanted)

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {
            "pack": self.item.name,
            "standing": self.item.standing.value,
            "way": self.way.value,
            "why": self.why or self.item.why,
            "install": None if self.wanted is None else str(self.wanted),
            "commands": list(self.commands),
        }


def pack_steps_of(
    plan: Plan, ways: Ways, *, by_hand: ByHand, ours: Collection[str] = ()
) -> list[PackStep]:
    """What is to be done for each pack that is needed.

    Args:
        by_hand: What there is where no worker can do it.
        ours: The folders there of packs that an earlier sync has installed: those can be replaced.
    """
    steps: list[PackStep] = []
    folders: dict[str, str] = {}
    count = 0
    for item in plan.items:
        if not isinstance(item.needed, LockedPack):
            continue
        step = _step(item, ways, by_hand, ours)
        if step.way is Way.INSTALL and step.wanted is not None:
            taken = folders.setdefault(step.wanted.name.casefold(), item.name)
            count += taken == item.name
            if taken != item.name:
                why = f"{taken}, which the lock names as well, gets the same folder"
                step = PackStep(item, Way.IMPOSSIBLE, why, step.wanted)
            elif count > _MOST:
                why = f"{_MOST} packs are installed at the most: the same command again, after them"
                step = PackStep(item, Way.IMPOSSIBLE, why, step.wanted)
        steps.append(step)
    return steps


def _step(item: Item, ways: Ways, by_hand: ByHand, ours: Collection[str]) -> PackStep:
    pack = item.needed
    if not isinstance(pack, LockedPack) or item.standing in (Standing.THERE, Standing.UNKNOWN):
        return PackStep(item, Way.NONE)
    found = item.found
    replaced = found is not None and found.name in ours
    try:
        wanted = pin_of(pack) if ways.install else pin_of(pack, ways.installs)
    except Unpinned as error:
        return PackStep(item, Way.IMPOSSIBLE, _joined(item.why, str(error)))
    if ways.install:
        commands = commands_for(wanted, found.name if found is not None else None)
        shown = commands if by_hand is ByHand.COMFYUI else ()
        return PackStep(item, Way.IMPOSSIBLE, _joined(item.why, ways.install), wanted, shown)
    if found is not None and not replaced:
        why = f"it is not replaced: update {found.name} there, or take it out of custom_nodes"
        return PackStep(item, Way.IMPOSSIBLE, _joined(item.why, why), wanted)
    instead = " instead" if replaced else ""
    return PackStep(item, Way.INSTALL, _joined(item.why, f"{_shown(wanted)}{instead}"), wanted)


def commands_for(wanted: PackWanted, folder: str | None = None) -> tuple[str, ...]:
    """How to install a pack in the folder of a ComfyUI, a line each.

    What is in them has been checked: ids, versions, commits and addresses without a space, a quote
    or another character that a shell reads.

    Args:
        folder: The one in ``custom_nodes`` that another version of it is in.
    """
    if not wanted.by_commit:
        return (f"comfy node install {wanted}",)
    if wanted.in_registry:  # whose repository is for the registry to say
        return ()
    path = f"custom_nodes/{wanted.name}"
    get = f"git clone {wanted.source} {path}"
    if folder == wanted.name:
        get = f"git -C {path} fetch {wanted.source} {wanted.version}"
    return (
        get,
        f"git -C {path} checkout {wanted.version}",
        f"python -m pip install -r {path}/requirements.txt",
    )


def update_commands(plan: Plan) -> tuple[str, ...]:
    """How to have the ComfyUI of a lock in the folder of another one, a line each; none where it
    is the same, or the lock names no release.
    """
    for item in plan.problems:
        if isinstance(item.needed, LockedComfyUI):
            release = item.needed.release
            if release is not None:
                return (
                    "git fetch --tags",
                    f"git checkout v{release}",
                    "python -m pip install -r requirements.txt",
                )
    return ()


def _shown(wanted: PackWanted) -> str:
    if wanted.in_registry:
        return f"{wanted} of the Comfy Registry"
    return f"commit {wanted.version} of {wanted.source}"


def _joined(*clauses: str) -> str:
    return "; ".join(filter(None, clauses))
