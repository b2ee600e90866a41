"""``comfy-remote sync``: brings the node packs and models that workflows need to a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .asking import may_go_on
from .console import print_json, printable_line, say, say_lines
from .on_target import on_target
from .options import WORKFLOW, json_schema_option, lock_option, target_option
from .progress_line import Throttle, progress_shown
from .sync_leftovers import give_up_leftovers
from .sync_needed import Needed, pins
from .sync_shown import ended_words, log_lines, moved_words, print_brought, print_plan

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..ready.lock import Lock
    from ..ready.sync.carrying import Ended, Moved
    from ..ready.sync.planning import Sources
    from ..ready.sync.steps import SyncPlan
    from ..wire.nodes import PackWanted

__all__ = ["sync"]

_FAILED = 5
_KINDS = frozenset({"pack", "model"})


@click.command()
@click.argument("workflows", metavar="[WORKFLOW]...", type=WORKFLOW, nargs=-1)
@target_option("The target to bring them to. Default: the configured one; see `targets`.")
@lock_option("--lock", "Bring what this lock names, instead of what workflows need.")
@click.option("--nodes", is_flag=True, help="Show and bring node packs only.")
@click.option("--models", is_flag=True, help="Show and bring models only.")
@click.option(
    "--pack",
    "packs",
    multiple=True,
    metavar="PACK",
    callback=pins,
    help="An additional node pack, or another version of one in the lock: NAME@VERSION of the "
    "Comfy Registry, or https://HOST/OWNER/NAME@COMMIT. May be repeated.",
)
@click.option(
    "--dockerfile",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Ask no target: write the Dockerfile of an image with the ComfyUI and the node packs. "
    "Without FILE, print it.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Only show what would be done.")
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option(
    "--all", "everything", is_flag=True, help="Also show what is on the target but not needed."
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
    help="The RunPod network volume to send models to (by its S3 API, without a worker), as "
    "VOLUME_ID@DATACENTER. Default: the target's `volume`.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="With workflows: do not look up what is needed at Hugging Face, Civitai and the Comfy "
    "Registry.",
)
@click.option(
    "--brought",
    "list_brought",
    is_flag=True,
    help="List what was brought from this machine, and exit.",
)
@click.option(
    "--give-up",
    "gives_up",
    is_flag=True,
    help="Remove what interrupted syncs left in volumes and buckets, instead of continuing them. "
    "With --on, only in those of that target.",
)
@click.option("--json", "json_lines", is_flag=True, help="Print JSON lines.")
@json_schema_option
@click.pass_context
def sync(
    context: click.Context,
    workflows: tuple[Path, ...],
    on: str | None,
    lock_file: Path | None,
    nodes: bool,
    models: bool,
    packs: tuple[PackWanted, ...],
    dockerfile: Path | None,
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
    """Bring the node packs and models that workflows need to a target. The plan is shown first, and
    nothing is done before you agree.

    Each model comes by the best way available: linked, if the same bytes are there under another
    name; fetched by the target, if an address is known; otherwise sent from this machine. Node
    packs are installed by a worker whose owner allows it, at exactly the version or commit that the
    lock names, and tried before they are used; for other targets, the steps to do by hand are
    shown. Nothing that somebody else put on the target is replaced or removed. If a sync is
    interrupted, the same command continues it.

    A node pack is code: --yes installs only those that you have trusted before (`comfy-remote trust
    LOCK`, or a yes in the terminal).

    Exit status: 5 if something could not be brought, else 0; with --plan always 0.

    \b
    Examples:
      comfy-remote sync workflow.json --on gpu --plan
      comfy-remote sync --lock comfy-remote.lock --on gpu
      comfy-remote sync workflow.json --on http://192.168.1.20:8188 --plan
      comfy-remote sync --on gpu --pack comfyui-kjnodes@1.5.0
      comfy-remote sync --lock comfy-remote.lock --dockerfile Dockerfile
      comfy-remote sync --on gpu --brought
      comfy-remote sync --give-up --plan
    """
    from ..config.settings import Configuration

    configuration = Configuration.load()
    if list_brought:
        print_brought(on, json_lines=json_lines)
        return
    if plan_only and yes:
        raise click.UsageError("--plan changes nothing, so there is nothing to say --yes to.")
    if gives_up:
        if workflows or packs or lock_file is not None:
            raise click.UsageError("--give-up takes no workflows and no lock.")
        given_up = give_up_leftovers(
            configuration, on, volume, plan_only=plan_only, yes=yes, json_lines=json_lines
        )
        if not given_up:
            context.exit(_FAILED)
        return
    if workflows and lock_file is not None:
        raise click.UsageError("Name workflows, or a lock with --lock.")
    if not (workflows or packs or lock_file is not None):
        raise click.UsageError("Name workflows, a lock with --lock, or node packs with --pack.")
    needed = Needed.read(
        *(workflows, lock_file, packs), comfyui=comfyui, offline=offline, json_lines=json_lines
    )
    if dockerfile is not None:
        if on is not None:
            raise click.UsageError("--dockerfile asks no target: omit --on.")
        context.exit(_write_dockerfile(needed, dockerfile))
    kinds = _KINDS if nodes == models else frozenset({"pack" if nodes else "model"})
    wanted = needed.only(kinds)
    sources = _sources(configuration, on, comfyui, volume, models=bool(wanted.models))
    plan = _planned(wanted, configuration, on, sources)
    if json_lines:
        print_json({"version": 1, "event": "sync_plan", **plan.to_json()})
    else:
        command = "comfy-remote sync" if lock_file is None else "comfy-remote sync --lock"
        print_plan(plan, kinds=kinds, everything=everything, command=[command, *needed.files])
    if plan_only:
        return
    if yes:
        needed.check_trust(plan)
    ended: list[Ended] = []
    if not plan.to_do:
        say("There is nothing to do." if not plan.impossible else "Nothing can be brought.")
    elif may_go_on(yes):
        needed.trust(plan)
        ended = _carried_out(plan, configuration, on, sources, json_lines=json_lines)
    else:
        return
    failed = [one for one in ended if one.error is not None]
    if not json_lines:
        for note in dict.fromkeys(note for one in ended for note in one.notes):
            say(note)
    else:
        counts = {
            "brought": len(ended) - len(failed),
            "failed": len(failed),
            "impossible": len(plan.impossible),
        }
        print_json({"version": 1, "event": "sync_ended", **counts})
    if failed or plan.impossible:
        context.exit(_FAILED)


def _write_dockerfile(needed: Needed, path: Path) -> int:
    """Write the Dockerfile of an image with all of it but the models; ``-`` prints it. The exit
    status.
    """
    from ..deploy.dockerfile import dockerfile_for, write_dockerfile

    made = dockerfile_for(needed.lock, [str(one) for one in needed.files])
    for note in made.notes:
        say(f"warning: {note}")
    if str(path) == "-":
        print(made.text, end="")
    else:
        write_dockerfile(path, made)
        say(f"{path} is written. In a folder of its own, it makes the image of an endpoint:")
        say_lines(f"  docker build -t YOU/comfy-remote-worker:1 -f {path.name} .")
    return 0 if made.whole else _FAILED


def _sources(
    configuration: Configuration,
    on: str | None,
    comfyui: Path | None,
    volume: str | None,
    *,
    models: bool,
) -> Sources:
    from ..ready.local import find_local
    from ..ready.sync.planning import sources_of

    return sources_of(configuration, on, find_local(comfyui), volume=volume, models=models)


def _planned(
    lock: Lock, configuration: Configuration, on: str | None, sources: Sources
) -> SyncPlan:
    from ..ready.sync.planning import plan_sync

    return on_target(on, lambda target: plan_sync(lock, target, sources), configuration)


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
            event = "sync_pack" if one.step.way.value == "install" else "sync_model"
            print_json({"version": 1, "event": event, **one.to_json()})
        else:
            show("")
            print(printable_line(ended_words(one)))
            for line in log_lines(one):
                say(line)

    def moved(one: Moved) -> None:
        if not throttle.due():
            return
        if json_lines:
            print_json({"version": 1, "event": "sync_moved", **one.to_json()})
        else:
            show(moved_words(one))

    async def work() -> list[Ended]:
        async with target as opened:
            return await carry_out(plan, opened, sources, moved, ended)

    with progress_shown(json_lines=False) as show:
        try:
            return run_interruptible(work())
        except asyncio.CancelledError:
            say("Stopped. What has arrived stays; the same command continues from there.")
            raise click.exceptions.Exit(130) from None
