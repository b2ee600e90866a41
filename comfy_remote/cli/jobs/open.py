"""``comfy-remote jobs open``."""

from __future__ import annotations

import click

from .options import job_argument

__all__ = ["open_output"]


@click.command("open", short_help="Open a job's first output on the desktop.")
@job_argument
@click.option("--folder", is_flag=True, help="Open the folder that they are in.")
def open_output(job: str, folder: bool) -> None:
    """Open a job's first output with the program that the desktop has for it."""
    from ...errors import OutputLost
    from ...events import JobState
    from ...jobs.record import Record
    from ...targets.own_command import own_command
    from ..console import resume_command, say
    from ..open_file import open_first, open_path

    with Record() as record:
        entry = record.get(job)
    there = [output for output in entry.outputs if output.path.is_file()]
    if not there:
        if entry.state is JobState.CANCELLED and not entry.outputs:
            raise OutputLost(
                f"Job {entry.id} was cancelled: it has no outputs.",
                advice=f"`{own_command()} jobs retry {entry.id}` runs it again.",
            )
        gone = "are no longer where they were saved" if entry.outputs else "are not here"
        again = resume_command(entry.id)
        raise OutputLost(
            f"The outputs of job {entry.id} {gone}.",
            advice=f"`{again}` fetches them, as long as the target has them.",
        )
    why_not = open_path(there[0].path.parent) if folder else open_first(there)
    if why_not:
        say(why_not.removeprefix("--open: "))
        raise click.exceptions.Exit(1)
