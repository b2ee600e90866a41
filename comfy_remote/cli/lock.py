"""``comfy-remote lock``: writes down what it takes to run some workflows, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..units import counted, size_text
from .console import print_json, printable_line, say
from .options import WORKFLOW, json_schema_option, load_typed, own_folder, target_option, typed_name
from .progress_line import Throttle, progress_shown
from .schemas import schemas_option

if TYPE_CHECKING:
    from ..ready.lock import Lock, LockedModel, LockedPack
    from ..ready.locking import LockPlan
    from ..ready.making import Made
    from ..workflow.load import LoadedWorkflow

__all__ = ["check_plan", "lock", "lock_of", "locking_options"]

_FOLDER = click.Path(path_type=Path, file_okay=False)


_OPTIONS = (
    target_option("Lock what this target has, instead of a ComfyUI on this machine."),
    click.option(
        "--comfyui",
        metavar="DIR",
        type=_FOLDER,
        help="The ComfyUI on this machine that the workflows run on. Default: COMFYUI_DIR, else "
        "the one that is found: around the current folder, in the home folder, Comfy Desktop's.",
    ),
    click.option(
        "--models",
        metavar="DIR",
        type=_FOLDER,
        multiple=True,
        help="A further folder with models, laid out like ComfyUI's own. Those in its "
        "extra_model_paths.yaml are known. May be repeated.",
    ),
    click.option(
        "--snapshot",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Take ComfyUI and its packs from this snapshot of ComfyUI-Manager or Comfy Desktop.",
    ),
    click.option(
        "--hash/--no-hash",
        "compute_hashes",
        default=True,
        help="Read the models to compute their SHA-256 (the default), or use only what is noted "
        "beside them from earlier.",
    ),
    click.option(
        "--offline",
        is_flag=True,
        help="Ask nobody: neither the Comfy Registry, nor Hugging Face, Civitai (by SHA-256) and "
        "your bucket (R2_ENDPOINT) where the models can be had.",
    ),
    schemas_option,
)


def locking_options(command: Callable[..., object]) -> Callable[..., object]:
    """The options that say what is locked, and how. The command gets them as ``plan``, a
    `ready.locking.LockPlan`.
    """

    @wraps(command)
    def planned(
        *arguments: object,
        on: str | None,
        comfyui: Path | None,
        models: tuple[Path, ...],
        snapshot: Path | None,
        compute_hashes: bool,
        offline: bool,
        schemas_source: Path | str | None,
        **options: object,
    ) -> object:
        from ..ready.locking import LockPlan

        plan = LockPlan(on, comfyui, models, snapshot, compute_hashes, offline, schemas_source)
        return command(*arguments, plan=plan, **options)

    for option in reversed(_OPTIONS):
        planned = option(planned)
    return planned


@click.command()
@click.argument("workflows", metavar="WORKFLOW...", type=WORKFLOW, nargs=-1, required=True)
@click.option(
    *("-o", "--output"),
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file to write. Default: comfy-remote.lock in the current folder; - prints it.",
)
@locking_options
@click.option("--json", "json_lines", is_flag=True, help="Print what was found as JSON lines.")
@json_schema_option
def lock(
    workflows: tuple[Path, ...],
    output: Path | None,
    plan: LockPlan,
    json_lines: bool,
) -> None:
    """Write down what it takes to run workflows, exactly: ComfyUI, node packs, models.

    The file, comfy-remote.lock, has ComfyUI's version, each pack with its version or commit, and
    each model with its size, SHA-256 and where it can be had. It is made for people and for version
    control: locked again, only what has changed differs. `check --lock` and `run --locked` hold a
    target to it.

    What cannot be known here (no ComfyUI was found, a model's file is not here) is in it as
    unknown, with the reason, and is a warning; the exit status is 0 nevertheless.

    \b
    Examples:
      comfy-remote lock workflow.json
      comfy-remote lock workflow.json upscale.json --comfyui ~/ComfyUI -o both.lock
      comfy-remote lock workflow.json --on http://192.168.1.20:8188
      comfy-remote lock workflow.json --snapshot 2026-11-30_snapshot.json --offline
      comfy-remote check workflow.json --lock comfy-remote.lock --on gpu
    """
    from dataclasses import replace

    from ..ready.lock import LOCK_NAME, read_lock

    if json_lines and str(output) == "-":
        raise click.UsageError("--json and -o - both print to standard output.")
    check_plan(plan)
    if output is None:
        output = own_folder(Path(LOCK_NAME), f"If that is meant, say so: -o {LOCK_NAME}")
    named = [typed_name(one) for one in workflows]
    loaded = [load_typed(one) for one in workflows]
    made = lock_of(loaded, named, plan, json_lines=json_lines)
    if str(output) == "-":
        print(made.lock.to_toml(), end="")
    else:
        if output.is_file():
            made = replace(made, lock=made.lock.keeping_from(read_lock(output)))
        made.lock.write(output)
    if json_lines:
        line = {"version": 1, "event": "lock", "file": str(output), "lock": made.lock.to_json()}
        print_json({**line, "unknown": made.lock.unknown, "notes": list(made.notes)})
        return
    if str(output) != "-":
        for words in _rows(made.lock):
            print(printable_line(words))
    for words in [*made.lock.unknown, *made.notes]:
        say(f"warning: {words}")
    if not (made.where or plan.on or plan.comfyui):
        say("If there is a ComfyUI on this machine, name its folder with --comfyui DIR.")
    if str(output) != "-":
        say(f"Written: {output}")


def check_plan(plan: LockPlan) -> None:
    """Refuse (`click.UsageError`) options of `locking_options` that do not go together."""
    if plan.on is not None and (plan.comfyui or plan.models or plan.snapshot):
        raise click.UsageError(
            "--on locks what a target has; --comfyui, --models and --snapshot say what is here."
        )


def lock_of(
    loaded: Sequence[LoadedWorkflow], names: Sequence[str], plan: LockPlan, *, json_lines: bool
) -> Made:
    """The lock of some workflows. Says where it looks, and shows how far it is.

    Args:
        names: What the workflows are called in it.
    """
    from ..ready.locking import lock_workflows
    from .interrupt import run_interruptible

    throttle = Throttle()
    with progress_shown(json_lines=False) as show:

        def on_bytes(done: int, total: int) -> None:
            if not json_lines and done < total:
                show(f"Reading models for their SHA-256: {size_text(done)} of {size_text(total)}")
            elif json_lines and (done == total or throttle.due()):
                print_json({"version": 1, "event": "lock_reads", "done": done, "total": total})

        return run_interruptible(lock_workflows(loaded, names, plan, say=say, on_bytes=on_bytes))


def _rows(lock: Lock) -> list[str]:
    comfyui = lock.comfyui
    commit = f" (commit {comfyui.commit[:10]})" if comfyui.commit else ""
    rows = [f"ComfyUI  {comfyui.version or 'unknown'}{commit}"]
    rows += [f"pack     {one.name}  {_pack_version(one)}" for one in lock.packs]
    rows += [f"model    {one.path}  {_model_facts(one)}" for one in lock.models]
    total = sum(one.size or 0 for one in lock.models)
    count = counted(len(lock.models), "model")
    return [*rows, f"         {counted(len(lock.packs), 'pack')}, {count}, {size_text(total)}"]


def _pack_version(pack: LockedPack) -> str:
    parts = [pack.version or "", f"commit {pack.commit[:10]}" if pack.commit else ""]
    return ", ".join(filter(None, parts)) or "version unknown"


def _model_facts(model: LockedModel) -> str:
    size = size_text(model.size) if model.size is not None else "size unknown"
    names = {"civitai": "Civitai", "bucket": "your bucket"}
    by = dict.fromkeys(names.get(one.by, f"the {one.by}") for one in model.addresses)
    where = f"from {', '.join(by)}" if by else "only here" if model.size is not None else "unknown"
    return f"{size}, {where}"
