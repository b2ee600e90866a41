"""``comfy-remote``: the command, and the one place where its errors end up."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from . import jobs, run, serve, targets

__all__ = ["app", "main"]

app = typer.Typer(
    name="comfy-remote",
    help="Run ComfyUI workflows on a GPU elsewhere: RunPod, a pod, a machine on the LAN.",
    epilog="Try it without a GPU: comfy-remote run examples/collage.json. "
    "Results go to standard output, everything else to standard error. "
    "Exit status: 0 done, 2 usage, 3 connection, 4 workflow, 5 execution, 6 time, 7 outputs, "
    "130 cancelled.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: rich's panels would cost a third of the time that `--help` takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.add_typer(jobs.app, name="jobs")
app.command("serve")(serve.serve)
app.command("targets")(targets.targets)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"comfy-remote {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001  its callback has done it all
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what is going on (also: DEBUG=1).")
    ] = False,
) -> None:
    # What every command shares; the text of the help is the app's own.
    if verbose or os.environ.get("DEBUG", "") not in ("", "0"):
        import logging

        logging.basicConfig(
            level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a character (cp1252) gets its escape, not a traceback.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        app(prog_name="comfy-remote")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from ..errors import ComfyRemoteError
        from .errors import show_error

        if not isinstance(error, ComfyRemoteError):
            raise
        show_error(error)
        sys.exit(error.exit_status)
