"""Names of input files that follow from their content: ``portrait_9f86d081884c.png``.

A ComfyUI caches a node's result by the names of the files it read, unless the node looks at their
content. If two files arrived there under one name, ``input.png``, the second run would get the
first one's result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from .remote_values import sha256_in_name

__all__ = ["content_name", "split_content_name", "with_plain_names"]

_DIGITS = 12
_CONTENT_NAME = re.compile(
    r"^(?P<before>.*)_(?P<digits>[0-9a-f]{12})(?P<ending>\.[^./]*)?$", re.DOTALL
)
_DIGITS_IN_TEXT = re.compile(r"_[0-9a-f]{12}(?![0-9a-f])")
_LONGEST_ENDING = 20
# Of one part of a path. File systems take 255 bytes, and `safe_relative_path` 120 characters; a
# ComfyUI may put " (1)" behind it.
_MOST_BYTES, _MOST_CHARACTERS = 240, 120


def content_name(name: str, sha256: str) -> str:
    """``STEM_<12 hex digits>.EXT``, in the folder of ``name``.

    A name that has these digits already, or is that of a value file, is returned as it is.
    """
    digits = sha256[:_DIGITS]
    found = split_content_name(name)
    if sha256_in_name(name) == sha256 or (found is not None and found[1] == digits):
        return name
    folder, slash, last = name.rpartition("/")
    stem, ending = _split(last)
    room = _MOST_BYTES - len(f"_{digits}{ending}".encode())
    stem = stem[: _MOST_CHARACTERS - len(f"_{digits}{ending}")]
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{folder}{slash}{stem}_{digits}{ending}"


def split_content_name(name: str) -> tuple[str, str] | None:
    """The user's name of a file and its 12 digits; ``None`` if it is not a name by content.

    A stem that was too long is given as far as the name has it.
    """
    found = _CONTENT_NAME.match(name)
    return (f"{found['before']}{found['ending'] or ''}", found["digits"]) if found else None


def with_plain_names(text: str, names: Iterable[str]) -> str:
    """A text with these users' names (their last parts) in place of what `content_name` made."""
    if not _DIGITS_IN_TEXT.search(text):
        return text
    for name in dict.fromkeys(name.rpartition("/")[2] for name in names):
        before, digits, ending = content_name(name, "0" * 64).rpartition("_" + "0" * _DIGITS)
        if digits and before and f"{before}_" in text:
            made = rf"{re.escape(before)}_[0-9a-f]{{{_DIGITS}}}{re.escape(ending)}"
            text = re.sub(made, name.replace("\\", r"\\"), text)
    return text


def _split(last: str) -> tuple[str, str]:
    ending = PurePosixPath(last).suffix
    if len(ending) > _LONGEST_ENDING:
        return last, ""
    return last[: len(last) - len(ending)], ending
