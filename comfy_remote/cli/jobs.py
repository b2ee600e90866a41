"""``comfy-remote jobs``: what was sent, what became of it, and taking it up again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..jobs.record import JobEntry, Record, SavedOutput

__all__ = ["app"]

app = typer.Typer(
    help="List, resume and cancel the jobs sent from this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, or at least its first 4 characters.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command("list")
def list_jobs(
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many, the newest first.")
    ] = 20,
    json_lines: _Json = False,
) -> None:
    """List the jobs sent from this machine."""
    import json

    from ..jobs.record import Record
    from ..targets.config import home
    from .console import say

    with Record(home()) as record:
        entries = record.newest(limit)
    if json_lines:
        for entry in entries:
            print(json.dumps(_to_json(entry)))
    elif not entries:
        say("No jobs yet. `comfy-remote run WORKFLOW.json` sends one.")
    else:
        _print_table(entries)


@app.command()
def show(job: _JobId, json_lines: _Json = False) -> None:
    """Show all that is recorded of a job."""
    import json

    from ..jobs.record import Record
    from ..targets.config import home

    with Record(home()) as record:
        entry = record.get(job)
    if json_lines:
        print(json.dumps({**_to_json(entry), "prompt": entry.prompt}))
        return
    _print_details(entry)


@app.command()
def resume(
    job: _JobId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the outputs go; as in the run."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, help="Stop waiting after this long."),
    ] = None,
    json_lines: _Json = False,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show pictures in the terminal.")
    ] = True,
) -> None:
    """Follow a job again and fetch its outputs.

    Also after this machine was switched off, or the run was killed. Nothing runs twice.
    """
    import time

    from ..jobs import client
    from ..jobs.record import Record
    from ..targets.config import home
    from .follow import follow, supervise
    from .run import make_reporter

    began = time.monotonic()
    with Record(home()) as record:
        found = record.get(job)
    folder = output or found.folder or Path("output")
    reporter = make_reporter(json_lines=json_lines, preview=preview)

    async def whole(record: Record) -> None:
        here = _all_here(found, folder)
        if here is not None:
            reporter.following(found.id, found.target, found.prompt)
            reporter.note("Its outputs are here already.")
            reporter.saved(here, time.monotonic() - began)
            return
        if found.state.final and found.error is not None:
            raise found.error
        reporter.connecting(found.target)
        async with client.resume(found.id, record=record, timeout=timeout) as taken_up:
            reporter.following(found.id, found.target, found.prompt)
            outputs = await follow(taken_up, folder, reporter)
            reporter.saved(outputs, time.monotonic() - began)

    supervise(whole, reporter, found.id)


@app.command()
def cancel(job: _JobId) -> None:
    """Cancel a job on its target."""
    import asyncio

    from ..errors import ComfyRemoteError, TargetUnreachable
    from ..events import Finished, JobState
    from ..jobs import client
    from ..jobs.record import Record
    from ..targets.config import home
    from .console import say
    from .follow import CANCEL_PATIENCE
    from .interrupt import run_interruptible

    async def whole(record: Record, entry: JobEntry) -> Finished:
        async with client.resume(entry.id, record=record) as taken_up:
            await taken_up.cancel()
            return await asyncio.wait_for(taken_up.wait(), CANCEL_PATIENCE)

    with Record(home()) as record:
        entry = record.get(job)
        if entry.state.final:
            say(f"Job {entry.id} had ended already: {entry.state.value}.")
            return
        try:
            finished = run_interruptible(whole(record, entry))
        except asyncio.TimeoutError:
            raise TargetUnreachable(
                f"{entry.target} was asked to cancel the job, and has not confirmed it within "
                f"{CANCEL_PATIENCE:.0f} s.",
                advice=f"`comfy-remote jobs resume {entry.id}` follows it to its end.",
            ) from None
        except asyncio.CancelledError:
            raise typer.Exit(130) from None
    match finished.state:
        case JobState.CANCELLED:
            say(f"Job {entry.id} is cancelled.")
        case JobState.SUCCEEDED:
            say(
                f"Job {entry.id} had succeeded before it could be cancelled. "
                f"`comfy-remote jobs resume {entry.id}` fetches its outputs."
            )
        case _:
            error: ComfyRemoteError | None = finished.error
            say(f"Job {entry.id} has ended: {error.message if error else finished.state.value}")


def _all_here(entry: JobEntry, folder: Path) -> tuple[SavedOutput, ...] | None:
    """The outputs, if all of them were saved below ``folder`` and are still what they were."""
    from ..media.files import sha256_of

    def intact(output: SavedOutput) -> bool:
        try:
            return (
                output.path.is_relative_to(folder.absolute())
                and output.path.stat().st_size == output.size
                and sha256_of(output.path) == output.sha256
            )
        except OSError:
            return False

    return entry.outputs if entry.outputs and all(map(intact, entry.outputs)) else None


def _to_json(entry: JobEntry) -> dict[str, JsonValue]:
    return {
        "job_id": entry.id,
        "state": entry.state.value,
        "target": entry.target,
        "source": entry.source,
        "created": entry.created,
        "updated": entry.updated,
        "folder": str(entry.folder) if entry.folder else None,
        "remote_id": entry.ref.remote_id if entry.ref else None,
        "progress": entry.progress,
        "error": entry.error.to_json() if entry.error else None,
        "outputs": [output.to_json() for output in entry.outputs],
    }


def _when(seconds: float) -> str:
    from datetime import datetime, timezone

    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "running": "cyan",
}


def _print_table(entries: list[JobEntry]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .console import printable

    # Piped, it is for grep: one job a line, however long.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=200)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("Job", "Sent", "State"):
        table.add_column(name, no_wrap=True)
    table.add_column("Target", overflow="ellipsis", no_wrap=True)
    table.add_column("Workflow", overflow="ellipsis", no_wrap=True)
    table.add_column("Outputs", justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(
            entry.id[:8],
            _when(entry.created)[5:16],
            Text(entry.state.value, _STYLES.get(entry.state.value, "")),
            Text(printable(entry.target)),
            Text(printable(Path(entry.source).name)),
            str(len(entry.outputs) or ""),
        )
    console.print(table)


def _print_details(entry: JobEntry) -> None:
    from .console import human_size, printable, resume_command
    from .errors import explain

    rows = [
        ("Job", entry.id),
        ("State", entry.state.value),
        ("Target", entry.target),
        ("Its id there", entry.ref.remote_id if entry.ref else "unknown"),
        ("Workflow", f"{entry.source} ({len(entry.prompt)} nodes)"),
        ("Sent", _when(entry.created)),
        ("Changed", _when(entry.updated)),
        ("Folder", str(entry.folder or "-")),
    ]
    if entry.progress and not entry.state.final:
        done, total = entry.progress.get("nodes_done"), entry.progress.get("nodes_total")
        rows.append(("Progress", f"{done} of {total} nodes"))
    rows += [("Output", f"{o.path} ({human_size(o.size)})") for o in entry.outputs]
    for name, value in rows:
        print(f"{name:<13}{printable(value)}")
    if entry.error is not None:
        headline, *rest = explain(entry.error)
        print(f"{'Error':<13}{headline}", *rest, sep="\n")
    elif not entry.state.final or not entry.outputs:
        print(f"{'Take it up':<13}{resume_command(entry.id)}")
