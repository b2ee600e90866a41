"""``comfy-remote run``: a workflow file runs elsewhere, and its outputs come here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from .options import change_options, inputs_option, preview_option, timeout_option

if TYPE_CHECKING:
    from ..jobs.record import Record
    from ..workflow.prepare import Changes

__all__ = ["run"]


@click.command()
@click.argument("workflow", metavar="WORKFLOW", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--on",
    metavar="TARGET",
    help="Where: runpod:ENDPOINT, a ComfyUI URL, sandbox, or a name from comfy-remote.toml. "
    "Default: the configured one, else sandbox.",
)
@change_options
@inputs_option
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Where the outputs go.",
)
@timeout_option
@click.option(
    "--json", "json_lines", is_flag=True, help="Print events and the result as JSON lines."
)
@preview_option
def run(
    workflow: Path,
    on: str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
    output: Path,
    timeout: float | None,
    json_lines: bool,
    preview: bool,
) -> None:
    """Run a workflow on a target, and fetch what it makes.

    WORKFLOW is a JSON file in API or UI format, a picture, video, sound or model that ComfyUI
    saved with its workflow, or - for standard input. ${NAME} in a JSON file is filled in from
    the environment, ${PROMPT} and ${SEED} from the options. Files that Load nodes name are sent
    along. Outputs keep their subfolders; a file that exists is never replaced. Ctrl-C cancels
    the job on the target.

    \b
    Examples:
      comfy-remote run workflow.json --on runpod:abc123xyz
      comfy-remote run workflow.json --on http://192.168.1.20:8188
      comfy-remote run workflow.json --prompt "a cat" --seed random --width 1024
      comfy-remote run ComfyUI_00042_.png --set KSampler.steps=40
    """
    import os
    import time
    import uuid

    from ..errors import InputFileMissing
    from ..events import Log
    from ..jobs.client import Client
    from ..jobs.cost import estimate_run
    from ..media.files import private_folder
    from ..targets.config import Configuration, open_target
    from ..workflow.files import file_uses
    from ..workflow.load import load_workflow
    from ..workflow.prepare import prepare
    from .follow import follow, supervise
    from .options import make_reporter

    began = time.monotonic()
    job_id = str(uuid.uuid4())
    # What is recorded holds in whatever folder the job is resumed.
    folder = output.expanduser().absolute()
    reporter = make_reporter(json_lines=json_lines, preview=preview)

    async def whole(record: Record) -> None:
        loaded = load_workflow(workflow, variables=changes.variables(os.environ))
        for path in inputs:
            if not path.is_file():
                raise InputFileMissing(f"--input {path}: there is no such file.")
        with private_folder(folder):
            pass  # It can be written to: better known before a GPU has worked for it.
        configuration = Configuration.load()
        target = open_target(configuration.choose(on), configuration)
        if on is None and configuration.default is None:
            reporter.note("No target is configured: using the sandbox.")
        elif on is None:
            reporter.note(f"Using the configured target: {target.name}.")
        reporter.connecting(target.name)
        async with Client(target, record=record) as client:
            unsure = changes or loaded.prompt is None
            prepared = prepare(
                loaded, changes, await client.schemas(loaded.prompt) if unsure else None
            )
            prompt = prepared.prompt
            for sentence in prepared.notes:
                reporter.note(sentence)
            price = configuration.price_per_hour(target.name)
            estimate = estimate_run(record, target.name, prompt, price)
            paid = price is not None or configuration.address_of(target.name).startswith("runpod:")
            if paid and estimate.seconds is not None:
                reporter.note(estimate.sentence())
            job = await client.submit(
                prompt,
                inputs=inputs,
                folder=folder,
                workflow=prepared.workflow,
                source=loaded.source,
                base=workflow.absolute().parent,
                timeout=timeout,
                job_id=job_id,
            )
            reporter.following(job.id, target.name, prompt)
            used = {PurePosixPath(use.name.replace("\\", "/")).name for use in file_uses(prompt)}
            for path in inputs:
                if path.name not in used:
                    unused = f"--input {path} was not sent: no Load node names {path.name!r}."
                    reporter.event(Log(unused, "warning"))
            outputs = await follow(job, folder, reporter)
            reporter.saved(outputs, time.monotonic() - began)

    supervise(whole, reporter, job_id)
