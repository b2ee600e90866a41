"""WebP and JPEG: EXIF fields of the form ``prompt:{…}``, ``workflow:{…}``.

ComfyUI writes them into Model (0x0110), Make (0x010F) and the fields below; others choose
other fields, so every text field is looked at. The fields are decoded by Pillow.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO

from .reading import Malformed, exactly, skip, text_of

__all__ = ["fields", "read_jpeg", "read_webp"]

_NAMED = re.compile(r"\s*([A-Za-z_]{1,40})\s*:\s*(?=[\[{])")
_EXIF_FOLDER = 0x8769
_USER_COMMENT = 0x9286
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length
_END_OF_HEADERS = {0xD9, 0xDA}


def read_webp(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The fields of the ``EXIF`` chunk, which stands behind the picture."""
    skip(file, 12)
    while True:
        header = file.read(8)
        if not header:
            return
        kind, size = struct.unpack("<4sI", header)
        if kind == b"EXIF":
            yield from fields(exactly(file, size))
            return
        skip(file, size + size % 2)


def read_jpeg(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The fields of the APP1 segment; those of a comment segment that is JSON, too."""
    skip(file, 2)
    while True:
        mark, kind = exactly(file, 2)
        if mark != 0xFF or kind in _END_OF_HEADERS:
            return
        if kind == 0xFF:
            skip(file, -1)
            continue
        if kind in _STANDALONE:
            continue
        (size,) = struct.unpack(">H", exactly(file, 2))
        if size < 2:
            raise EOFError
        if kind not in (0xE1, 0xFE):
            skip(file, size - 2)
            continue
        data = exactly(file, size - 2)
        if kind == 0xFE:
            yield "comment", text_of(data)
        elif data.startswith(b"Exif\0\0"):
            yield from fields(data)


def fields(data: bytes) -> Iterator[tuple[str, str]]:
    """The texts of EXIF data that begin with a name."""
    from PIL import Image

    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is damaged, which matters only for texts
            exif.load(data)
            details = exif.get_ifd(_EXIF_FOLDER)
            values = [*exif.values(), *details.values()]
        comment = details.get(_USER_COMMENT)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error) as error:
        # Pillow raises any of these for a damaged directory.
        raise Malformed("its EXIF data is damaged") from error
    for value in values:
        text = text_of(value) if isinstance(value, bytes) else value
        if isinstance(text, str) and (named := _NAMED.match(text)):
            yield named[1], text[named.end() :].rstrip("\0")
    if comment is not None:
        yield from _user_comment(comment)


def _user_comment(comment: object) -> Iterator[tuple[str, str]]:
    """Eight bytes name its encoding. ComfyUI savers put JSON here, others their parameters."""
    if isinstance(comment, bytes):
        encoding, data = comment[:8], comment[8:]
        if encoding.startswith(b"UNICODE"):
            text = data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
        elif encoding.startswith(b"ASCII") or not encoding.strip(b"\0"):
            text = text_of(data)
        else:
            text = text_of(comment)
    else:
        text = str(comment)
    text = text.strip("\0 ")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        if "Steps:" in text:
            yield "parameters", text
    else:
        yield "usercomment", text
