"""``comfy-remote``: the command, and the one place where its errors end up."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..version import __version__
from .check import check
from .convert import convert
from .jobs import jobs
from .models import models
from .run import run
from .serve import serve
from .show import show
from .targets import targets

__all__ = ["cli", "main"]


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they are added below: what is needed most comes first."""
        del ctx
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Results go to standard output, everything else to standard error. Exit status: "
    "0 done, 2 usage, 3 connection, 4 workflow, 5 execution, 6 time, 7 outputs, 130 cancelled.",
)
@click.version_option(__version__, prog_name="comfy-remote", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log what is going on (also: DEBUG=1).")
def cli(verbose: bool) -> None:
    """Run ComfyUI workflows on a GPU elsewhere: RunPod, a pod, a machine on the LAN.

    To try it without a GPU: comfy-remote run examples/prompts/collage.json
    """
    from ..targets.environment import load_env_files, nearest_folder

    load_env_files(nearest_folder(Path.cwd()))
    if verbose or os.environ.get("DEBUG", "") not in ("", "0"):
        import logging

        logging.basicConfig(
            level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )


for _command in (run, check, convert, show, jobs, models, serve, targets):
    cli.add_command(_command)


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a character (cp1252) gets its escape, not a traceback.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        # Not click's own `standalone_mode`, which ends Ctrl-C with status 1.
        sys.exit(cli.main(prog_name="comfy-remote", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        from ..errors import ComfyRemoteError
        from .errors import show_error

        if not isinstance(error, ComfyRemoteError):
            raise
        show_error(error)
        sys.exit(error.exit_status)
