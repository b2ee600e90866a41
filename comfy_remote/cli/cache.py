"""``comfy-remote cache``: what is stored of earlier runs, listed and removed."""

from __future__ import annotations

from pathlib import Path

import click

from .jobs.options import age
from .options import json_option

__all__ = ["cache"]


def _bytes(_context: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError:
        raise click.BadParameter(f"{value} is not a size: 800MB, 2GB.") from None


@click.group()
def cache() -> None:
    """List and prune stored results, which later runs need not compute again.

    `run --cache use` and `batch` use them. `check --cache` says whether a run would, and if not,
    why.
    """


@cache.command("list")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def list_results(limit: int, json_lines: bool) -> None:
    """List what is stored, the last used first.

    \b
    Examples:
      comfy-remote cache list
      comfy-remote cache list --json | jq .key
    """
    import time

    from ..config.settings import Configuration
    from ..jobs.cache.store import ResultStore
    from ..jobs.record import Record
    from ..units import ago_text, counted, size_text
    from .console import print_json, print_table, say

    settings = Configuration.load().cache
    with Record() as record:
        results, stored = record.results.all(), record.results.total()
        folder = ResultStore(record, settings).folder
    if json_lines:
        for result in results[:limit]:
            print_json(
                {
                    "key": result.key,
                    "job_id": result.job_id,
                    "target": result.target,
                    "source": result.source,
                    "created": result.created,
                    "used": result.used,
                    "hits": result.hits,
                    "until_restart": result.server is not None,
                    "run_seconds": result.run_seconds,
                    "size": result.size,
                    "outputs": result.outputs,
                }
            )
        return
    if not results:
        say("Nothing is stored. `comfy-remote run WORKFLOW.json --cache use` stores a result.")
        return
    now = time.time()
    print_table(
        ["Job", "Made", "Used", "Times", "Target", "Workflow", "Size"],
        [
            (
                *(result.job_id[:8], ago_text(now - result.created), ago_text(now - result.used)),
                *(str(result.hits), result.target, Path(result.source).name),
                size_text(result.size),
            )
            for result in results[:limit]
        ],
        may_be_cut=["Workflow"],
    )
    days = f"{settings.max_days:g} days"
    say(
        f"{counted(stored.results, 'result')}, {size_text(stored.size)} of "
        f"{size_text(settings.max_bytes)}, in {folder}. What is unused for {days} goes."
    )


@cache.command()
@click.option("--all", "everything", is_flag=True, help="Remove all of it.")
@click.option(
    "--older-than",
    "unused",
    metavar="AGE",
    callback=age,
    help="Remove what was not used since then: 12h, 30d, 8w.",
)
@click.option(
    "--keep-size",
    "keep",
    metavar="SIZE",
    callback=_bytes,
    help="Remove what is unused for the longest time, until no more than this is left: 2GB.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def prune(everything: bool, unused: float | None, keep: int | None, as_json: bool) -> None:
    """Remove stored results. Files that were saved stay.

    Without an option, removes what is over the limits of comfy-remote.toml, cache_max_gb (5) and
    cache_max_days (30), as also happens by itself.

    \b
    Examples:
      comfy-remote cache prune --all
      comfy-remote cache prune --older-than 7d --keep-size 1GB
    """
    from ..config.settings import Configuration
    from ..jobs.cache.store import ResultStore
    from ..jobs.record import Record
    from ..units import counted, size_text
    from .console import print_json, say

    if everything and (unused is not None or keep is not None):
        raise click.UsageError("--all leaves nothing for --older-than and --keep-size.")
    with Record() as record:
        store = ResultStore(record, Configuration.load().cache)
        gone = store.prune(max_bytes=keep, older_than=unused, everything=everything)
        left = record.results.total()
    if as_json:
        removed = {"results": gone.results, "size": gone.size}
        print_json({"removed": removed, "left": {"results": left.results, "size": left.size}})
        return
    say(
        f"Removed {counted(gone.results, 'result')}, {size_text(gone.size)}. "
        f"{counted(left.results, 'result')} left, {size_text(left.size)}."
    )
