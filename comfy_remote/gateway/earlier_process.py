"""What an earlier process of a gateway has left: jobs, and processes that may still run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path

from ..errors import EngineCrashed, OutputLost
from ..worker.process import end_tree_on_windows
from .moves import may_go_on
from .queue import JobQueue
from .workers import Worker, WorkerKind

__all__ = ["give_up_lost_starts", "is_running", "start_of"]

_LOOK_EVERY = 0.1
_WORKER_PATIENCE = 20.0
_PATIENCE = 5.0


def give_up_lost_starts(queue: JobQueue) -> list[Coroutine[object, object, None]]:
    """Decide on the jobs that the workers of an earlier process of this gateway had. The folder was
    free, so that process is gone.

    Returns:
        To be awaited: they wait until processes which that one had started have ended.
    """
    waiting = []
    for worker in queue.workers:
        match worker.kind:
            case WorkerKind.LOCAL:
                queue.worker_is_gone(worker.id, _ended_with_the_gateway())
            case WorkerKind.URL:
                queue.fail_jobs_of(worker.id, may_go_on("The gateway ended"))
            case WorkerKind.SDK:
                waiting.append(_see_the_end_of(worker, queue))
            case WorkerKind.JOINED:
                pass  # it says by itself what it has, when it comes back
    return waiting


async def _see_the_end_of(worker: Worker, queue: JobQueue) -> None:
    """Wait until a process that an earlier gateway started has ended, as it does by itself."""
    _, pid, start = worker.boot.split(":", 2) if worker.boot.count(":") > 1 else ("", "", "")
    if pid.isdecimal() and start:
        gone = await _wait_for_its_end(int(pid), start, _WORKER_PATIENCE)
        if not gone:
            await asyncio.to_thread(_end_process, int(pid), start)
            gone = await _wait_for_its_end(int(pid), start, _WORKER_PATIENCE)
        if gone:
            queue.worker_is_gone(worker.id, _ended_with_the_gateway())
            return
    queue.fail_jobs_of(
        worker.id,
        OutputLost(
            "The gateway ended while the job ran, and the worker that had it can deliver no "
            "result any more.",
            advice="It may still be running. Make sure that it has ended, then retry the job.",
        ),
    )


def _ended_with_the_gateway() -> EngineCrashed:
    return EngineCrashed(
        "The gateway ended while the job ran, and its worker with it.",
        advice="Retry the job.",
    )


def start_of(pid: int) -> str:
    """When that process was started, as a word that no other process has; empty if there is none,
    or the system does not say. This blocks.
    """
    if sys.platform == "win32":
        return _start_on_windows(pid)
    if sys.platform.startswith("linux"):
        try:
            # After the program's name, in brackets, come 19 fields, then the start.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else f"{fields[19]}.{booted}"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        found = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env={"LC_ALL": "C"},
        )
        return "_".join(found.stdout.split())
    return ""


def is_running(pid: int, start: str) -> bool:
    """Whether the process with that id and that `start_of` is there. This blocks."""
    return start != "" and start_of(pid) == start


async def _wait_for_its_end(pid: int, start: str, seconds: float) -> bool:
    """Wait until that process has ended; whether it did."""
    deadline = asyncio.get_running_loop().time() + seconds
    while await asyncio.to_thread(is_running, pid, start):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_LOOK_EVERY)
    return True


def _end_process(pid: int, start: str) -> None:
    """End that process by force, with all it has started. This blocks."""
    if not is_running(pid, start):
        return
    if sys.platform == "win32":
        end_tree_on_windows(pid)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # It was started as the leader of a group of its own.
            os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(
                pid, signal.SIGKILL
            )


def _start_on_windows(pid: int) -> str:
    if sys.platform != "win32":
        return ""
    import ctypes
    from ctypes import wintypes

    query_limited_information, still_active = 0x1000, 259
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = wintypes.HANDLE
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return ""
    try:
        times = [wintypes.FILETIME() for _ in range(4)]
        status = wintypes.DWORD()
        if not kernel.GetProcessTimes(wintypes.HANDLE(handle), *map(ctypes.byref, times)):
            return ""
        kernel.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(status))
        if status.value != still_active:
            return ""
        return f"{times[0].dwHighDateTime:x}{times[0].dwLowDateTime:08x}"
    finally:
        kernel.CloseHandle(wintypes.HANDLE(handle))
