"""Bringing one output here: streamed, resumed where it broke, counted and hashed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputCorrupt, RateLimited, TargetUnreachable
from ..media.files import storage_errors
from ..media.verify import check_whole
from ..outputs import RemoteOutput
from .base import Target

__all__ = ["Downloaded", "download"]

_ATTEMPTS = 5
_FIRST_WAIT = 0.25


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A complete file. ``sha256`` is of the bytes on disk."""

    path: Path
    size: int
    sha256: str


async def download(
    target: Target,
    output: RemoteOutput,
    path: Path,
    on_bytes: Callable[[int], None] | None = None,
) -> Downloaded:
    """Write an output to ``path``, which must not exist, in a folder of ours.

    A broken connection is resumed where it broke, up to five times in a row without a byte.
    What arrives damaged is fetched anew, once. Memory stays at a chunk, whatever the size of
    the file.

    Args:
        on_bytes: Called with the number of bytes each chunk brought, and with a negative one
            when they are thrown away.

    Raises:
        OutputLost: The target no longer has it.
        OutputCorrupt: Size or SHA-256 differ from what the target announced, or, where it
            announced none, the file's own format says that it is cut off. It is removed.
        TargetUnreachable: The connection kept breaking. The file is removed.
        LocalStorageError: It cannot be written (disk full). The file is removed.
    """
    tell = on_bytes or _nobody
    arrived = 0

    def count(size: int) -> None:
        nonlocal arrived
        arrived += size
        tell(size)

    try:
        return await _fetch(target, output, path, count)
    except OutputCorrupt:
        tell(-arrived)
        return await _fetch(target, output, path, tell)


def _nobody(_size: int) -> None:
    pass


async def _fetch(
    target: Target, output: RemoteOutput, path: Path, on_bytes: Callable[[int], None]
) -> Downloaded:
    digest = hashlib.sha256()
    size = 0
    failures = 0
    try:
        with storage_errors(path):
            file = path.open("xb")
        with file:
            while True:
                try:
                    async with aclosing(target.read(output, size)) as chunks:
                        async for chunk in chunks:
                            with storage_errors(path):
                                file.write(chunk)
                            digest.update(chunk)
                            size += len(chunk)
                            failures = 0
                            if output.size is not None and size > output.size:
                                raise _wrong_size(output, size)
                            on_bytes(len(chunk))
                    break
                except (TargetUnreachable, RateLimited):
                    failures += 1
                    if failures >= _ATTEMPTS:
                        raise
                    await asyncio.sleep(_FIRST_WAIT * 2 ** (failures - 1))
            with storage_errors(path):
                file.flush()
        _check(output, size, digest.hexdigest())
        if output.sha256 is None:
            with storage_errors(path):
                await asyncio.to_thread(check_whole, path, output.filename)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Downloaded(path, size, digest.hexdigest())


def _check(output: RemoteOutput, size: int, sha256: str) -> None:
    if output.size is not None and output.size != size:
        raise _wrong_size(output, size)
    if output.sha256 is not None and output.sha256 != sha256:
        raise OutputCorrupt(
            f"{output.filename} is damaged: its SHA-256 differs from the one announced.",
            advice="Fetch it again with `comfy-remote jobs resume`.",
            details={"filename": output.filename, "sha256": sha256, "announced": output.sha256},
        )


def _wrong_size(output: RemoteOutput, size: int) -> OutputCorrupt:
    compared = f"{size} bytes" if size < (output.size or 0) else f"at least {size} bytes"
    return OutputCorrupt(
        f"{output.filename} is {compared}, and {output.size} were announced.",
        advice="Fetch it again with `comfy-remote jobs resume`.",
        details={"filename": output.filename, "size": size, "announced": output.size},
    )
