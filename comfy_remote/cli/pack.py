"""``comfy-remote pack``: one file of a workflow, its lock and its small input files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..units import counted, size_text
from .console import print_json, printable_line, say
from .lock import check_plan, lock_of, locking_options
from .options import (
    WORKFLOW,
    inputs_option,
    json_schema_option,
    load_typed,
    lock_option,
    own_folder,
    typed_name,
)

if TYPE_CHECKING:
    from ..ready.locking import LockPlan
    from ..ready.packing import Packing

__all__ = ["pack"]

_MEGABYTE = 1_000_000


@click.command()
@click.argument("workflow", metavar="WORKFLOW", type=WORKFLOW)
@click.option(
    *("-o", "--output"),
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write. Default: the workflow's name with .zip, in the current folder.",
)
@inputs_option
@click.option(
    "--largest-input",
    metavar="MB",
    type=click.FloatRange(min=0, max=500),
    default=50,
    show_default=True,
    help="Leave out input files that are larger.",
)
@lock_option("--lock", "Pack this lock. Default: the workflow is locked as by `comfy-remote lock`.")
@locking_options
@click.option("--json", "json_lines", is_flag=True, help="Print what was packed as JSON lines.")
@json_schema_option
def pack(
    workflow: Path,
    output: Path | None,
    inputs: tuple[Path, ...],
    largest_input: float,
    lock_file: Path | None,
    plan: LockPlan,
    json_lines: bool,
) -> None:
    """Pack a workflow, its lock and its input files into one file, to give to somebody.

    It is a zip file with workflow.json, comfy-remote.lock and a folder input: unpacked, it is a
    folder that runs. `run`, `check`, `lock`, `convert` and all else that takes a workflow take it
    as it is. Models and packs are not in it; the lock names them.

    A packed workflow may come from anybody. The addresses that it names for models are left out
    until you trust them, with `comfy-remote trust FILE.zip`.

    \b
    Examples:
      comfy-remote pack workflow.json
      comfy-remote pack workflow.json -o portrait.zip --input ~/Pictures/me.png
      comfy-remote pack workflow.json --lock comfy-remote.lock
      comfy-remote run portrait.zip --on gpu --locked portrait.zip
    """
    from ..ready.lock import read_lock
    from ..ready.packing import inputs_to_pack, pack_workflow

    named = typed_name(workflow)
    loaded = load_typed(workflow)
    if output is None:
        name = f"{Path(named).stem if named != '-' else 'workflow'}.zip".replace("example:", "")
        output = own_folder(Path(name), f"If that is meant, say so: -o {name}")
    notes: tuple[str, ...] = ()
    if lock_file is not None:
        lock = read_lock(lock_file)
    else:
        check_plan(plan)
        made = lock_of([loaded], [named], plan, json_lines=json_lines)
        lock, notes = made.lock, made.notes
    chosen = inputs_to_pack(loaded, workflow, inputs, largest=int(largest_input * _MEGABYTE))
    size = pack_workflow(output, loaded, lock, chosen)
    warnings = [*lock.unknown, *notes, *chosen.left_out]
    if json_lines:
        print_json(_line(output, size, chosen, warnings))
        return
    print(printable_line(f"workflow  {named}"))
    packs, found = counted(len(lock.packs), "pack"), counted(len(lock.models), "model")
    print(f"lock      {packs}, {found}")
    for name, path in chosen.files.items():
        print(printable_line(f"input     {name}  {size_text(path.stat().st_size)}"))
    for words in warnings:
        say(f"warning: {words}")
    say(f"Written: {output} ({size_text(size)})")


def _line(output: Path, size: int, chosen: Packing, warnings: list[str]) -> dict[str, object]:
    return {
        "version": 1,
        "event": "packed",
        "file": str(output),
        "size": size,
        "inputs": list(chosen.files),
        "warnings": warnings,
    }
