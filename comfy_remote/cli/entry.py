"""How both commands begin and end: streams, logging, and how errors are shown."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import click

from ..secrets import SECRETS
from ..version import __version__
from .interrupt import treat_like_ctrl_c

if TYPE_CHECKING:
    from ..errors import ComfyRemoteError

__all__ = ["EXIT_STATUSES", "enter", "import_ahead", "prepare_streams", "start"]

EXIT_STATUSES = (
    "Results go to standard output, everything else to standard error. Exit status: 0 done, "
    "2 usage, 3 connection, 4 workflow, 5 execution, 6 time, 7 outputs, 8 incomplete (an output is "
    "missing or damaged), 130 cancelled."
)

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
_LONGEST_SHOWN = 80
_READS_CERTIFICATES = "aiohttp.connector"  # if it is renamed, the whole import is waited for
_LOOK_AGAIN = 0.002  # seconds


def start(*, verbose: bool = False) -> None:
    """Note this process's secrets, and log if wanted (also by ``DEBUG=1``)."""
    from ..config.log import clean_handlers, log_to_stderr  # not for --help

    SECRETS.add_environment(os.environ)
    clean_handlers()
    if verbose or os.environ.get("DEBUG", "") not in ("", "0"):
        import logging

        # Messages of other packages rarely help, and asyncio and Pillow log many.
        log_to_stderr(logging.INFO, "%(asctime)s %(levelname)s %(name)s: %(message)s")
        log = logging.getLogger(__name__.partition(".")[0])
        log.setLevel(logging.DEBUG)
        log.debug(
            "Comfy Remote %s, Python %s on %s.",
            __version__,
            sys.version.partition(" ")[0],
            sys.platform,
        )


def enter(command: click.Command, name: str, *, ahead: bool = False) -> None:
    """Run a command with ``sys.argv``, and exit with its status.

    Args:
        ahead: Whether to `import_ahead` first: the command is known to talk to a target.
    """
    # Next to nothing of what is imported becomes garbage, and by default Python looks for it at
    # every 700 new objects. `run_interruptible` ends that, since what it runs may take days.
    gc.set_threshold(200_000)
    prepare_streams()
    treat_like_ctrl_c()
    if f"_{name.replace('-', '_').upper()}_COMPLETE" in os.environ:
        from .completion import know_shells

        know_shells()
    try:
        if ahead:
            import_ahead()
        # Not click's own `standalone_mode`, which ends Ctrl-C with status 1. On Windows, it would
        # expand $NAME, %NAME%, ~ and * in every argument, texts for pictures among them.
        status = command.main(prog_name=name, standalone_mode=False, windows_expand_args=False)
        sys.stdout.flush()
        sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  it is shown, or was a cancel
        if _is_cancelled(error):
            sys.exit(130)
        from .errors import show_error, show_unforeseen

        failure = _failure(error)
        if failure is None:
            show_unforeseen(error)
            sys.exit(1)
        show_error(failure)
        sys.exit(failure.exit_status)
    finally:
        # The process ends: collecting garbage in all that was imported takes longer than a small
        # run does.
        gc.freeze()


def import_ahead() -> None:
    """Import what talking to a target needs; the last seventh of a start goes on in a thread.

    When it is imported, aiohttp reads the certificates that the system trusts, twice and without
    Python's lock: our own modules, the workflow and the configuration can be read meanwhile. This
    returns when that begins. Two threads that import hand the lock to each other at every file,
    which costs as much as the certificates do.

    Where the command line asks for help, nothing is imported.
    """
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        return
    import threading
    from importlib import import_module

    ahead = threading.Thread(target=import_module, args=("aiohttp",), name="import-ahead")
    ahead.start()
    while ahead.is_alive() and _READS_CERTIFICATES not in sys.modules:
        ahead.join(_LOOK_AGAIN)


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is what a command raises that was interrupted while it waited."""
    # Not imported for this: it takes longer than what small commands do. And `import_ahead` may be
    # about to import it: then there is the module, and nothing in it yet.
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", None)
    return cancelled is not None and isinstance(error, cancelled)


def _failure(error: BaseException) -> ComfyRemoteError | None:
    """The error to show for an exception; ``None`` for an unforeseen one."""
    from ..errors import ComfyRemoteError, ConfigurationError, LocalStorageError

    if isinstance(error, ComfyRemoteError):
        return error
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return _unusable_file(error)
    try:
        Path.cwd()
    except OSError:
        return ConfigurationError(
            "The current folder was deleted, or cannot be read.", advice="Change to another folder."
        )
    if error.errno in _CANNOT_WRITE:
        _silence_stdout()
        return LocalStorageError(
            f"Standard output could not be written: {error.strerror}.",
            advice="Free some space, or send it elsewhere. Jobs that ran are in the record: "
            "`comfy-remote jobs list`.",
        )
    return None


def _unusable_file(error: OSError) -> ComfyRemoteError:
    from ..errors import ConfigurationError, LocalStorageError

    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
    shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
    if error.errno == errno.ENAMETOOLONG:
        return ConfigurationError(
            f"{shown} is too long for a file name: it has {len(name)} characters.",
            advice="Check the command: is it a path?",
        )
    return LocalStorageError(
        f"{shown} cannot be used: {error.strerror or error}.",
        advice="Check that it exists, and its permissions.",
    )


def prepare_streams() -> None:
    """Make the three streams usable, whatever they are at the start.

    A closed one (``2>&-``, a service without a console) is replaced by one that discards
    everything: its number would otherwise go to the next file that is opened, which then gets our
    messages. What cannot be written to standard error, because its disk is full, costs the message
    and not the run. A console that cannot show a character (cp1252) gets its escape.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or _nothing("r")
    sys.stdout = sys.stdout or _nothing("w")
    sys.stderr = sys.stderr or _nothing("w")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", _Unfailing(sys.stderr))


def _silence_stdout() -> None:
    """After standard output has failed: keep its buffer from failing again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _nothing(mode: str) -> TextIO:
    return cast("TextIO", open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123


class _Unfailing:
    """A stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()
