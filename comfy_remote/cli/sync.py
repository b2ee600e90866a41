"""``comfy-remote sync``: brings the models that workflows need to a target."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..units import about_text, ago_text, counted, size_text
from .asking import may_go_on
from .console import print_json, printable_line, say
from .options import (
    WORKFLOW,
    json_schema_option,
    load_typed,
    lock_option,
    target_option,
    typed_name,
)
from .progress_line import Throttle, progress_shown
from .sync_leftovers import give_up_leftovers, leftover_words

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..ready.lock import Lock
    from ..ready.plan import Item
    from ..ready.sync.carrying import Ended, Moved
    from ..ready.sync.planning import Sources
    from ..ready.sync.steps import Step, SyncPlan

__all__ = ["sync"]

_FAILED = 5
_WAYS = {
    "none": "",
    "link": "link there",
    "fetch": "fetch there",
    "send": "send",
    "volume": "send",
    "bucket": "send",
    "impossible": "cannot",
}
_WORDS = {"only_there": "only there"}


@click.command()
@click.argument("workflows", metavar="[WORKFLOW]...", type=WORKFLOW, nargs=-1)
@target_option("The target to bring them to. Default: the configured one; see `targets`.")
@lock_option("--lock", "Bring what this lock names, instead of what workflows need.")
@click.option("--models", "models_only", is_flag=True, help="Show and bring models only.")
@click.option("--plan", "plan_only", is_flag=True, help="Only show what would be done.")
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option(
    "--all", "everything", is_flag=True, help="Also show what is on the target and not needed."
)
@click.option(
    "--comfyui",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The ComfyUI on this machine whose models may be sent. Default: COMFYUI_DIR, else the "
    "one that is found.",
)
@click.option(
    "--volume",
    metavar="ID@DC",
    help="The RunPod network volume to send them to, as VOLUME_ID@DATACENTER: by its S3 API, "
    "without a worker. Default: the target's `volume`.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="With workflows: do not ask Hugging Face, Civitai and the Comfy Registry for what is "
    "needed.",
)
@click.option(
    "--brought", "list_brought", is_flag=True, help="List what was brought from here, and exit."
)
@click.option(
    "--give-up",
    "gives_up",
    is_flag=True,
    help="Instead: remove what stopped syncs have left in volumes and buckets, which they would go "
    "on with; with --on, in those of that target.",
)
@click.option("--json", "json_lines", is_flag=True, help="Print JSON lines.")
@json_schema_option
@click.pass_context
def sync(
    context: click.Context,
    workflows: tuple[Path, ...],
    on: str | None,
    lock_file: Path | None,
    models_only: bool,
    plan_only: bool,
    yes: bool,
    everything: bool,
    comfyui: Path | None,
    volume: str | None,
    offline: bool,
    list_brought: bool,
    gives_up: bool,
    json_lines: bool,
) -> None:
    """Bring the models that workflows need to a target: shown first, done after a yes.

    Each model takes the best way that there is: linked, if the same bytes are there under another
    name; fetched by the target, if an address is known; else sent from this machine. Node packs are
    compared, not installed. Nothing on the target is replaced or removed, and the same command
    again goes on where this one stopped.

    Exit status: 5 if a model could not be brought, else 0; with --plan always 0.

    \b
    Examples:
      comfy-remote sync workflow.json --on gpu --plan
      comfy-remote sync --lock comfy-remote.lock --on gpu
      comfy-remote sync workflow.json --on http://192.168.1.20:8188 --plan
      comfy-remote sync --on gpu --brought
      comfy-remote sync --give-up --plan
    """
    from ..config.settings import Configuration

    configuration = Configuration.load()
    if list_brought:
        _print_brought(on, json_lines=json_lines)
        return
    if plan_only and yes:
        raise click.UsageError("--plan changes nothing, so there is nothing to say --yes to.")
    if gives_up:
        if workflows or lock_file is not None:
            raise click.UsageError("--give-up takes no workflows and no lock.")
        given_up = give_up_leftovers(
            configuration, on, volume, plan_only=plan_only, yes=yes, json_lines=json_lines
        )
        if not given_up:
            context.exit(_FAILED)
        return
    if bool(workflows) == (lock_file is not None):
        raise click.UsageError("Name workflows, or a lock with --lock.")
    sources = _sources(configuration, on, comfyui, volume)
    lock = _lock(workflows, lock_file, comfyui, offline=offline, json_lines=json_lines)
    plan = _planned(lock, configuration, on, sources)
    if json_lines:
        print_json({"version": 1, "event": "sync_plan", **plan.to_json()})
    else:
        _print(plan, models_only=models_only, everything=everything)
    if plan_only:
        return
    ended: list[Ended] = []
    if not plan.to_do:
        say("There is nothing to do." if not plan.impossible else "Nothing can be brought.")
    elif may_go_on(yes):
        ended = _carried_out(plan, configuration, on, sources, json_lines=json_lines)
    else:
        return
    failed = [one for one in ended if one.error is not None]
    if json_lines:
        counts = {
            "brought": len(ended) - len(failed),
            "failed": len(failed),
            "impossible": len(plan.impossible),
        }
        print_json({"version": 1, "event": "sync_ended", **counts})
    if failed or plan.impossible:
        context.exit(_FAILED)


def _sources(
    configuration: Configuration, on: str | None, comfyui: Path | None, volume: str | None
) -> Sources:
    import os

    from ..config.folders import home
    from ..config.target_settings import TargetSettings
    from ..ready.local import find_local
    from ..ready.sync.brought import BroughtRecord
    from ..ready.sync.planning import Sources
    from ..ready.sync.stores import bucket_store, volume_store
    from ..targets.kinds import billing_of

    name = configuration.choose(on)
    settings = configuration.settings_of(name) or TargetSettings(name)
    here, folder = find_local(comfyui), home()
    record = BroughtRecord(folder)
    volume = settings.volume if volume is None else volume
    return Sources(
        here,
        folder,
        billing_of(settings, os.environ),
        None if volume is None else volume_store(volume, record),
        bucket_store(settings.bucket, record),
    )


def _lock(
    workflows: tuple[Path, ...],
    lock_file: Path | None,
    comfyui: Path | None,
    *,
    offline: bool,
    json_lines: bool,
) -> Lock:
    from ..ready.lock import read_lock
    from ..ready.locking import LockPlan
    from .lock import lock_of

    if lock_file is not None:
        return read_lock(lock_file)
    loaded = [load_typed(one) for one in workflows]
    names = [typed_name(one) for one in workflows]
    made = lock_of(loaded, names, LockPlan(comfyui=comfyui, offline=offline), json_lines=json_lines)
    for words in made.notes:
        say(f"warning: {words}")
    return made.lock


def _planned(
    lock: Lock, configuration: Configuration, on: str | None, sources: Sources
) -> SyncPlan:
    from ..ready.sync.planning import plan_sync
    from ..targets.opening import open_target
    from .interrupt import run_interruptible

    target = open_target(configuration.choose(on), configuration)
    if configuration.untrusted is not None:
        say(configuration.untrusted.sentence())
    if on is None:
        say(configuration.usual_sentence())

    async def ask() -> SyncPlan:
        async with target as opened:
            return await plan_sync(lock, opened, sources)

    return run_interruptible(ask())


def _carried_out(
    plan: SyncPlan,
    configuration: Configuration,
    on: str | None,
    sources: Sources,
    *,
    json_lines: bool,
) -> list[Ended]:
    import asyncio

    from ..ready.sync.carrying import carry_out
    from ..targets.opening import open_target
    from .interrupt import run_interruptible

    target = open_target(configuration.choose(on), configuration)
    throttle = Throttle(0.2 if not json_lines else 1.0)

    def ended(one: Ended) -> None:
        if json_lines:
            print_json({"version": 1, "event": "sync_model", **one.to_json()})
        else:
            show("")
            print(printable_line(_ended_words(one)))

    def moved(one: Moved) -> None:
        if not throttle.due():
            return
        if json_lines:
            name = one.step.item.name
            said = {"model": name, "message": one.message, "done": one.done, "total": one.total}
            print_json({"version": 1, "event": "sync_moved", **said})
        else:
            show(_moved_words(one))

    async def work() -> list[Ended]:
        async with target as opened:
            return await carry_out(plan, opened, sources, moved, ended)

    with progress_shown(json_lines=False) as show:
        try:
            return run_interruptible(work())
        except asyncio.CancelledError:
            say("Stopped. What has come stays, and the same command goes on from there.")
            raise click.exceptions.Exit(130) from None


def _moved_words(one: Moved) -> str:
    name = one.step.item.name
    if one.done is None or one.total is None:
        return f"{name}: {one.message}"
    return f"{name}: {size_text(one.done)} of {size_text(one.total)} sent"


def _ended_words(one: Ended) -> str:
    name = one.step.item.name
    if one.error is not None:
        return f"{name}  failed: {one.error}"
    words = {"there": "was there already", "linked": f"linked to {one.step.item.same_as}"}
    how = words.get(one.how, one.how)
    size = one.step.size
    facts = f", {size_text(size)} in {about_text(one.seconds)}" if size else ""
    return f"{name}  {how}{facts}"


def _print(plan: SyncPlan, *, models_only: bool, everything: bool) -> None:
    from rich.table import Column

    from ..ready.lock import LockedModel
    from ..ready.plan import Standing
    from .console import print_table

    rows: list[tuple[str, ...]] = []
    for item in plan.plan.items:
        is_model = item.kind == "model"
        if isinstance(item.needed, LockedModel) or (models_only and not is_model):
            continue
        if item.standing is Standing.ONLY_THERE and not everything:
            continue
        rows.append(_other_row(item))
    needed = [_row(step) for step in plan.steps]
    first = [row for row in rows if row[0] != "model"]
    only = [row for row in rows if row[0] == "model"]
    print_table(
        ("", "Name", Column("Size", justify="right"), "Is", "Way", "Why"),
        [*first, *needed, *only],
        may_be_cut=("Why",),
    )
    for line in _summary(plan):
        say(line)


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
    count = len(plan.to_do)
    if count:
        parts = []
        if plan.sent:
            parts.append(f"{size_text(plan.sent)} are sent from here")
        if plan.fetched:
            parts.append(f"the target fetches {size_text(plan.fetched)}")
        what = f": {', '.join(parts)}" if parts else ""
        lines.append(f"{counted(count, 'model')} can be brought to {plan.plan.target}{what}.")
        if words := plan.time_words():
            lines.append(f"Time: {words}.")
    if plan.impossible:
        lines.append(
            f"{counted(len(plan.impossible), 'model')} cannot be brought; the table says why."
        )
    return [*lines, *plan.notes]


def _print_brought(on: str | None, *, json_lines: bool) -> None:
    from rich.table import Column

    from ..config.folders import home
    from ..ready.sync.brought import BroughtRecord
    from .console import print_table

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
    print_table(("When", "Target", "Model", Column("Size", justify="right"), "How"), rows)
