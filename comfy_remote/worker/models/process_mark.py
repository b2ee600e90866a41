"""Which process left a mark on a volume, and whether it is certainly gone.

A process can only be looked at from where it runs: on the same host, in the same container. Of any
other, silence is all there is to go by.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["ProcessMark"]


class ProcessMark(BaseModel):
    """What a worker writes about itself.

    Attributes:
        worker: What to call it.
        host: The machine, since it was switched on, and the container: process ids mean the same
            to all that have the same.
        pid: Its process; 0 in marks of older versions.
        started: When the process began, as the system counts; ``None`` where it does not tell. A
            number that is used again later is another process.
    """

    model_config = ConfigDict(extra="ignore")

    worker: str = "another worker"
    host: str = ""
    pid: int = 0
    started: int | None = None

    @classmethod
    def own(cls, worker: str) -> ProcessMark:
        """Of this process."""
        pid = os.getpid()
        return cls(worker=worker, host=_host(), pid=pid, started=_started(pid))

    @classmethod
    def read(cls, path: Path) -> ProcessMark:
        """The mark in a file; an empty one if it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls()

    def is_gone(self) -> bool:
        """Whether that process has certainly ended. ``False`` of one that cannot be looked at."""
        if not self.pid or self.host != _host():
            return False
        if not _runs(self.pid):
            return True
        return self.started is not None and _started(self.pid) != self.started


def _host() -> str:
    """A host of the same name that was started again, or another container, is another one."""
    with contextlib.suppress(OSError):  # Linux only
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        container = Path("/proc/self/ns/pid").readlink()
        return f"{platform.node()}|{boot}|{container}"
    return platform.node()


def _started(pid: int) -> int | None:
    """Clock ticks since the machine was switched on (proc(5), field 22); Linux tells it."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _runs(pid: int) -> bool:
    if sys.platform == "win32":
        return _runs_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and not ours
    return True


def _runs_on_windows(pid: int) -> bool:
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes

    query, still_active, no_such_process = 0x1000, 259, 87
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    handle = kernel.OpenProcess(query, False, pid)
    if not handle:
        return ctypes.get_last_error() != no_such_process
    try:
        status = ctypes.c_ulong()
        return not kernel.GetExitCodeProcess(handle, ctypes.byref(status)) or (
            status.value == still_active
        )
    finally:
        kernel.CloseHandle(handle)
