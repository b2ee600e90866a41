"""``comfy-remote jobs``: lists, shows, resumes and cancels jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..types import JsonValue
from .options import complete_job, json_option, preview_option, target_option, timeout_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..jobs.interruption import OnInterrupt
    from ..jobs.job import Job
    from ..jobs.record import JobEntry, Record, SavedOutput
    from ..jobs.status import JobStatus

__all__ = ["jobs"]

_job_argument = click.argument("job", metavar="ID", shell_complete=complete_job)


_offline_option = click.option(
    "--offline", is_flag=True, help="Ask no target; show what was last known."
)


@click.group(no_args_is_help=True)
def jobs() -> None:
    """List, resume and cancel the jobs sent from this machine.

    ID is a job's id, or at least its first 4 characters.
    """


@jobs.command("list")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    help="How many, the newest first.",
)
@_offline_option
@json_option
def list_jobs(limit: int, offline: bool, json_lines: bool) -> None:
    """List the jobs sent from this machine.

    Targets are asked about jobs that have not ended, side by side, for a few seconds. A job whose
    target cannot be reached is shown as unknown.
    """
    from ..jobs.record import Record
    from .console import print_json, say

    with Record() as record:
        jobs = _statuses(record, record.newest(limit), offline=offline)
    if json_lines:
        for job in jobs:
            print_json(_to_json(job))
    elif not jobs:
        say("No jobs yet. `comfy-remote run WORKFLOW.json` sends one.")
    else:
        _print_table(jobs)


@jobs.command()
@_job_argument
@_offline_option
@json_option
def show(job: str, offline: bool, json_lines: bool) -> None:
    """Show all that is recorded of a job.

    If it has not ended, its target is asked first.
    """
    from ..jobs.record import Record
    from .console import print_json

    with Record() as record:
        [status] = _statuses(record, [record.get(job)], offline=offline)
    if json_lines:
        print_json({**_to_json(status), "prompt": status.entry.prompt})
        return
    _print_details(status)


@jobs.command()
@_job_argument
@target_option("Where it runs, for a prompt that is not in this machine's record.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the outputs go. Default: the folder that the run named.",
)
@timeout_option
@json_option
@preview_option
def resume(
    job: str,
    on: str | None,
    output: Path | None,
    timeout: float | None,
    json_lines: bool,
    preview: bool,
) -> None:
    """Follow a job again and fetch its outputs.

    Works even after this machine was switched off, or the run was killed. Nothing runs twice. With
    --on, ID may also be the id of a prompt that was sent from elsewhere.
    """
    from .entry import import_ahead

    import_ahead()
    import time

    from ..errors import JobNotFound
    from ..jobs.client import Client
    from ..jobs.client import resume as take_up
    from ..jobs.job import SAVED_BEFORE
    from ..jobs.record import Record
    from .follow import exit_if_incomplete, follow, supervise
    from .options import make_reporter, own_folder

    began = time.monotonic()
    found: JobEntry | None = None
    with Record() as record:
        try:
            found = record.get(job)
        except JobNotFound:
            if on is None:
                raise
    wanted = found.folder if found is not None else None
    if output is None and wanted is None:
        own_folder(Path("output"), "If that is meant, say so: -o output")
    folder = (output or wanted or Path("output")).expanduser().absolute()
    reporter = make_reporter(json_lines=json_lines, preview=preview)

    async def followed(again: Job, entry: JobEntry, on_interrupt: OnInterrupt) -> None:
        reporter.following(entry.id, entry.target, entry.prompt)
        outputs = await follow(again, folder, reporter, on_interrupt)
        reporter.done(outputs, time.monotonic() - began, again.problems)
        exit_if_incomplete(again)

    async def known(record: Record, entry: JobEntry) -> None:
        here = _all_here(entry, folder)
        if here is not None:
            reporter.following(entry.id, entry.target, entry.prompt)
            reporter.note("Its outputs are here already.")
            if entry.error is not None:
                reporter.partial(here)
                raise entry.error
            reporter.done(here, time.monotonic() - began)
            return
        if entry.error is not None and not entry.error.details.get(SAVED_BEFORE):
            raise entry.error
        reporter.connecting(entry.target)
        async with take_up(entry.id, record=record, timeout=timeout, on_interrupt=None) as taken_up:
            await followed(taken_up, entry, "cancel")

    async def unknown(record: Record, target: str) -> None:
        reporter.connecting(target)
        async with Client(target, record=record, on_interrupt=None) as client:
            attached = await client.attach(job, folder=folder, timeout=timeout)
            entry = await record.read(record.get, attached.id)
            # It may be somebody else's: Ctrl-C must not stop it.
            await followed(attached, entry, "leave")

    if found is not None:
        entry = found
        supervise(lambda record: known(record, entry), reporter, entry.id)
    elif on is not None:
        target = on
        supervise(lambda record: unknown(record, target), reporter, job)


@jobs.command()
@_job_argument
def cancel(job: str) -> None:
    """Cancel a job on its target."""
    import asyncio

    from ..errors import ComfyRemoteError, TargetUnreachable
    from ..events import Finished, JobState, Log
    from ..jobs.client import resume as take_up
    from ..jobs.interruption import PATIENCE
    from ..jobs.record import Record
    from .console import say
    from .interrupt import run_interruptible

    async def whole(record: Record, entry: JobEntry) -> Finished:
        async with take_up(entry.id, record=record, on_interrupt=None) as taken_up:
            await taken_up.cancel()
            return await asyncio.wait_for(to_its_end(taken_up), PATIENCE.cancel)

    async def to_its_end(taken_up: Job) -> Finished:
        async for event in taken_up:
            if isinstance(event, Log) and event.level == "warning":
                say(f"Warning: {event.message}")
            if isinstance(event, Finished):
                return event
        raise AssertionError("unreachable: a job's last event is Finished")

    with Record() as record:
        entry = record.get(job)
        if entry.state.final:
            say(f"Job {entry.id} had ended already: {entry.state.value}.")
            return
        try:
            finished = run_interruptible(whole(record, entry))
        except asyncio.TimeoutError:
            raise TargetUnreachable(
                f"{entry.target} was asked to cancel the job, and has not confirmed it within "
                f"{PATIENCE.cancel:.0f} s.",
                advice=f"`comfy-remote jobs resume {entry.id}` follows it to its end.",
            ) from None
    match finished.state:
        case JobState.CANCELLED:
            say(f"Job {entry.id} was cancelled.")
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
                output.path.is_relative_to(folder)
                and output.path.stat().st_size == output.size
                and sha256_of(output.path) == output.sha256
            )
        except OSError:
            return False

    return entry.outputs if entry.outputs and all(map(intact, entry.outputs)) else None


def _statuses(record: Record, entries: Sequence[JobEntry], *, offline: bool) -> list[JobStatus]:
    from ..jobs.status import JobStatus, statuses
    from .interrupt import run_interruptible

    # Importing an HTTP stack takes longer than all the rest.
    if offline or all(entry.state.final for entry in entries):
        return [JobStatus(entry) for entry in entries]
    return run_interruptible(statuses(record, entries))


def _state(job: JobStatus) -> str:
    return "unknown" if job.unknown else job.entry.state.value


def _to_json(job: JobStatus) -> dict[str, JsonValue]:
    entry = job.entry
    return {
        "job_id": entry.id,
        "state": _state(job),
        "last_state": entry.state.value,
        "unknown": job.unknown or None,
        "target": entry.target,
        "source": entry.source,
        "created": entry.created,
        "updated": entry.updated,
        "run_seconds": entry.run_seconds,
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


def _print_table(jobs: list[JobStatus]) -> None:
    from rich.table import Column
    from rich.text import Text

    from .console import print_table

    columns = [
        Column("Job", min_width=8, no_wrap=True),
        Column("Sent", min_width=11, no_wrap=True),
        Column("State", min_width=9, no_wrap=True),
        Column("Target", overflow="ellipsis", no_wrap=True),
        Column("Workflow", overflow="ellipsis", no_wrap=True),
        Column("Outputs", justify="right", min_width=7, no_wrap=True),
    ]
    rows = [
        (
            entry.id[:8],
            _when(entry.created)[5:16],
            Text(_state(job), _STYLES.get(_state(job), "")),
            entry.target,
            Path(entry.source).name,
            str(len(entry.outputs) or ""),
        )
        for job in jobs
        for entry in [job.entry]
    ]
    print_table(columns, rows)


def _print_details(job: JobStatus) -> None:
    from ..units import seconds_text, size_text
    from .console import printable_line, resume_command
    from .errors import explain, traceback_of

    entry = job.entry
    state = entry.state.value
    if job.unknown:
        state = f"unknown ({state} when last seen). {job.unknown}"
    rows = [
        ("Job", entry.id),
        ("State", state),
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
    if entry.run_seconds is not None:
        rows.append(("Ran", seconds_text(entry.run_seconds)))
    rows += [("Output", f"{o.path} ({size_text(o.size)})") for o in entry.outputs]
    for name, value in rows:
        print(f"{name:<13}{printable_line(value)}")
    if entry.error is not None:
        headline, *rest = explain(entry.error)
        print(f"{'Error':<13}{headline}", *rest, *traceback_of(entry.error), sep="\n")
    elif not entry.state.final or not entry.outputs:
        print(f"{'To resume':<13}{resume_command(entry.id)}")
