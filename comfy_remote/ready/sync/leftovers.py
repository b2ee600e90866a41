"""What earlier syncs have left in storage, and how it is given up.

An upload that has begun keeps its parts in a volume or a bucket, and a copy that no worker has
fetched lies in the bucket; a bucket's owner pays for both. They stay for the next try, which goes
on from there, until somebody says that there will be none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ComfyRemoteError
from ...types import JsonValue
from .brought import BroughtRecord, Unfinished
from .stores import BucketStore, VolumeStore

__all__ = ["GivenUp", "Leftover", "give_up", "leftovers"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One of them.

    Attributes:
        store: Where it is; ``None`` if no setting names that volume or bucket.
    """

    left: Unfinished
    store: VolumeStore | BucketStore | None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What became of one.

    Attributes:
        why: Why it was not given up, for people; empty if it was.
    """

    left: Unfinished
    why: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {**self.left.to_json(), "given_up": not self.why, "why": self.why}


def leftovers(record: BroughtRecord, stores: Iterable[VolumeStore | BucketStore]) -> list[Leftover]:
    """All of them, the oldest first. Blocking."""
    known = list(stores)
    return [
        Leftover(one, next((store for store in known if store.has(one.destination)), None))
        for one in record.unfinished()
    ]


async def give_up(found: Sequence[Leftover]) -> list[GivenUp]:
    """Parts of uploads go, and copies in a bucket; what is whole on a volume stays."""
    # One by one: destinations may share a lock.
    return [await _one(each) for each in found]


async def _one(each: Leftover) -> GivenUp:
    if each.store is None:
        return GivenUp(each.left, "no target's settings name that volume or bucket")
    try:
        if not await each.store.give_up(each.left.destination):
            return GivenUp(each.left, "a sync on this machine is sending it: stop that first")
    except ComfyRemoteError as error:
        return GivenUp(each.left, str(error))
    return GivenUp(each.left)
