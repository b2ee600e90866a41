"""EXIF data of JPEG, WebP and AVIF: fields of the form ``prompt:{…}``, ``workflow:{…}``.

ComfyUI writes them into Model (0x0110), Make (0x010F) and the fields below; others choose other
fields, so every text field is looked at.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator

from .reading import Malformed, json_of, text_of

__all__ = ["texts"]

_NAMED = re.compile(r"\s*([A-Za-z_]{1,40})\s*:\s*(?=[\[{])")
_EXIF_FOLDER = 0x8769
_USER_COMMENT = 0x9286


def texts(data: bytes) -> Iterator[tuple[str, str]]:
    """The texts that begin with a name, and the user's comment."""
    from PIL import Image

    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damage, which matters only for texts
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
        json_of(text.encode("utf-8", "replace"), "its comment")
    except Malformed:
        if "Steps:" in text:
            yield "parameters", text
    else:
        yield "usercomment", text
