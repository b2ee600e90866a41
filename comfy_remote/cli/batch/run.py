"""``comfy-remote batch WORKFLOW``: many runs of one workflow, as one thing that lasts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...config.cache_settings import CACHE_MODES
from ..options import (
    SECONDS,
    USUAL_TARGET,
    batch_cap_options,
    change_options,
    inputs_option,
    lock_named,
    lock_option,
    own_folder,
    refuse_both_caps,
    target_option,
    workflow_argument,
)
from ..schemas import schemas_option
from .options import check_notify, hand_over_option, reporting_options

if TYPE_CHECKING:
    from ...config.cache_settings import CacheMode
    from ...workflow.change.prepare import Changes

__all__ = ["run"]

_LONGEST_NAME = 80
_AT_LEAST_ONE = click.IntRange(min=1)


def _name(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if not value.strip() or value.startswith("-") or len(value) > _LONGEST_NAME:
        raise click.BadParameter(
            f"it has 1 to {_LONGEST_NAME} characters, and does not begin with -."
        )
    if not value.isprintable():
        raise click.BadParameter("it is one line of text that can be shown.")
    return value.strip()


@click.command(short_help="Run a workflow many times; batch WORKFLOW is the same.")
@workflow_argument
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=VALUES|@FILE",
    help="Vary an input: a range (KSampler.seed=1..8, cfg 0.1..0.9/0.2), a list (5,7,9), "
    "random*8, files (LoadImage.image=portraits/*.png), or a line each of a file "
    "(prompt=@prompts.txt). NAME is as for --set, or prompt, negative, seed, width, height, "
    "batch. A CSV file with a header names what it varies: @runs.csv. May be repeated; the runs "
    "are all combinations.",
)
@click.option(
    "--zip",
    "zipped",
    multiple=True,
    metavar="NAME,NAME",
    help="Vary these together, first with first, instead of in all combinations.",
)
@click.option(
    "--rows",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The rows of a .csv or .jsonl file, which name what they set.",
)
@click.option(
    "--repeat",
    metavar="N",
    type=_AT_LEAST_ONE,
    help="Run each combination N times, with fresh seeds.",
)
@click.option(
    "--sample", metavar="N", type=_AT_LEAST_ONE, help="Run only N of the combinations, at random."
)
@click.option(
    "--sample-seed", metavar="N", type=click.IntRange(min=0), help="For the same sample again."
)
@target_option(
    "Where it runs: runpod:ENDPOINT, a ComfyUI URL, sandbox, or a name from "
    f"comfy-remote.toml. {USUAL_TARGET}"
)
@click.option(
    "--at-most",
    metavar="N",
    type=_AT_LEAST_ONE,
    help="How many runs at a time. Default: as many as the target has workers, and one that waits.",
)
@click.option(
    "--name", metavar="NAME", callback=_name, help="What to call it. Default: as the workflow."
)
@click.option(
    "--start", metavar="HH:MM", help="Begin when the clock here next shows this time: 23:00."
)
@click.option(
    "--until",
    metavar="HH:MM",
    help="Begin no run that would not have ended by then; the rest waits for `batch resume`.",
)
@click.option(
    "--stop-after",
    metavar="N",
    type=_AT_LEAST_ONE,
    help="Pause once N runs have failed. Default: run them all.",
)
@change_options
@inputs_option
@schemas_option
@click.option(
    *("-o", "--output"),
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the outputs, manifest.jsonl and sheet.html go: a folder of its own. Default: "
    "outputs/NAME.",
)
@click.option(
    "--flat",
    metavar="PATTERN",
    help="Put all outputs into that folder, named like {index}_{seed}{ext}, instead of into a "
    "folder for each run.",
)
@click.option("--embed", is_flag=True, help="Put all thumbnails into sheet.html itself.")
@click.option("--timeout", metavar="SECONDS", type=SECONDS, help="For each run.")
@click.option(
    "--cache",
    metavar="use|refresh|off",
    type=click.Choice(CACHE_MODES),
    default="use",
    show_default=True,
    help="use: take stored results of earlier runs, and store new ones; refresh: only store; "
    "off: neither.",
)
@batch_cap_options
@click.option(
    "--no-retry-lost",
    "retry_lost",
    is_flag=True,
    flag_value=False,
    default=True,
    help="On a gateway of yours: fail, rather than start a run again, if its worker is lost.",
)
@click.option(
    "--no-repo-list",
    "with_repo_list",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Ask for none of the models that a node titled repo_list names.",
)
@click.option(
    "--dry-run",
    "dry",
    is_flag=True,
    help="Send nothing. Say how many runs, what varies, about how long and how much, and what "
    "would be refused.",
)
@lock_option(
    "--locked",
    "Refuse, before anything is sent, if the target is not what this lock says (see `comfy-remote "
    "lock`) when the batch starts.",
    own=True,
)
@hand_over_option("`batch watch` shows it.")
@click.option("-y", "--yes", is_flag=True, help="Start it without asking, however large it is.")
@reporting_options
def run(
    workflow: Path,
    vary: tuple[str, ...],
    zipped: tuple[str, ...],
    rows: Path | None,
    repeat: int | None,
    sample: int | None,
    sample_seed: int | None,
    on: str | None,
    at_most: int | None,
    name: str | None,
    start: str | None,
    until: str | None,
    stop_after: int | None,
    changes: Changes,
    inputs: tuple[Path, ...],
    schemas_source: Path | str | None,
    output: Path | None,
    flat: str | None,
    embed: bool,
    timeout: float | None,
    cache: CacheMode,
    cap: float | None,
    over_cap: bool,
    retry_lost: bool,
    with_repo_list: bool,
    dry: bool,
    lock_file: Path | None,
    wait: bool,
    yes: bool,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
) -> None:
    """Run a workflow many times, with what varies, as one batch.

    WORKFLOW is whatever `run` takes. Before anything is sent, it says how many runs there are,
    about how long they take, and what would be refused; above 200 runs, or about $10, it asks.
    From then on, nothing that changes here changes the batch. Ctrl-C ends the command, and what
    runs continues on the target; `batch resume` goes on, also after a crash, and runs nothing
    twice.

    \b
    Examples:
      comfy-remote batch portrait.json --vary seed=1..8 --vary KSampler.cfg=5,7,9
      comfy-remote batch portrait.json --vary prompt=@prompts.txt --repeat 4
      comfy-remote batch upscale.json --vary LoadImage.image=portraits/*.png
      comfy-remote batch portrait.json --rows runs.csv --start 23:00 --until 07:00 --no-wait
      comfy-remote batch portrait.json --vary seed=1..1000 --dry-run
    """
    from ..entry import import_ahead

    import_ahead()
    from ...batch.draft import BatchOptions
    from ...batch.plan import Variation
    from .starting import Wanted, start_batch

    if not (vary or rows or repeat):
        raise click.UsageError(
            "Nothing varies: give --vary NAME=VALUES, --rows FILE, or --repeat N for fresh seeds."
        )
    check_notify(notify, wait=wait)
    refuse_both_caps(cap, over_cap=over_cap)
    if output is None:
        own_folder(Path("outputs"), "If that is meant, name a folder in it with -o.")
    options = BatchOptions(
        name=name,
        folder=output,
        at_most=at_most,
        stop_after=stop_after,
        pattern=flat,
        timeout=timeout,
        start=start,
        until=until,
        repo_list=None if with_repo_list else "",
        retry_lost=retry_lost,
        embed=embed,
        cache=cache,
        cap=cap,
        over_cap=over_cap,
    )
    wanted = Wanted(
        workflow,
        Variation(vary, zipped, rows, repeat, sample, sample_seed),
        on,
        changes,
        inputs,
        options,
        schemas_source,
        dry=dry,
        wait=wait,
        agreed=yes,
        lock_file=lock_named(lock_file, workflow),
    )
    start_batch(wanted, json_lines=json_lines, quiet=quiet, notify=notify)
