"""``comfy-remote run``: a workflow file runs elsewhere, and its outputs come here."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .reporter import Reporter

__all__ = ["make_reporter", "run"]


def run(
    workflow: Annotated[
        Path,
        typer.Argument(
            metavar="WORKFLOW.json",
            help="A workflow in API format (in ComfyUI: Workflow > Export (API)).",
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="TARGET",
            help="Where: runpod:ENDPOINT, a ComfyUI URL, sandbox, or a name from "
            "comfy-remote.toml. Default: the configured one, else sandbox.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NODE.input=value",
            help="Change an input; NODE is an id, a title or a class. May be repeated.",
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A file that a Load node names, if it is not beside the workflow or in an "
            "input folder there. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the outputs go.")
    ] = Path("output"),
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            help="Stop waiting after this long. The job goes on, and can be resumed.",
        ),
    ] = None,
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="Print events and the result as JSON, one object a line."),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show pictures in the terminal.")
    ] = True,
) -> None:
    """Run a workflow on a target, and fetch what it makes.

    Files that its Load nodes name are sent along. Outputs keep their subfolders; a file that
    exists is never replaced. Ctrl-C cancels the job on the target.

    Examples:

      comfy-remote run workflow.json --on runpod:abc123xyz

      comfy-remote run workflow.json --on http://192.168.1.20:8188 --set KSampler.seed=42

      comfy-remote run workflow.json --set 6.text="a lighthouse" --json
    """
    import time
    import uuid

    from ..errors import InputFileMissing
    from ..events import Log
    from ..jobs.client import Client
    from ..jobs.record import Record
    from ..targets.config import Configuration, open_target
    from ..workflow.edit import apply_settings
    from ..workflow.files import file_uses
    from ..workflow.load import load_prompt
    from .follow import follow, supervise

    began = time.monotonic()
    job_id = str(uuid.uuid4())
    given = inputs or []
    reporter = make_reporter(json_lines=json_lines, preview=preview)

    async def whole(record: Record) -> None:
        prompt = apply_settings(load_prompt(workflow), settings or ())
        for path in given:
            if not path.is_file():
                raise InputFileMissing(f"--input {path}: there is no such file.")
        configuration = Configuration.load()
        target = open_target(configuration.choose(on), configuration)
        if on is None and configuration.default is None:
            reporter.note("No target is configured: using the sandbox.")
        elif on is None:
            reporter.note(f"Using the configured target: {target.name}.")
        reporter.connecting(target.name)
        async with Client(target, record=record) as client:
            job = await client.submit(
                prompt,
                inputs=given,
                folder=output,
                source=str(workflow),
                base=workflow.absolute().parent,
                timeout=timeout,
                job_id=job_id,
            )
            reporter.following(job.id, target.name, prompt)
            loaded = {PurePosixPath(use.name.replace("\\", "/")).name for use in file_uses(prompt)}
            for path in given:
                if path.name not in loaded:
                    unused = f"--input {path} was not sent: no Load node names {path.name!r}."
                    reporter.event(Log(unused, "warning"))
            outputs = await follow(job, output, reporter)
            reporter.saved(outputs, time.monotonic() - began)

    supervise(whole, reporter, job_id)


def make_reporter(*, json_lines: bool, preview: bool) -> Reporter:
    """JSON if it is wanted, a live display for who sits at a terminal, else plain lines."""
    from .console import is_interactive

    if json_lines:
        from .reporter import JsonReporter

        return JsonReporter(previews=preview)
    if is_interactive(sys.stderr):
        from .live import LiveReporter

        return LiveReporter(pictures=preview)
    from .plain import PlainReporter

    return PlainReporter()
