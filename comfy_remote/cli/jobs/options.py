"""Options that several of the commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..options import complete_job, own_folder

if TYPE_CHECKING:
    from ...jobs.record import JobEntry, Record

__all__ = [
    "age",
    "chosen_jobs",
    "folder_option",
    "job_argument",
    "job_arguments",
    "jobs_named",
    "length_of_time",
    "offline_option",
    "output_folder",
    "several_jobs",
    "since",
    "to_target_option",
]

_MOST = 10_000

_Command = TypeVar("_Command", bound=Callable[..., object])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def age(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """An option's callback: a length of time, in seconds."""
    if value is None:
        return None
    if (seconds := length_of_time(value)) is None:
        raise click.BadParameter(f"{value!r} is not a length of time, such as 90m, 12h, 30d or 8w.")
    return seconds


def since(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """An option's callback: a moment in the past, in seconds since the epoch. Local time."""
    if value is None:
        return None
    now = datetime.now().astimezone()
    if value == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    if (seconds := length_of_time(value)) is not None:
        return now.timestamp() - seconds
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{value!r} is neither a length of time (90m, 12h, 3d) nor a date (today, 2026-11-30, "
            "2026-11-30T18:00)."
        ) from None


def _typed(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    from ...targets.kinds import typed_target

    return None if value is None else typed_target(value)


def length_of_time(text: str) -> float | None:
    """Seconds of ``90m``, ``12h``, ``3d``; ``None`` if it is none."""
    found = _AGE.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS[found[2]]


job_argument = click.argument("job", metavar="ID", shell_complete=complete_job)

offline_option = click.option(
    "--offline", is_flag=True, help="Ask no target; show what was last known."
)

to_target_option = click.option(
    *("--on", "on"),
    metavar="TARGET",
    callback=_typed,
    help="Only those that were sent to this target.",
)


def jobs_named(record: Record, job_ids: Iterable[str]) -> list[JobEntry]:
    """The jobs that ids, or beginnings of ids, mean: each once.

    Raises:
        JobNotFound: One means none, or several.
    """
    found = (record.get(job_id) for job_id in job_ids)
    return [*{entry.id: entry for entry in found}.values()]


def job_arguments(*, required: bool) -> Callable[[_Command], _Command]:
    """One job or several."""
    return click.argument(
        "job_ids",
        metavar="ID..." if required else "[ID]...",
        nargs=-1,
        required=required,
        shell_complete=complete_job,
    )


def several_jobs(command: _Command) -> _Command:
    """Ids, or ``--all`` that have not ended, perhaps of one target; see `chosen_jobs`."""
    all_option = click.option("--all", "everything", is_flag=True, help="All that have not ended.")
    return job_arguments(required=False)(all_option(to_target_option(command)))


def chosen_jobs(
    record: Record, job_ids: tuple[str, ...], on: str | None, *, everything: bool
) -> list[JobEntry]:
    """The jobs that `several_jobs` names; of ``--all``, the newest 10,000.

    Raises:
        click.UsageError: Both ids and ``--all`` were given, or neither.
        JobNotFound: An id is unknown.
    """
    from ...jobs.record import JobFilter

    if everything == bool(job_ids):
        raise click.UsageError("Give the ids of jobs, or --all.")
    if on is not None and not everything:
        raise click.UsageError("--on chooses among --all.")
    if everything:
        return record.newest(_MOST, JobFilter.not_ended(on))
    return jobs_named(record, job_ids)


folder_option = click.option(
    *("-o", "--output"),
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the outputs go. Default: the folder that the run named.",
)


def output_folder(output: Path | None, entry: JobEntry | None) -> Path:
    """Where outputs go: as `folder_option` says, else as the run did, else ``output``.

    Raises:
        ConfigurationError: ``output`` is a link out of the current folder.
    """
    named = output or (entry.folder if entry is not None else None)
    if named is None:
        named = own_folder(Path("output"), "If that is meant, say so: -o output")
    return named.expanduser().absolute()
