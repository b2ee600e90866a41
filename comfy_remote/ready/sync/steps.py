"""What is to be done for each model of a plan, by which way, and why. Pure.

Node packs are in `packs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from ...errors import ModelUnavailable
from ...types import JsonValue
from ...units import about_text, size_text
from ...worker.models.folders import folder_of, is_model_name
from ..hashing import LocalModel
from ..lock import Address, LockedModel
from ..plan import Item, Plan, Standing
from .lines import repo_line

if TYPE_CHECKING:
    from .packs import ByHand, PackStep

__all__ = ["Here", "Speeds", "Step", "SyncPlan", "Way", "Ways", "steps_of"]

_ANY = "https://bucket/model"  # what stands for an address that is not known yet
_AT = 100_000_000 / 8  # bytes a second of a line of 100 Mbit/s


class Way(str, Enum):
    """How a model, or a node pack, comes to the target."""

    NONE = "none"
    """Nothing is to be done: it is there, or nobody can tell that it is not."""
    LINK = "link"
    """The same bytes are there under another name."""
    FETCH = "fetch"
    """The target fetches it from an address."""
    SEND = "send"
    """Sent from here to the gateway of the target, and placed by its worker."""
    VOLUME = "volume"
    """Sent from here to the network volume of the target. No worker is needed."""
    BUCKET = "bucket"
    """Sent from here to the user's bucket, and fetched from there by the worker."""
    INSTALL = "install"
    """Its worker installs a node pack, and tries it."""
    IMPOSSIBLE = "impossible"
    """There is no way."""

    @property
    def brings(self) -> bool:
        """Whether something is done by it."""
        return self not in (Way.NONE, Way.IMPOSSIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Which ways there are to a target, and why there is not another.

    Attributes:
        fetch: Why it cannot fetch, for people; empty if it can.
        link: Why it cannot link.
        send: Why nothing can be sent to it directly.
        install: Why it cannot install node packs.
        installs: How it can: ``registry``, ``git``.
        volume: The volume, for people; empty where none is set.
        bucket: The bucket, for people; empty where none is set.
        exact: Why nothing can be fetched into a folder whose name has capitals.
    """

    fetch: str = ""
    link: str = ""
    send: str = ""
    install: str = ""
    installs: frozenset[str] = frozenset({"registry", "git"})
    volume: str = ""
    bucket: str = ""
    exact: str = ""


@dataclass(frozen=True, slots=True)
class Here:
    """A model's file on this machine.

    Attributes:
        sha256: ``None`` if it has not been read.
    """

    file: LocalModel
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes a second, as earlier syncs to the target were; ``None`` where there were none."""

    sent: float | None = None
    fetched: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One model.

    Attributes:
        item: What is needed, and what is there.
        why: A clause: where from, or why it is impossible.
        address: For `Way.FETCH`.
        here: The file, for what is sent.
        size: Bytes that come to the target; 0 where it is linked; ``None`` if not known.
    """

    item: Item
    way: Way
    why: str = ""
    address: Address | None = None
    here: Here | None = None
    size: int | None = None

    @property
    def model(self) -> LockedModel:
        """What is needed."""
        needed = self.item.needed
        if not isinstance(needed, LockedModel):
            raise TypeError("a step is about a model")
        return needed

    @property
    def sent(self) -> int:
        """Bytes that are sent from here."""
        sends = self.way in (Way.SEND, Way.VOLUME, Way.BUCKET)
        return (self.size or 0) if sends else 0

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {
            "model": self.item.name,
            "standing": self.item.standing.value,
            "way": self.way.value,
            "why": self.why or self.item.why,
            "size": self.model.size if self.size is None else self.size,
            "sha256": self.model.sha256,
            "address": None if self.address is None else self.address.shown,
        }


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a sync would do.

    Attributes:
        plan: What is needed, and what is there; packs and ComfyUI as well.
        steps: One for each model that is needed, in the lock's order.
        packs: One for each node pack that is needed, likewise.
        by_hand: What somebody has before them who is to install packs there; ``None`` where none
            has to be.
        notes: What else to know before a yes: what costs, what is slow. Sentences.
    """

    plan: Plan
    steps: tuple[Step, ...]
    speeds: Speeds = Speeds()
    notes: tuple[str, ...] = field(default=())
    packs: tuple[PackStep, ...] = ()
    by_hand: ByHand | None = None

    @property
    def all_steps(self) -> list[Step | PackStep]:
        """The packs, then the models: what runs there may be what needs a model."""
        return [*self.packs, *self.steps]

    @property
    def to_do(self) -> list[Step | PackStep]:
        """Those by which something is changed."""
        return [one for one in self.all_steps if one.way.brings]

    @property
    def impossible(self) -> list[Step | PackStep]:
        """Those for which there is no way."""
        return [one for one in self.all_steps if one.way is Way.IMPOSSIBLE]

    @property
    def code(self) -> list[str]:
        """The node packs that would be installed, as an owner is asked to trust them."""
        return [one.named for one in self.packs if one.way is Way.INSTALL]

    def addresses(self, *, shown: bool = False) -> list[str]:
        """Those that the target would fetch from, as an owner is asked to trust them.

        Args:
            shown: Only those that the plan shows whole.
        """
        return [
            step.model.named(step.address)
            for step in self.steps
            if step.address is not None and (not shown or step.address.shown == step.address.url)
        ]

    @property
    def sent(self) -> int:
        """Bytes that are sent from here."""
        return sum(one.sent for one in self.steps)

    @property
    def fetched(self) -> int:
        """Bytes that the target fetches, as far as sizes are known."""
        return sum(one.size or 0 for one in self.steps if one.way is Way.FETCH)

    @property
    def seconds(self) -> float | None:
        """How long it may take, by the speed of earlier syncs; ``None`` if there were none."""
        total = 0.0
        for size, speed in ((self.sent, self.speeds.sent), (self.fetched, self.speeds.fetched)):
            if size and not speed:
                return None
            total += size / speed if speed else 0.0
        return total

    def time_words(self) -> str:
        """How long it may take, for people; empty where nothing is to come."""
        if not (self.sent or self.fetched):
            return ""
        known = self.seconds
        if known is not None:
            return f"about {about_text(known)}, at the speed of earlier syncs"
        words = []
        if self.sent:
            guess = about_text(self.sent / _AT)
            words.append(f"{guess} to send {size_text(self.sent)} on a line of 100 Mbit/s up")
        if self.fetched:
            words.append(f"the target's line decides how long it fetches {size_text(self.fetched)}")
        return "; ".join(words)

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs; the comparison is that of `check --lock`."""
        return {
            **self.plan.to_json(),
            "packs": [one.to_json() for one in self.packs],
            "models": [one.to_json() for one in self.steps],
            "bytes_to_send": self.sent,
            "bytes_to_fetch": self.fetched,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def steps_of(plan: Plan, ways: Ways, here: Mapping[str, Here]) -> list[Step]:
    """What is to be done for each model that is needed.

    Args:
        here: The files of this machine, by the model's `LockedModel.path`.
    """
    return [
        _step(one, ways, here.get(one.name))
        for one in plan.items
        if isinstance(one.needed, LockedModel)
    ]


def _step(item: Item, ways: Ways, here: Here | None) -> Step:
    model = item.needed
    if not isinstance(model, LockedModel) or item.standing in (Standing.THERE, Standing.UNKNOWN):
        return Step(item, Way.NONE)
    if item.standing is Standing.DIFFERENT:
        why = (
            f"{item.why}: it is not replaced. Rename or remove it there, or use another name"
            if item.why
            else "another file has that name there, and is not replaced"
        )
        return Step(item, Way.IMPOSSIBLE, why)
    if model.folder is None:
        return Step(item, Way.IMPOSSIBLE, "only its node's pack knows the folder it belongs in")
    if not is_model_name(model.name):
        return Step(item, Way.IMPOSSIBLE, "its name does not end as a model's file does")
    refused: list[str] = []
    if item.same_as is not None and model.sha256 is not None:
        if not ways.link:
            return Step(item, Way.LINK, f"{item.same_as} there is the same file", size=0)
        refused.append(ways.link)
    address = _best(model.addresses)
    # The bucket's way ends with a fetch, too.
    fetch = ways.fetch or _why_no_line(model, address) or _why_not_exact(model, ways)
    if address is not None and not fetch:
        checked = "" if model.sha256 else ", whose content cannot be checked"
        return Step(
            item, Way.FETCH, f"from {address.shown}{checked}", address=address, size=model.size
        )
    if address is not None:
        refused.append(fetch)
    if here is None:
        refused.append(
            "it is not on this machine"
            if address
            else "no address of it is known, and it is not on this machine"
        )
        return Step(item, Way.IMPOSSIBLE, "; ".join(dict.fromkeys(refused)))
    if model.sha256 and here.sha256 and model.sha256 != here.sha256:
        refused.append(f"the file here ({here.file.path}) has another content")
        return Step(item, Way.IMPOSSIBLE, "; ".join(dict.fromkeys(refused)))
    size = here.file.size
    if ways.volume:
        return Step(item, Way.VOLUME, f"to {ways.volume}", here=here, size=size)
    if not ways.send:
        return Step(item, Way.SEND, "from this machine", here=here, size=size)
    if ways.bucket and not fetch:
        return Step(item, Way.BUCKET, f"by {ways.bucket}", here=here, size=size)
    refused += [ways.send, fetch if ways.bucket else ""]
    return Step(item, Way.IMPOSSIBLE, "; ".join(dict.fromkeys(filter(None, refused))), here=here)


def _why_no_line(model: LockedModel, address: Address | None) -> str:
    try:
        repo_line(model, _ANY if address is None else address.url)
    except ModelUnavailable:
        return "a worker cannot be asked for a name with such characters"
    return ""


def _why_not_exact(model: LockedModel, ways: Ways) -> str:
    folder = folder_of(model.folder or "")
    return ways.exact if folder != folder.lower() else ""


def _best(addresses: Sequence[Address]) -> Address | None:
    """The first: what is surest comes first in a lock."""
    return next(iter(addresses), None)
