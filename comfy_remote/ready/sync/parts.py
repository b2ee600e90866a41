"""A model's file as parts with a SHA-256 each: a broken upload repeats no more than one of them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputFileMissing
from ...targets.base import InputFile, input_errors

__all__ = ["DIRECT_PART_SIZE", "PART_SIZE", "PartedModel", "read_parts"]

PART_SIZE = 64 * 1024 * 1024
"""Bytes. A job names 4096 of them at most: 256 GiB."""
DIRECT_PART_SIZE = 16 * 1024 * 1024
"""Bytes, to a ComfyUI: behind RunPod's proxy, a request that takes more than 100 s is cut."""
_MOST = 4096  # parts of a model: `wire.models.PlaceRequest`
_STEP = 4 * 1024 * 1024  # bytes read at a time


@dataclass(frozen=True, slots=True)
class PartedModel:
    """A file that was read.

    Attributes:
        parts: In order.
    """

    sha256: str
    size: int
    parts: tuple[InputFile, ...]


async def read_parts(path: Path, name: str, *, part_size: int = PART_SIZE) -> PartedModel:
    """Read a file once, for its hash and those of its parts. Cancelled, it stops at once.

    Args:
        name: Of the model, for people.

    Raises:
        InputFileMissing: It cannot be read, or changes meanwhile.
    """
    stopped = threading.Event()
    reading = asyncio.ensure_future(asyncio.to_thread(_read, path, name, part_size, stopped))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.gather(reading, return_exceptions=True)
        raise


def _read(path: Path, name: str, part_size: int, stopped: threading.Event) -> PartedModel:
    whole, parts, offset = hashlib.sha256(), list[InputFile](), 0
    with input_errors(path):
        before = path.stat()
        part_size = max(part_size, -(-before.st_size // _MOST))
        with path.open("rb") as file:
            while not stopped.is_set():
                digest, size = hashlib.sha256(), 0
                while size < part_size and not stopped.is_set():
                    chunk = file.read(min(_STEP, part_size - size))
                    if not chunk:
                        break
                    digest.update(chunk)
                    whole.update(chunk)
                    size += len(chunk)
                if not size:
                    break
                title = f"{name}, part {len(parts) + 1}"
                parts.append(InputFile(title, path, size, digest.hexdigest(), offset=offset))
                offset += size
        after = path.stat()
    same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if not same or offset != after.st_size:
        raise InputFileMissing(
            f"{path} has changed while it was read.", advice="Wait until it is complete."
        )
    return PartedModel(whole.hexdigest(), offset, tuple(parts))
