"""``comfy-remote run``: a workflow file runs elsewhere, and its outputs come here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import (
    USUAL_TARGET,
    cache_option,
    cap_options,
    change_options,
    download_option,
    dry_run_option,
    inputs_option,
    json_schema_option,
    lock_named,
    lock_option,
    no_wait_option,
    notify_option,
    open_option,
    output_option,
    preview_option,
    quiet_option,
    refuse_both_caps,
    target_option,
    timeout_option,
    workflow_argument,
)
from .schemas import schemas_option

if TYPE_CHECKING:
    from ..config.cache_settings import CacheMode
    from ..workflow.change.prepare import Changes

__all__ = ["run"]


@click.command()
@workflow_argument
@target_option(
    "Where it runs: runpod:ENDPOINT, a ComfyUI URL, sandbox, or a name from "
    f"comfy-remote.toml. {USUAL_TARGET}"
)
@change_options
@inputs_option
@schemas_option
@output_option("Where the outputs go.")
@download_option
@timeout_option
@cap_options
@cache_option
@dry_run_option
@lock_option(
    "--locked",
    "Refuse, before anything is sent, if the target is not what this lock says; see "
    "`comfy-remote lock`.",
    own=True,
)
@no_wait_option
@click.option(
    "--no-retry-lost",
    "retry_lost",
    is_flag=True,
    flag_value=False,
    default=True,
    help="On a gateway of yours: fail, rather than start the job again, if its worker is lost.",
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
    "--log",
    "log_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a log of the run to this folder: phases, node times, versions, the prompt.",
)
@click.option(
    "--json", "json_lines", is_flag=True, help="Print events and the result as JSON lines."
)
@json_schema_option
@quiet_option
@notify_option
@preview_option
@open_option
def run(
    workflow: Path,
    on: str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
    schemas_source: Path | str | None,
    output: Path,
    download: bool,
    timeout: float | None,
    cap: float | None,
    over_cap: bool,
    cache: CacheMode | None,
    dry: bool,
    lock_file: Path | None,
    wait: bool,
    retry_lost: bool,
    with_repo_list: bool,
    log_folder: Path | None,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
    preview: bool,
    open_it: bool,
) -> None:
    """Run a workflow on a target, and fetch what it makes.

    WORKFLOW is a JSON file in API or UI format, a picture, video, sound or model that ComfyUI
    saved with its workflow, - for standard input, or example:collage, which comes with this
    package and runs everywhere. ${NAME} in a JSON file is filled in:
    ${PROMPT}, ${SEED} and so on from the options, others with --var. Files that Load nodes name
    are sent along. Outputs keep their subfolders; a file that exists is never replaced. Ctrl-C
    cancels the job on the target.

    \b
    Examples:
      comfy-remote run workflow.json --on runpod:abc123xyz
      comfy-remote run workflow.json --on http://192.168.1.20:8188
      comfy-remote run workflow.json --prompt "a cat" --seed random --width 1024
      comfy-remote run ComfyUI_00042_.png --set KSampler.steps=40
      comfy-remote run workflow.json --dry-run
      comfy-remote run workflow.json --on gpu --locked comfy-remote.lock
      comfy-remote run workflow.json --no-wait
    """
    from .options import make_reporter
    from .run_workflow import RunPlan, run_workflow

    if not wait and (open_it or notify):
        raise click.UsageError(
            "--open and --notify need the end, which --no-wait does not wait for."
        )

    refuse_both_caps(cap, over_cap=over_cap)
    reporter = make_reporter(json_lines=json_lines, preview=preview, quiet=quiet, notify=notify)
    plan = RunPlan(
        workflow,
        on,
        changes,
        inputs,
        # It is recorded, and the job may be resumed in another folder.
        output.expanduser().absolute(),
        timeout,
        download,
        log_folder=log_folder,
        open_first=open_it,
        schemas=schemas_source,
        retry_lost=retry_lost,
        with_repo_list=with_repo_list,
        wait=wait,
        dry=dry,
        lock_file=lock_named(lock_file, workflow),
        cap=cap,
        over_cap=over_cap,
        cache=cache,
    )
    run_workflow(plan, reporter)
