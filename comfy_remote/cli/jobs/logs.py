"""``comfy-remote jobs logs``."""

from __future__ import annotations

import click

from .options import job_argument

__all__ = ["logs"]


@click.command(short_help="Print a job's times, warnings, error and attempts.")
@job_argument
def logs(job: str) -> None:
    """Print what was recorded while a job ran: its times, warnings and error, and all attempts.

    A failed job's error has the last lines of ComfyUI's own log, where its worker is ours.
    """
    from ...jobs.record import Record
    from ...units import seconds_text
    from ..console import printable_line
    from ..errors import explain, traceback_of
    from .shown import when

    with Record() as record:
        entry = record.get(job)
        attempts = record.attempts(entry.first)
        steps = record.routes.steps(entry.id)
    lines = [(entry.created, f"sent to {entry.target}")]
    lines += [(step.at, step.why) for step in steps]
    if entry.started is not None:
        lines.append((entry.started, "began"))
    lines += [(one.at, f"warning: {one.message}") for one in entry.said]
    if entry.state.final:
        ran = "" if entry.run_seconds is None else f" after {seconds_text(entry.run_seconds)}"
        lines.append((entry.updated, f"{entry.state.value}{ran}"))
    for at, words in sorted(lines, key=lambda line: line[0]):
        print(printable_line(f"{when(at)}  {words}"))
    if entry.error is not None:
        print("", *explain(entry.error), *traceback_of(entry.error), sep="\n")
        if isinstance(log := entry.error.details.get("engine_log"), str | list):
            text = log if isinstance(log, str) else "\n".join(map(str, log))
            # Set apart from what we say ourselves: nodes write into it.
            lines_of_log = [printable_line(f"  | {line}") for line in text.splitlines()]
            print("", "ComfyUI's log:", *lines_of_log, sep="\n")
    if len(attempts) > 1:
        print()
        for one in attempts:
            print(f"Attempt {one.attempt}: {one.id}  {one.state.value}")
