"""Careful reading of binary files: never more than is there, never more than is sensible."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ["MAX_TEXT_BYTES", "Malformed", "exactly", "skip", "text_of"]

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""The largest workflows are a few megabytes."""


class Malformed(Exception):
    """The file is not what its first bytes promise; the text says in what way."""


def exactly(file: BinaryIO, size: int) -> bytes:
    """The next ``size`` bytes.

    Raises:
        EOFError: The file ends before.
        Malformed: That is more than any metadata has.
    """
    if size > MAX_TEXT_BYTES:
        raise Malformed(f"its metadata claims to have {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def skip(file: BinaryIO, size: int) -> None:
    """Go ``size`` bytes on, without reading them."""
    file.seek(size, os.SEEK_CUR)


def text_of(data: bytes) -> str:
    """UTF-8, or Latin-1, which some savers write."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
