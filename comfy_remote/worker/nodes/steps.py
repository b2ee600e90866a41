"""Programs that an installation runs: with a deadline, and with their last lines if they fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from ...aio import within
from ...clean import one_line
from ...errors import ComfyRemoteError, LocalStorageError, NodesUnavailable
from ...media.files import storage_errors
from ...secrets import redact
from ...targets.launch import detached
from ..process import end_tree_on_windows

__all__ = ["MAKE_ROOM", "Say", "failed", "run", "said_again", "stored"]

Say = Callable[[str], None]
"""Takes a line for people."""

MAKE_ROOM = "Make room on the volume. The packs that were there before still run."
"""What to do about a full disk."""

_LINES = 40
_LONGEST_LINE = 1000
_LONGEST_UNFINISHED = 64 * 1024  # bytes
_LAST_WORDS = 5.0  # seconds
_LARGEST_OUTPUT = 16 * 1024 * 1024  # bytes
_FULL = re.compile(
    r"No space left on device|os error 28|Errno 28|disk quota exceeded", re.IGNORECASE
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@asynccontextmanager
async def said_again(say: Say, every: float = 10.0) -> AsyncIterator[Say]:
    """The same `Say`. While it says nothing new, its last line is said again, with its seconds.

    Args:
        every: Seconds.
    """
    said = [("", time.monotonic())]

    def say_now(line: str) -> None:
        said[0] = line, time.monotonic()
        say(line)

    async def again() -> None:
        while True:
            await asyncio.sleep(every)
            line, since = said[0]
            if line and (seconds := time.monotonic() - since) >= every:
                say(f"{line} ({seconds:.0f} s)")

    repeating = asyncio.create_task(again())
    try:
        yield say_now
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)


def failed(
    step: str,
    message: str,
    *,
    pack: str | None = None,
    lines: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    advice: str = "",
) -> ComfyRemoteError:
    """The error of a step: `NodesUnavailable`, or `LocalStorageError` if its lines say so.

    Args:
        step: See `NodesUnavailable`.
        message: What happened, with its full stop.
        pack: The pack that it happened to, if it is known.
        lines: The last ones that the program wrote.
        environ: Of the program, whose secrets it may have written.
    """
    lines = [redact(line, environ) for line in lines]
    said = next((line for line in reversed(lines) if line.strip()), "")
    details = {"pack": pack, "step": step, "log": "\n".join(lines)}
    details = {name: value for name, value in details.items() if value}
    if _FULL.search("\n".join((message, *lines))):
        return LocalStorageError(
            f"{message} The worker's disk is full.",
            advice=MAKE_ROOM,
            details=details,
        )
    return NodesUnavailable(
        f"{message}{f' It said last: {said}' if said else ''}",
        advice=advice or "The packs that were there before still run.",
        details=details,
    )


@contextmanager
def stored(path: Path, step: str, pack: str | None = None) -> Iterator[None]:
    """`storage_errors`, with the step and the pack.

    Args:
        path: That is written to.
        step: See `failed`.
    """
    try:
        with storage_errors(path, full=MAKE_ROOM):
            yield
    except LocalStorageError as error:
        error.details |= {"step": step, **({"pack": pack} if pack else {})}
        raise


async def run(
    *command: str,
    step: str,
    what: str,
    cwd: Path,
    environ: Mapping[str, str],
    patience: float,
    pack: str | None = None,
) -> str:
    """Run a program to its end; what it wrote to its standard output.

    Cancelled or too slow, it is ended with all that it has started.

    Args:
        step: See `failed`.
        what: For people, the beginning of a sentence: ``git fetch``.

    Raises:
        NodesUnavailable: It failed, could not be started, or took too long.
        LocalStorageError: The disk is full.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **detached(),
        )
    except OSError as error:
        why = error.strerror or error
        raise failed(step, f"{what} could not be started: {why}.", pack=pack) from error
    lines = deque[str](maxlen=_LINES)
    kept: list[bytes] = []

    def line(data: bytes) -> str:
        text = _COLOUR.sub("", data.decode("utf-8", "replace")).rstrip()
        return one_line(redact(text, environ)[:_LONGEST_LINE])  # half a secret would be shown

    reading = asyncio.gather(
        _read(process.stdout, line, lines, kept), _read(process.stderr, line, lines, None)
    )
    try:
        await within(process.wait(), patience)
        _end(process)  # what it has started may hold the pipes open
        await within(asyncio.shield(reading), _LAST_WORDS)
    except asyncio.TimeoutError:
        if process.returncode is None:
            message = f"{what} took longer than {patience:.0f} s and was ended."
            raise failed(step, message, pack=pack, lines=[*lines]) from None
    finally:
        _end(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    if process.returncode:
        message = f"{what} failed (exit status {process.returncode})."
        raise failed(step, message, pack=pack, lines=[*lines])
    return b"".join(kept).decode("utf-8", "replace")


async def _read(
    stream: asyncio.StreamReader | None,
    line: Callable[[bytes], str],
    lines: deque[str],
    kept: list[bytes] | None,
) -> None:
    """Read to the end, in a bounded memory."""
    size, unfinished = 0, b""
    while stream is not None and (data := await stream.read(64 * 1024)):
        size += len(data)
        if kept is not None and size <= _LARGEST_OUTPUT:
            kept.append(data)
        # A bar that moves is one line for each of its states.
        *whole, unfinished = re.split(rb"[\r\n]+", unfinished + data)
        unfinished = unfinished[:_LONGEST_UNFINISHED]
        lines.extend(line(one) for one in whole[-_LINES:] if one.strip())
    if unfinished.strip():
        lines.append(line(unfinished))


def _end(process: asyncio.subprocess.Process) -> None:
    """End it, and what it has started: that may outlive it."""
    if sys.platform == "win32":
        if process.returncode is None:
            end_tree_on_windows(process.pid)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
