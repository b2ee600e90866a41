"""What ``comfy-remote sync`` shows: the plan's table and sentences, and how far a step is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..units import about_text, ago_text, counted, size_text
from .console import print_json, print_table, say, say_lines
from .sync_leftovers import leftover_words

if TYPE_CHECKING:
    from pathlib import Path

    from ..ready.plan import Item
    from ..ready.sync.carrying import Ended, Moved
    from ..ready.sync.packs import PackStep
    from ..ready.sync.steps import Step, SyncPlan

__all__ = ["ended_words", "log_lines", "moved_words", "print_brought", "print_plan"]

_WAYS = {
    "none": "",
    "link": "link there",
    "fetch": "fetch there",
    "send": "send",
    "volume": "send",
    "bucket": "send",
    "install": "install there",
    "impossible": "cannot",
}
_WORDS = {"only_there": "only there"}
_MOST_COMMANDS = 60  # lines of them
_LAST_LINES = 8  # of the log of what failed
_MOST_SAID = 20  # reasons
_MOST_NAMED = 3  # names with one reason
_BY_HAND = {
    "comfyui": "By hand, in a shell in the folder of the ComfyUI there, where python is ComfyUI's "
    "own (omit the pip line for a pack without a requirements.txt). Then restart ComfyUI:",
    "worker": "Its owner can allow node packs: ALLOW_NODE_INSTALL=true in the worker's "
    "environment.",
    "runpod": "With our image and a network volume, ALLOW_NODE_INSTALL=true in the endpoint's "
    "environment allows it: comfy-remote deploy runpod --name NAME --env ALLOW_NODE_INSTALL=true. "
    "If no worker has said yet what it has, comfy-remote nodes list --on {target} starts one, and "
    "{command} --on {target} --nodes asks it. Otherwise, put them into its image: {command} "
    "--dockerfile writes the Dockerfile.",
    "modal": "On Modal, node packs go into the app's image: comfy-remote deploy modal WORKFLOW "
    "--app NAME --lock LOCK",
    "sandbox": "The sandbox has its own nodes, and takes no node packs.",
    "other": "Its provider decides which node packs are there.",
}


def print_plan(
    plan: SyncPlan, *, kinds: frozenset[str], everything: bool, command: Sequence[str | Path]
) -> None:
    """Print the table, and say what comes of it.

    Args:
        kinds: ``pack`` and ``model``, or one of them.
        everything: Whether what is only there is shown.
        command: The one that was typed, with what is needed, without options.
    """
    from rich.table import Column

    from ..ready.plan import Standing

    others = [
        item
        for item in plan.plan.items
        if (item.kind == "comfyui" and "pack" in kinds and item.name != "ComfyUI")
        or (item.standing is Standing.ONLY_THERE and everything and item.kind in kinds)
    ]
    rows = [
        *(_other_row(one) for one in others if one.kind != "model"),
        *(_pack_row(one) for one in plan.packs),
        *(_row(one) for one in plan.steps),
        *(_other_row(one) for one in others if one.kind == "model"),
    ]
    # A yes is to an address: none is cut where another begins like it.
    whole = bool(plan.addresses())
    print_table(
        ("", "Name", Column("Size", justify="right"), "Is", "Way", "Why"),
        rows,
        may_be_cut=() if whole else ("Why",),
        sentences=("Why",),
    )
    for line in _summary(plan):
        say(line)
    _say_by_hand(plan, command)
    _say_code(plan)


def _row(step: Step) -> tuple[str, ...]:
    from ..ready.holding import what_to_do
    from ..ready.plan import Standing

    size = step.model.size if step.model.size is not None else step.size
    why = step.why or step.item.why
    can_be_had = bool(step.model.addresses) or step.here is not None
    if step.way.value == "impossible" and step.item.standing is Standing.MISSING and can_be_had:
        why = f"{why}. {what_to_do(step.item)}"
    return (
        "model",
        step.item.name,
        "" if size is None else size_text(size),
        step.item.standing.value,
        _WAYS[step.way.value],
        why,
    )


def _pack_row(step: PackStep) -> tuple[str, ...]:
    from ..ready.holding import what_to_do

    by_hand = step.way.value == "impossible"
    way = "by hand" if by_hand else _WAYS[step.way.value]
    why = step.why or step.item.why
    if by_hand and step.wanted is not None:
        why = f"{why}. {what_to_do(step.item)}"
    return ("pack", step.item.name, "", step.item.standing.value, way, why)


def _other_row(item: Item) -> tuple[str, ...]:
    from ..ready.holding import what_to_do

    size = "" if item.size is None else size_text(item.size)
    standing = _WORDS.get(item.standing.value, item.standing.value)
    advice = what_to_do(item) if item.keeps_from_running else ""
    why = "; ".join(filter(None, [item.why, advice.rstrip(".")]))
    way = "by hand" if item.keeps_from_running else ""
    return (item.kind, item.name, size, standing, way, why)


def _summary(plan: SyncPlan) -> list[str]:
    lines = []
    if plan.to_do:
        parts = []
        if plan.sent:
            parts.append(f"{size_text(plan.sent)} are sent from here")
        if plan.fetched:
            parts.append(f"the target fetches {size_text(plan.fetched)}")
        what = f": {', '.join(parts)}" if parts else ""
        lines.append(f"{_counted(plan.to_do)} can be brought to {plan.plan.target}{what}.")
        if words := plan.time_words():
            lines.append(f"Time: {words}.")
    if plan.impossible:
        lines.append(f"{_counted(plan.impossible)} cannot be brought.")
        lines += _reasons(plan.impossible)
    return [*lines, *plan.notes]


def _reasons(impossible: Sequence[Step | PackStep]) -> list[str]:
    """Why there is no way, once for all of one reason: the table may have no room for it."""
    names: dict[str, list[str]] = {}
    for step in impossible:
        why = (step.why or step.item.why).removeprefix(f"{step.item.why}; ")
        names.setdefault(why, []).append(step.item.name)
    lines = [f"{_some(those)}: {why}." for why, those in names.items()]
    if (more := len(lines) - _MOST_SAID) > 0:
        lines[_MOST_SAID:] = [f"… and {more} more reasons, in the table."]
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _counted(steps: Sequence[Step | PackStep]) -> str:
    from ..ready.sync.packs import PackStep

    packs = sum(isinstance(one, PackStep) for one in steps)
    models = len(steps) - packs
    parts = [counted(packs, "node pack")] if packs else []
    return " and ".join([*parts, *([counted(models, "model")] if models else [])])


def _say_by_hand(plan: SyncPlan, command: Sequence[str | Path]) -> None:
    """What to do about the packs for which there is no way, at this kind of target."""
    from ..ready.sync.packs import update_commands

    unpinned = [one for one in plan.packs if one.way.value == "impossible" and not one.wanted]
    if unpinned:
        say("Or name it here, exactly: --pack NAME@VERSION, or --pack URL@COMMIT.")
    if plan.by_hand is None:
        return
    first, *named = map(str, command)
    typed = " ".join([first, *(f'"{one}"' if " " in one else one for one in named)])
    commands = [line for one in plan.packs for line in one.commands]
    if plan.by_hand.value == "comfyui":
        commands = [*update_commands(plan.plan), *commands]
        if not commands:
            return
    say(_BY_HAND[plan.by_hand.value].format(command=typed, target=plan.plan.target))
    for line in commands[:_MOST_COMMANDS]:
        say_lines(f"  {line}")
    if len(commands) > _MOST_COMMANDS:
        say(f"  … and {len(commands) - _MOST_COMMANDS} more lines, which --json has.")


def _say_code(plan: SyncPlan) -> None:
    """Each pack that would be installed, whole: a yes is to what is named."""
    wanted = [one.wanted for one in plan.packs if one.way.value == "install" and one.wanted]
    if wanted:
        say(f"A node pack is code. This would run on {plan.plan.target}:")
        for one in wanted:
            say_lines(f"  {one}")


def moved_words(one: Moved) -> str:
    """How far a step is."""
    name = one.step.item.name
    if one.step.way.value == "install":
        return f"node packs: {one.message}"
    if one.done is None or one.total is None:
        return f"{name}: {one.message}"
    return f"{name}: {size_text(one.done)} of {size_text(one.total)} sent"


def ended_words(one: Ended) -> str:
    """What became of a step."""
    name = one.step.item.name
    if one.error is not None:
        return f"{name}  failed: {one.error}"
    words = {"there": "was there already", "linked": f"linked to {one.step.item.same_as}"}
    how = words.get(one.how, one.how)
    size = one.step.size
    facts = f", {size_text(size)} in {about_text(one.seconds)}" if size else ""
    if how == "installed":
        facts = f" and tried, {about_text(one.seconds)} in all"
    return f"{name}  {how}{facts}"


def log_lines(one: Ended) -> list[str]:
    """The last lines of the program that failed there, if one did and they say more than its error
    does.
    """
    lines = str(one.error.details.get("log", "") if one.error is not None else "").splitlines()
    return [f"  | {line}" for line in lines[-_LAST_LINES:]] if len(lines) > 1 else []


def print_brought(on: str | None, *, json_lines: bool) -> None:
    """Print what was brought from here."""
    from rich.table import Column

    from ..config.folders import home
    from ..ready.sync.brought import BroughtRecord

    record = BroughtRecord(home())
    found = record.all(on)
    if json_lines:
        for one in found:
            print_json(one.to_json())
        return
    for left in record.unfinished():
        say(f"Left in storage (--give-up removes it): {leftover_words(left, time.time())}")
    if not found:
        say("Nothing was brought from here.")
        return
    now = time.time()
    rows = [
        (
            *(ago_text(now - one.at), one.target, one.model),
            *("" if one.size is None else size_text(one.size), one.way),
        )
        for one in found
    ]
    print_table(("When", "Target", "What", Column("Size", justify="right"), "How"), rows)
