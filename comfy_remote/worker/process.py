"""A child process: its start, its output, and its end with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..clean import one_line
from ..errors import ConfigurationError
from ..targets.launch import detached

__all__ = ["ChildProcess", "end_tree_on_windows"]

_LINES_KEPT = 200
_TERMINATE_PATIENCE = 5.0
_LAST_WORDS_PATIENCE = 0.5
_LONGEST_LINE = 2000

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ChildProcess:
    """A running program, and the last lines of its output.

    Started in the constructor, without an event loop: an engine starts while the rest of the
    worker is still being imported.

    Args:
        name: What to call it in errors and threads: "engine", "worker".
        command: Program and arguments.
        environ: The whole environment of the process.
        on_line: Called with each line of its output, from another thread.
        cwd: Working folder; ours by default.

    Raises:
        ConfigurationError: The program cannot be started at all.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str], None],
        cwd: Path | None = None,
    ) -> None:
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._line_count = 0
        self._ended = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._waiting_lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                # Also lets the whole group be ended with one signal.
                **detached(),
            )
        except OSError as error:
            raise ConfigurationError(
                f"The {name} could not be started: {command[0]}: {error.strerror or error}.",
                advice="Check the folder, and COMFYUI_PYTHON if that is set.",
            ) from error
        self._listener = threading.Thread(target=self._listen, name=f"{name} output", daemon=True)
        self._listener.start()
        threading.Thread(target=self._wait, name=f"{name} end", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """``None`` while it runs; negative for the signal that ended it (not on Windows)."""
        return self._process.poll()

    @property
    def line_count(self) -> int:
        """How many lines of output there have been."""
        return self._line_count

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its output, oldest first; 200 at most."""
        return list(self._lines)[-count:]

    async def wait(self) -> int:
        """Wait until it has ended. May be cancelled, which leaves it running."""
        # Not a thread for each who waits: every job of an engine does, and the engine lives on.
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._waiting_lock:
            if self._ended:
                ended.set_result(None)
            else:
                self._waiting.add(ended)
        try:
            await ended
        finally:
            with self._waiting_lock:
                self._waiting.discard(ended)
        status = self._process.poll()
        return status if status is not None else -1

    def stop(self, grace: float = _TERMINATE_PATIENCE) -> None:
        """End it and all it has started: first politely, after ``grace`` seconds by force.

        Blocks for as long as that takes.
        """
        if sys.platform == "win32":
            end_tree_on_windows(self.pid)
            if self.alive:
                self._process.kill()
        else:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
            # Also when it has ended by itself: what it started may not have.
            self._signal_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERMINATE_PATIENCE)

    def _signal_group(self, number: int) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        with output:
            for line in output:
                text = one_line(_COLOUR.sub("", line).rstrip()[:_LONGEST_LINE])
                self._lines.append(text)
                self._line_count += 1
                self._on_line(text)

    def _wait(self) -> None:
        self._process.wait()
        # Its last lines are on their way. Not endlessly: what it started may hold the pipe open.
        self._listener.join(_LAST_WORDS_PATIENCE)
        with self._waiting_lock:
            self._ended = True
            waiting = list(self._waiting)
        for one in waiting:
            with contextlib.suppress(RuntimeError):  # its loop was closed before the process
                one.get_loop().call_soon_threadsafe(_tell, one)


def end_tree_on_windows(pid: int) -> None:
    """End a process by force, with all that it has started. This blocks for some seconds at most.

    Windows has no process groups to signal, and `terminate` ends one process only.
    """
    taskkill = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "taskkill.exe")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [str(taskkill), "/T", "/F", "/PID", str(pid)],
            check=False,
            capture_output=True,
            timeout=_TERMINATE_PATIENCE,
        )


def _tell(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
