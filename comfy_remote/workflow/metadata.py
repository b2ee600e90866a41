"""What a file that ComfyUI saved says about how it was made: the texts in it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from ..json_text import has_more_values
from ..media.formats import Format, Malformed
from .json_document import MOST_VALUES

__all__ = ["Metadata", "read_metadata"]

# Where VideoHelperSuite (and some tools that convert) save both texts, in one JSON object.
_TOGETHER = frozenset({"comment", "©cmt", "usercomment"})


@dataclass(frozen=True, slots=True)
class Metadata:
    """The texts found in a file.

    Attributes:
        kind: What the file is, for people: "PNG picture".
        texts: By their names in lower case: ``prompt`` and ``workflow`` are ComfyUI's,
            ``parameters`` is that of AUTOMATIC1111's web UI.
    """

    kind: str
    texts: dict[str, str] = field(default_factory=dict)


def read_metadata(file: BinaryIO, known: Format) -> Metadata:
    """The texts of a file of a known format, seekable and at its start.

    Raises:
        Malformed: The file is cut off or garbled before both texts were found.
    """
    found = Metadata(known.kind)
    try:
        for name, text in known.texts(file):
            _take(found.texts, name.casefold(), text)
            if "prompt" in found.texts and "workflow" in found.texts:
                break
    except (EOFError, struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        # A file cut off after its prompt is still useful.
        if "prompt" not in found.texts:
            raise Malformed("it ends too early, or is damaged") from error
    return found


def _take(texts: dict[str, str], name: str, text: str) -> None:
    if name not in _TOGETHER:
        texts.setdefault(name, text)
        return
    if has_more_values(text, MOST_VALUES):
        return
    try:
        both = json.loads(text)
    except (ValueError, RecursionError):
        return  # an ordinary comment
    if isinstance(both, dict):
        for key in ("prompt", "workflow"):
            value = both.get(key)
            if value:
                texts.setdefault(key, value if isinstance(value, str) else json.dumps(value))
