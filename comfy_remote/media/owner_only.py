"""A file's permissions on Windows, where a mode of 0600 means nothing.

Facts, all from learn.microsoft.com: windows-server/administration/windows-commands/icacls
(``/inheritance:r``, ``/grant:r``, a SID after ``*``), and windows-server/identity/ad-ds/manage/
understand-security-identifiers (S-1-5-18 is the system, S-1-5-32-544 the administrators).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["owner_only"]

_PATIENCE = 10.0
_NO_WINDOW = 0x08000000  # subprocess.CREATE_NO_WINDOW, which only Windows has
_log = logging.getLogger(__name__)


def owner_only(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    platform: str = sys.platform,
    run: Callable[[Sequence[str]], int] | None = None,
) -> None:
    """Let only this user, the system and the administrators open a file. Blocking.

    Elsewhere than on Windows it does nothing: the file's mode says that. What a folder passes on
    to its files no longer counts for this one. Where Windows refuses, the file keeps what
    its folder gives it, and the log has a warning.

    Args:
        run: Runs a command, and gives its exit status.
    """
    if platform != "win32":
        return
    user = environment.get("USERNAME", "")
    domain = environment.get("USERDOMAIN", "")
    if not user:
        _log.warning("Who may read %s was not changed: USERNAME is not set.", path)
        return
    granted = [f"{domain}\\{user}" if domain else user, "*S-1-5-18", "*S-1-5-32-544"]
    # By its full path: a program of that name beside ComfyUI is not meant.
    program = str(Path(environment.get("SYSTEMROOT", r"C:\Windows"), "System32", "icacls.exe"))
    command = [program, str(path), "/inheritance:r"]
    for who in granted:
        command += ["/grant:r", f"{who}:(F)"]
    try:
        status = (run or _run)(command)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("Who may read %s was not changed: %s", path, error)
        return
    if status:
        _log.warning("Who may read %s was not changed: icacls ended with %s.", path, status)


def _run(command: Sequence[str]) -> int:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE,
        creationflags=_NO_WINDOW,
        check=False,
    )
    return done.returncode
