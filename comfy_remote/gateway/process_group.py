"""A child process with all its descendants, started and ended as one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

__all__ = ["ProcessGroup"]


_POLL = 0.05


class ProcessGroup:
    """A process in a group of its own. Its output comes as one pipe, `process.stdout`.

    Its standard input is a pipe that stays open as long as this process lives: a child that
    reads the end of it knows that it has been orphaned.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> ProcessGroup:
        """Start a command.

        Raises:
            OSError: It cannot be started.
        """
        windows = sys.platform == "win32"
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if windows else 0
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=not windows,
            creationflags=flags,
        )
        return cls(process)

    async def wait(self) -> int:
        """Wait for the first process of the group to end.

        Returns:
            Its exit status.
        """
        # `Process.wait` returns only when the pipes are closed too, and
        # a descendant that outlives the first process holds them open.
        while (status := self.process.returncode) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        return status

    async def stop(self, grace: float) -> None:
        """Ask the group to end, wait ``grace`` seconds, then end what is left of it."""
        if self.process.returncode is None:
            self._ask()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), grace)
        await self._kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        # Now that nobody holds the pipes, asyncio closes its side of them.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.process.wait(), 1.0)

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                os.killpg(self.process.pid, signal.SIGTERM)

    async def _kill(self) -> None:
        """End what is left, also when the first process is gone already."""
        if sys.platform == "win32":
            # Windows has no groups to kill: this ends the tree below a living process.
            if self.process.returncode is None:
                killer = await asyncio.create_subprocess_exec(
                    "taskkill",
                    "/T",
                    "/F",
                    "/PID",
                    str(self.process.pid),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                await killer.wait()
        else:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.returncode is None:
            with contextlib.suppress(OSError):
                self.process.kill()
            await self.wait()
