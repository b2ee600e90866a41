"""Standard input as lines, read in a thread that a stopped server need not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import BinaryIO

__all__ = ["taken_stdin", "text_lines"]

LONGEST_LINE = 32 * 1024 * 1024
"""Bytes of a message; a longer one ends the connection."""
_WAITING = 16  # lines


def taken_stdin() -> BinaryIO:
    """Standard input, for this program alone: what it starts has an empty one."""
    private = os.dup(sys.stdin.fileno())
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, sys.stdin.fileno())
    os.close(empty)
    return os.fdopen(private, "rb", closefd=False)  # the thread may be reading it at the end


async def text_lines(file: BinaryIO, longest: int = LONGEST_LINE) -> AsyncIterator[str]:
    """Its lines, until it ends. No more than a few are in memory.

    Args:
        longest: Bytes of a line.
    """
    loop = asyncio.get_running_loop()
    lines = asyncio.Queue[bytes](_WAITING)

    def read() -> None:
        # The loop may be closed by the time that a line comes.
        with contextlib.suppress(RuntimeError, OSError, ValueError):
            while True:
                line = file.readline(longest + 1)
                if len(line) > longest:
                    line = b""
                asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
                if not line:
                    return

    threading.Thread(target=read, name="standard input", daemon=True).start()
    while line := await lines.get():
        yield line.decode("utf-8", errors="replace")
