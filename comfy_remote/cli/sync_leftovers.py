"""``comfy-remote sync --give-up``: removes what interrupted syncs left in storage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..units import ago_text, size_text
from .asking import may_go_on
from .console import print_json, printable_line, say

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..ready.sync.brought import BroughtRecord, Unfinished
    from ..ready.sync.leftovers import GivenUp, Leftover
    from ..ready.sync.stores import BucketStore, VolumeStore

__all__ = ["give_up_leftovers", "leftover_words"]


def give_up_leftovers(
    configuration: Configuration,
    on: str | None,
    volume: str | None,
    *,
    plan_only: bool,
    yes: bool,
    json_lines: bool,
) -> bool:
    """Show what has begun and is not complete, and give it up after a yes.

    Args:
        on: Only what is in the storage of this target; all of it by default.
        volume: A network volume that no target's settings name.

    Returns:
        Whether all of it is given up.
    """
    from ..config.folders import home
    from ..ready.sync.brought import BroughtRecord
    from ..ready.sync.leftovers import GivenUp, give_up, leftovers
    from .interrupt import run_interruptible

    record = BroughtRecord(home())
    found = leftovers(record, _stores(configuration, on, volume, record))
    if on is not None:
        found = [one for one in found if one.store is not None]
    if not json_lines:
        _print(found)
    if plan_only or not found:
        for one in found if json_lines else ():
            print_json(_line(GivenUp(one.left, "it was only listed")))
        return True
    if not may_go_on(yes):
        return True
    ended = run_interruptible(give_up(found))
    for each in ended:
        if json_lines:
            print_json(_line(each))
        elif each.why:
            say(f"{printable_line(each.left.destination)}: not given up: {each.why}")
    given = sum(not each.why for each in ended)
    say(f"{given} of {len(ended)} given up.")
    return given == len(ended)


def leftover_words(left: Unfinished, now: float) -> str:
    """One of them, for people."""
    what = (
        f"{size_text(left.size)}, not yet removed"
        if left.is_complete
        else f"{size_text(left.sent)} of {size_text(left.size)} sent"
    )
    return f"{left.destination}  {what}, begun {ago_text(now - left.began)}"


def _print(found: list[Leftover]) -> None:
    if not found:
        say("No interrupted sync has left anything in storage.")
        return
    now = time.time()
    for one in found:
        print(printable_line(leftover_words(one.left, now)))
    say(
        "Parts that were sent are removed, and copies in a bucket. What is whole on a volume stays."
    )


def _line(one: GivenUp) -> dict[str, object]:
    return {"version": 1, "event": "sync_given_up", **one.to_json()}


def _stores(
    configuration: Configuration, on: str | None, volume: str | None, record: BroughtRecord
) -> list[VolumeStore | BucketStore]:
    """The storage of one target, or of all that are configured and trusted."""
    from ..config.target_settings import TargetSettings
    from ..errors import ConfigurationError
    from ..ready.sync.stores import bucket_store, volume_store

    if on is None:
        settings = [*configuration.own_targets.values(), *configuration.targets.values()]
    else:
        settings = [configuration.settings_of(on) or TargetSettings(on)]
    volumes = dict.fromkeys(filter(None, [volume, *(one.volume for one in settings)]))
    buckets = dict.fromkeys([*(one.bucket for one in settings), None])
    stores: list[VolumeStore | BucketStore] = []
    for text in volumes:
        try:
            stores.append(volume_store(text, record))
        except ConfigurationError as error:
            say(f"warning: {error}")
    for address in buckets:
        try:
            bucket = bucket_store(address, record)
        except ConfigurationError as error:
            say(f"warning: {error}")
        else:
            stores += [] if bucket is None else [bucket]
    return stores
