"""The other side of `ray_nodes`: a Ray cluster on this machine that is told what to do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any


class RayNodes:
    """A Ray cluster in a process of its own.

    Args:
        folder: For what Ray writes: its sockets have paths of 107 characters at most.
        log: For what its processes say.
    """

    def __init__(self, folder: str, log: int | IO[bytes] = subprocess.DEVNULL) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("ray_nodes.py"), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.address = str(self._answer())

    def say(self, words: str) -> Any:
        """A line, and what it answers; see `ray_nodes`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End them all."""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.communicate("end\n", timeout=60)
        self._process.kill()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(('"', "[", "{")):
                return json.loads(line)
        raise AssertionError("the Ray cluster has ended")
