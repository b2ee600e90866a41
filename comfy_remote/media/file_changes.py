"""Files and folders renamed, linked and removed, also while another program looks at them.

On Windows, nobody can rename or remove a file that another program has open, unless that program
allows it. Virus scanners, the indexer and OneDrive open every new file for some milliseconds. So
what is done to a name is tried again there for about two seconds. Elsewhere, an error is an error
at once: only Windows' errors have the codes that are waited for.

Other modules change no name themselves (a test holds them to that). SQLite does the same for its
own files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = [
    "PATIENCE",
    "discard",
    "link_file",
    "patiently",
    "remove_empty_folder",
    "remove_file",
    "rename_path",
    "replace_file",
]

PATIENCE = 2.0
"""Seconds for which a file may be in use elsewhere."""

# https://learn.microsoft.com/windows/win32/debug/system-error-codes--0-499-: access denied (which
# is also said of a file that is in use or about to go), sharing violation, lock violation, and a
# folder that is not empty because a file in it is about to go.
_IN_USE = frozenset({5, 32, 33, 145})
_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.32
_log = logging.getLogger(__name__)

_T = TypeVar("_T")


def patiently(
    change: Callable[..., _T],
    *args: object,
    seconds: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """``change(*args)``, tried again while Windows says that another program uses the file.

    It blocks meanwhile. On an event loop nothing is waited for, and the first error is raised:
    call it in a thread.

    Args:
        change: May be called several times.
        seconds: For how long.

    Raises:
        OSError: As ``change`` raised it last.
    """
    wait, waited = _FIRST_WAIT, 0.0
    while True:
        try:
            return change(*args)
        except OSError as error:
            if not _in_use(error) or waited >= seconds or _event_loop() is not None:
                raise
        sleep(wait)
        waited += wait
        wait = min(2 * wait, _LONGEST_WAIT)


def replace_file(source: Path, destination: Path, *, seconds: float = PATIENCE) -> None:
    """Rename a file, in place of what has the name. See `patiently`."""
    patiently(os.replace, source, destination, seconds=seconds)


def rename_path(source: Path, destination: Path) -> None:
    """Rename a file or folder. On Windows, a name that is taken is an error. See `patiently`."""
    patiently(os.rename, source, destination)


def link_file(source: Path, destination: Path) -> None:
    """Give a file a second name. See `patiently`.

    Raises:
        FileExistsError: The name is taken.
        OSError: There are no hard links there.
    """
    patiently(os.link, source, destination)


def remove_file(path: Path, *, missing_ok: bool = False, seconds: float = PATIENCE) -> None:
    """Remove a file. See `patiently`.

    Args:
        seconds: 0 for a file that is looked at again later.
    """
    try:
        patiently(os.unlink, path, seconds=seconds)
    except FileNotFoundError:
        if not missing_ok:
            raise


def remove_empty_folder(path: Path) -> None:
    """Remove a folder that has nothing in it. See `patiently`."""
    patiently(os.rmdir, path)


def discard(path: Path, *, seconds: float = PATIENCE) -> None:
    """Remove a file or folder that nobody needs any more. If it cannot be removed, it stays.

    On an event loop, one that is in use is removed by a thread of the loop's, which is not waited
    for.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            _remove_folder(path, seconds)
        else:
            remove_file(path, missing_ok=True, seconds=seconds)
    except OSError as error:
        loop = _event_loop()
        if _in_use(error) and loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is about to end
                loop.run_in_executor(None, discard, path)
            return
        shutil.rmtree(path, ignore_errors=True)  # what can be removed of a folder
        _log.debug("%s stays: %s", path, error)


def _remove_folder(folder: Path, seconds: float) -> None:
    def failed(change: Callable[[str], None], path: str, error: BaseException) -> None:
        if isinstance(error, FileNotFoundError):
            return  # another has removed it meanwhile
        if change not in (os.unlink, os.rmdir) or not isinstance(error, OSError):
            raise error
        own = Path(path)
        ours = [own] if own == folder else [own.parent, own]
        writable = isinstance(error, PermissionError) and sum(map(_made_writable, ours))
        if not (writable or _in_use(error)):
            raise error
        patiently(change, path, seconds=seconds)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=failed)
    else:
        shutil.rmtree(folder, onerror=lambda change, path, about: failed(change, path, about[1]))


def _made_writable(path: Path) -> bool:
    """Whether it was not. Windows removes no file that is read-only, as git's own are; others
    remove nothing from such a folder.
    """
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) or mode & stat.S_IWUSR:
        return False
    path.chmod(mode | stat.S_IWUSR)
    return True


def _in_use(error: OSError) -> bool:
    return getattr(error, "winerror", None) in _IN_USE


def _event_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
