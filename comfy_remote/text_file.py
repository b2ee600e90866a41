"""Text that people and shells have written: its encoding is found out, not assumed."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SAVE_AS_UTF8", "NotText", "lines_of", "text_of"]

SAVE_AS_UTF8 = "Save the file as UTF-8 (in Notepad: File > Save as > Encoding)."

# Windows' name for the code page of its language, in which old editors and `Set-Content` write.
_CODE_PAGE = "mbcs" if os.name == "nt" else None


_CHUNK = 1024 * 1024


class NotText(ValueError):
    """It is in no encoding that is read; `str` says so."""


def text_of(content: bytes, *, code_page: str | None = _CODE_PAGE) -> str:
    """The text in a file that a person or a shell has written.

    UTF-8, -16 and -32 are recognized, with a byte order mark or without (Windows PowerShell writes
    UTF-16 when it redirects); what is none of them is read in Windows' code page, on Windows.
    Lines end with ``\\n``.

    Raises:
        NotText: It is in another encoding, or no text.
    """
    found = json.detect_encoding(content)
    # What has zeros in it is cut-off UTF-16, or no text; a code page would take it.
    encodings = [found, code_page] if code_page and b"\0" not in content else [found]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text.replace("\r\n", "\n") if "\r" in text else text
    raise NotText("it is not UTF-8 text")


def lines_of(path: Path, longest: int, *, code_page: str | None = _CODE_PAGE) -> Iterator[str]:
    """The lines of a text file with their ends, one at a time; read as `text_of` reads.

    Args:
        longest: Characters of a line; the rest of a longer one comes as another.

    Raises:
        NotText: As `text_of`.
        OSError: It cannot be read.
    """
    encoding = _encoding_of(path, code_page)
    with path.open(encoding=encoding) as file:
        try:
            while line := file.readline(longest):
                yield line
        except UnicodeDecodeError:  # it has changed since
            raise NotText("it is not UTF-8 text") from None


def _encoding_of(path: Path, code_page: str | None) -> str:
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        found = json.detect_encoding(head)
        for encoding in [found, code_page] if code_page and b"\0" not in head else [found]:
            decoder = codecs.getincrementaldecoder(encoding)()
            file.seek(0)
            try:
                while chunk := file.read(_CHUNK):
                    decoder.decode(chunk)
                decoder.decode(b"", True)
            except UnicodeDecodeError:
                continue
            return encoding
    raise NotText("it is not UTF-8 text")
