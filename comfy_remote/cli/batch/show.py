"""``comfy-remote batch show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import json_option
from .options import batch_argument

if TYPE_CHECKING:
    from ...batch.manifest import RunLine
    from ...batch.plan import Plan
    from ...jobs.record import BatchEntry

__all__ = ["show"]

_MOST = 20


@click.command(short_help="Show what varies in a batch, and how far it is.")
@batch_argument
@click.option("--runs", "all_runs", is_flag=True, help="List all runs that have ended.")
@json_option
def show(batch: str, all_runs: bool, json_lines: bool) -> None:
    """Show a batch: what varies, how far it is, what it has cost, and what failed.

    BATCH is its name, or the first characters of its id (at least 4). With --json, the batch, and
    with --runs then each run as manifest.jsonl has it.
    """
    from ...batch.frozen import batch_folder
    from ...batch.manifest import MANIFEST, read_manifest
    from ...batch.plan import Plan
    from ...jobs.record import Record
    from ..console import print_json
    from .shown import state_of, to_json

    with Record() as record:
        entry = record.batches.get(batch)
        folder = record.path.parent
        state = state_of(entry, folder)
    plan = Plan.load(batch_folder(folder, entry.id))
    lines = read_manifest(entry.folder / MANIFEST)
    ended = [lines[row] for row in sorted(lines)]
    if json_lines:
        axes = [{"names": list(axis.names), "count": axis.count} for axis in plan.axes]
        print_json({**to_json(entry, state), "axes": axes, "cost": _cost(ended)})
        for line in ended if all_runs else ():
            print_json(line.to_json())
    else:
        _print(entry, state, plan, ended, all_runs=all_runs)


def _cost(ended: list[RunLine]) -> float | None:
    costs = [line.cost for line in ended if line.cost is not None]
    return round(sum(costs), 6) if costs else None


def _cached(ended: list[RunLine]) -> str:
    """How many runs were given what an earlier one gave, and what that saved."""
    from ...units import counted, dollars

    given = [line for line in ended if line.cached is not None]
    saved = sum(line.saved or 0.0 for line in given)
    said = f"{counted(len(given), 'run')} from the cache" if given else ""
    return f"{said}, {dollars(saved)} saved" if saved else said


def _print(
    entry: BatchEntry, state: str, plan: Plan, ended: list[RunLine], *, all_runs: bool
) -> None:
    from ...jobs.record import BatchState
    from ...units import dollars
    from ..console import print_table, printable_line
    from ..jobs.shown import when
    from ..reporter import relative
    from .words import axes_lines, batch_command, failure_of, heading, progress_text, sheet_of

    cost, sheet = _cost(ended), sheet_of(entry)
    facts = [
        ("Name", entry.name),
        ("Id", entry.id),
        ("State", f"{state}: {progress_text(entry)}"),
        ("Why", " ".join((entry.why or "").split())),
        ("Made", when(entry.created)),
        ("Workflow", entry.source),
        ("Target", entry.target),
        ("Cost", "" if cost is None else dollars(cost)),
        ("Cap", "" if entry.cap is None else f"{dollars(entry.cap)} for the whole batch"),
        ("Cached", _cached(ended)),
        ("Outputs", str(relative(entry.folder))),
        ("Sheet", "" if sheet is None else str(relative(sheet))),
    ]
    for name, words in facts:
        if words:
            print(printable_line(f"{name:<9} {words}"))
    print(
        printable_line(heading(plan.count, plan.axes, entry.target, plan.combinations, plan.repeat))
    )
    for words in axes_lines(plan.axes):
        print(printable_line(words))
    failed = [line for line in ended if line.state == "failed"]
    if all_runs:
        print_table(*_table(ended), may_be_cut=["Result"])
    else:
        for line in failed[:_MOST]:
            print(printable_line(failure_of(line)))
        if len(failed) > _MOST:
            print(f"… and {len(failed) - _MOST} more (--runs).")
    if state in ("stopped", "paused"):
        print(f"Go on with it: {batch_command('resume', entry)}")
    elif entry.state is not BatchState.RUNNING and (entry.failed or entry.cancelled):
        print(f"Run what failed again: {batch_command('retry', entry)}")


def _table(ended: list[RunLine]) -> tuple[list[str], list[tuple[str, ...]]]:
    from ...units import counted, dollars, seconds_text

    rows: list[tuple[str, ...]] = []
    for line in ended:
        error = (line.error or {}).get("message")
        rows.append(
            (
                line.run,
                line.state,
                "" if line.seconds is None else seconds_text(line.seconds),
                "" if line.cost is None else dollars(line.cost),
                (line.job or "")[:8],
                str(error) if error else counted(len(line.outputs), "file"),
            )
        )
    return ["Run", "State", "Took", "Cost", "Job", "Result"], rows
