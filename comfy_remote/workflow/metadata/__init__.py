"""What a file that ComfyUI saved says about how it was made.

ComfyUI and its custom nodes put two JSON texts into what they save, ``prompt`` and
``workflow``, each kind of file in its own place. One module reads each kind; only the parts
that may hold the texts are read, so that a video of any length costs nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from . import audio, avif, gltf, matroska, mp4, picture, png, safetensors, svg
from .reading import Malformed

__all__ = ["Malformed", "Metadata", "kind_of", "read_metadata"]

Reader = Callable[[BinaryIO], Iterator[tuple[str, str]]]
SIGNATURE_BYTES = 16

# Where VideoHelperSuite (and some tools that convert) keep both texts, in one JSON object.
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


def kind_of(start: bytes) -> tuple[str, Reader] | None:
    """What a file is by its first `SIGNATURE_BYTES` bytes; ``None`` for a kind not known."""
    for offset, signature, kind, reader in _KINDS:
        if start[offset : offset + len(signature)] == signature:
            return kind, reader
    if start[4:9] == b"\0\0\0\0{":
        return "safetensors file", safetensors.read
    # FF FE begins a text in UTF-16; in MPEG audio it would be Layer I, which nobody writes.
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0 and start[1] != 0xFE:
        return "MP3 audio", _nothing
    return None


def read_metadata(file: BinaryIO, kind: str, reader: Reader) -> Metadata:
    """Read the texts of a file of a known kind.

    Args:
        file: Seekable, at its start.
        kind: As `kind_of` gave it.
        reader: As `kind_of` gave it.

    Raises:
        Malformed: The file is cut off or garbled before both texts were found.
    """
    found = Metadata(kind)
    try:
        for name, text in reader(file):
            _take(found.texts, name.casefold(), text)
            if "prompt" in found.texts and "workflow" in found.texts:
                break
    except (EOFError, struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        # What ran is what matters: a file cut off after its prompt is still good for that.
        if "prompt" not in found.texts:
            raise Malformed("it ends too early, or is damaged") from error
    return found


def _take(texts: dict[str, str], name: str, text: str) -> None:
    if name not in _TOGETHER:
        texts.setdefault(name, text)
        return
    try:
        both = json.loads(text)
    except (ValueError, RecursionError):
        return  # somebody's remark
    if isinstance(both, dict):
        for key in ("prompt", "workflow"):
            value = both.get(key)
            if value:
                texts.setdefault(key, value if isinstance(value, str) else json.dumps(value))


def _nothing(_file: BinaryIO) -> Iterator[tuple[str, str]]:
    return iter(())


_KINDS: tuple[tuple[int, bytes, str, Reader], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG picture", png.read),
    (8, b"WEBP", "WebP picture", picture.read_webp),
    (0, b"\xff\xd8\xff", "JPEG picture", picture.read_jpeg),
    (4, b"ftypavif", "AVIF picture", avif.read),
    (4, b"ftypavis", "AVIF picture", avif.read),
    (4, b"ftypheic", "HEIC picture", _nothing),
    (4, b"ftyp", "MP4 video", mp4.read),
    (4, b"moov", "QuickTime video", mp4.read),
    (4, b"wide", "QuickTime video", mp4.read),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska video", matroska.read),
    (0, b"fLaC", "FLAC audio", audio.read_flac),
    (0, b"OggS", "Ogg audio", audio.read_ogg),
    (0, b"ID3", "MP3 audio", audio.read_id3),
    (0, b"glTF", "GLB model", gltf.read),
    (0, b"<svg", "SVG picture", svg.read),
    (0, b"<?xml", "SVG picture", svg.read),
    (0, b"GIF8", "GIF picture", _nothing),
    (0, b"BM", "BMP picture", _nothing),
    (0, b"II*\x00", "TIFF picture", _nothing),
    (0, b"MM\x00*", "TIFF picture", _nothing),
    (8, b"WAVE", "WAV audio", _nothing),
    (8, b"AVI ", "AVI video", _nothing),
    (0, b"PK\x03\x04", "ZIP archive", _nothing),
    (0, b"%PDF", "PDF document", _nothing),
)
