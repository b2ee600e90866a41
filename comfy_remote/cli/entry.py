"""How both commands begin and end: logging, and the place where errors end up."""

from __future__ import annotations

import gc
import os
import sys

import click

from ..config.secrets import SECRETS
from .signals import treat_like_ctrl_c

__all__ = ["EXIT_STATUSES", "enter", "start"]

EXIT_STATUSES = (
    "Results go to standard output, everything else to standard error. Exit status: 0 done, "
    "2 usage, 3 connection, 4 workflow, 5 execution, 6 time, 7 outputs, 130 cancelled."
)


def start(*, verbose: bool = False) -> None:
    """Know this process's secrets, and log if that is wanted (also: ``DEBUG=1``)."""
    SECRETS.add_environment(os.environ)
    if verbose or os.environ.get("DEBUG", "") not in ("", "0"):
        import logging

        from ..config.log import log_to_stderr

        log_to_stderr(logging.DEBUG, "%(asctime)s %(levelname)s %(name)s: %(message)s")


def enter(command: click.Command, name: str) -> None:
    """Run a command with ``sys.argv``, and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a character (cp1252) gets its escape, not a traceback.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    treat_like_ctrl_c()
    try:
        # Not click's own `standalone_mode`, which ends Ctrl-C with status 1.
        sys.exit(command.main(prog_name=name, standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BaseException as error:
        if _is_cancelled(error):
            sys.exit(130)
        from ..errors import ComfyRemoteError
        from .errors import show_error

        if not isinstance(error, ComfyRemoteError):
            raise
        show_error(error)
        sys.exit(error.exit_status)
    finally:
        # The process ends: to look through all that was ever imported for garbage takes longer
        # than a small run does.
        gc.freeze()


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is what a command raises that was interrupted while it waited."""
    # Not imported for this: it takes longer than what small commands do.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)
