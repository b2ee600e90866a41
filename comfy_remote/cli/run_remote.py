"""``comfy-run-remote``: a workflow on a ComfyUI that listens somewhere else, above all a pod."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .entry import EXIT_STATUSES, enter, start
from .options import (
    SECONDS,
    WORKFLOW,
    change_options,
    complete_target,
    config_option,
    download_option,
    dry_run_option,
    inputs_option,
    json_option,
    json_schema_option,
    notify_option,
    open_option,
    own_folder,
    own_folder_by_default,
    preview_option,
    quiet_option,
)
from .schemas import schemas_option
from .trust import asks_for_trust

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..workflow.change.prepare import Changes

__all__ = ["main", "run_remote"]


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_STATUSES,
)
@click.option(
    "--workflow",
    metavar="FILE",
    type=WORKFLOW,
    help="JSON in API or UI format, a picture or video that ComfyUI saved with its workflow, or "
    "- for standard input. Default: default_workflow of comfy-remote.toml, else text to image with "
    "a checkpoint of the pod, or with its Flux, Z-Image or Qwen-Image.",
)
@click.option("--image-id", metavar="ID", help="A word for this run: ${IMAGE_ID}, and in its log.")
@change_options
@click.option(
    "--output-folder",
    metavar="PATH",
    help="Where the pod saves, below ComfyUI's output folder (of a whole path, what comes after "
    "output/): ${OUTPUT_FOLDER}, or else of all nodes that save.",
)
@click.option(
    "--pod-url",
    metavar="URL",
    shell_complete=complete_target,
    help="ID-8188.proxy.runpod.net, a pod's id, any ComfyUI address, or a name from "
    "comfy-remote.toml. Default: RUNPOD_POD_URL, else the account's running pod.",
)
@click.option(
    "--local-output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="./output/",
    callback=own_folder_by_default,
    show_default=True,
    help="Where the outputs go on this machine.",
)
@download_option
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=SECONDS,
    default=3600,
    show_default=True,
    help="Stop after this long, including fetching the outputs. The job continues, and can be "
    "resumed.",
)
@inputs_option
@schemas_option
@dry_run_option
@json_option
@json_schema_option
@quiet_option
@notify_option
@preview_option
@open_option
@config_option
@click.option("-v", "--verbose", is_flag=True, help="Log what happens (also: DEBUG=1).")
@asks_for_trust
def run_remote(
    workflow: Path | None,
    image_id: str | None,
    changes: Changes,
    output_folder: str | None,
    pod_url: str | None,
    local_output: Path,
    download: bool,
    timeout: float,
    inputs: tuple[Path, ...],
    schemas_source: Path | str | None,
    dry: bool,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
    preview: bool,
    open_it: bool,
    verbose: bool,
) -> None:
    """Run a workflow on a ComfyUI elsewhere, and fetch what it makes.

    ${NAME} in a JSON file is filled in: ${PROMPT}, ${SEED}, ${IMAGE_ID} and ${OUTPUT_FOLDER} from
    the options, others with --var. Files that Load nodes name are sent along. Ctrl-C
    leaves the job running, and says how to fetch it. Each run leaves a log in
    ./logs/generations/.

    \b
    Examples:
      comfy-run-remote --prompt "a lighthouse" --seed 42
      comfy-run-remote --workflow flux.json --prompt "a cat" --pod-url abc123xyz90
      comfy-run-remote --workflow film.json --image-id take-3 --output-folder films
      comfy-run-remote --workflow film.json --dry-run
    """
    start(verbose=verbose)
    if workflow is None and changes.prompt is None:
        raise click.UsageError("Give --prompt TEXT, --workflow FILE, or both.")
    from dataclasses import replace

    from ..config.settings import Configuration
    from .options import make_reporter
    from .run_workflow import RunPlan, run_workflow

    configuration = Configuration.load()
    plan = RunPlan(
        workflow or configuration.default_workflow,
        _pod_address(pod_url, configuration),
        # Scripts pass variables that may be empty: as good as not given.
        # Scripts also pass a text and a seed to workflows that have no use for them.
        replace(
            changes,
            output_folder=_below(output_folder) if output_folder else None,
            image_id=image_id or None,
            where_possible=True,
        ),
        inputs,
        local_output.expanduser().absolute(),
        timeout,
        download,
        "leave",
        own_folder(Path("logs", "generations"), "Remove that link: logs are written there."),
        open_it,
        schemas_source,
        dry=dry,
    )
    if not image_id:
        plan = replace(plan, changes=replace(plan.changes, image_id=plan.job_id[:8]))
    reporter = make_reporter(json_lines=json_lines, preview=preview, quiet=quiet, notify=notify)
    run_workflow(plan, reporter)


def _below(output_folder: str) -> str:
    """What comes after ComfyUI's output folder."""
    from ..errors import WorkflowInvalid
    from ..workflow.change.file_names import below_output

    try:
        return below_output(output_folder)
    except WorkflowInvalid as error:
        raise click.BadParameter(str(error), param_hint="--output-folder") from None


def _pod_address(pod_url: str | None, configuration: Configuration) -> str:
    from ..targets.pod import chosen_pod_address

    if pod_url is not None:
        configuration.settings_of(pod_url)  # a name that is not trusted is not taken for a pod's id
    return chosen_pod_address(pod_url, configuration.targets)


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    enter(run_remote, "comfy-run-remote", ahead=True)
