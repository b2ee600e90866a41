"""``comfy-remote call``: a workflow, or a service, as a function: values in, values out."""

from __future__ import annotations

from pathlib import Path

import click

from .options import (
    EXAMPLE,
    USUAL_TARGET,
    WORKFLOW,
    json_option,
    output_option,
    target_option,
    timeout_option,
)

__all__ = ["call"]


@click.command()
@click.argument(
    "workflow",
    metavar="WORKFLOW|URL|NAME",
    callback=lambda context, argument, typed: str(
        WORKFLOW.convert(typed, argument, context) if typed.startswith(EXAMPLE) else typed
    ),
)
@target_option(f"Where a workflow runs. {USUAL_TARGET}")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A value for a Remote Input: KEY=TEXT, KEY=JSON or KEY=@FILE (a picture, a sound, a "
    "text, or a value file). May be repeated.",
)
@click.option(
    "--load",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file that a Load node of a workflow names, if it is not in the folder of the workflow, "
    "in the current one, or below these. May be repeated.",
)
@output_option("Where pictures, sounds and other files go.")
@click.option(
    "--exact", is_flag=True, help="Save value files, which are exact, instead of PNG or WAV."
)
@timeout_option
@json_option
def call(
    workflow: str,
    on: str | None,
    inputs: tuple[str, ...],
    files: tuple[Path, ...],
    output: Path,
    exact: bool,
    timeout: float | None,
    json_lines: bool,
) -> None:
    """Call a workflow with values for its Remote Input nodes.

    WORKFLOW is a file that runs on a target. URL is a service: `comfy-remote service`, a Modal
    app, any server of that protocol; NAME one of comfy-remote.toml. Numbers and texts that come
    back are printed, the rest is saved. A service's key is taken from comfy-remote.toml, or from
    COMFY_REMOTE_TOKEN_HOST (api.example.com: COMFY_REMOTE_TOKEN_API_EXAMPLE_COM). Ctrl-C cancels.

    \b
    Examples:
      comfy-remote call portrait.json --on runpod:abc123xyz -i image=@photo.png -i steps=20
      comfy-remote call https://portrait.example.com -i prompt="a cat" -o pictures
    """
    from .call_run import CallPlan, parse_inputs, run_call
    from .options import make_reporter

    plan = CallPlan(
        workflow,
        on,
        parse_inputs(inputs),
        files,
        output.expanduser().absolute(),
        exact=exact,
        timeout=timeout,
        json_lines=json_lines,
    )
    run_call(plan, make_reporter(json_lines=json_lines, preview=True))
