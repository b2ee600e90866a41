"""File formats: one module each, which says whether a file is whole and finds the texts in it.

Nothing is decoded. A module has ``is_whole(file, size)``, ``texts(file)``, or both:

- ``is_whole`` checks lengths and check sums that the format itself has. ComfyUI announces neither
  size nor hash of its files, and a proxy that loses the end of an answer may close the connection
  properly.
- ``texts`` gives the names and texts of the metadata in which ComfyUI and its custom nodes save
  ``prompt`` and ``workflow``. Only the parts that may hold them are read, whatever the length of
  the file, and no size that a file claims is trusted (`reading`).

Written by hand, since no library does either: mutagen is GPL, tinytag (MIT) reads as much as a file
claims to hold, and neither says whether a file is whole. Pillow decodes EXIF fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeAlias

from ...data_class import dataclass
from . import avif, flac, glb, jpeg, matroska, mp3, mp4, ogg, png, riff, safetensors, svg
from .reading import Malformed, ends_with

__all__ = [
    "CHECKED_SUFFIXES",
    "SIGNATURE_BYTES",
    "Format",
    "Malformed",
    "format_of",
    "safetensors",
]

SIGNATURE_BYTES = 16
"""How much of a file `format_of` needs."""

_IsWhole: TypeAlias = Callable[[BinaryIO, int], bool]
_Texts: TypeAlias = Callable[[BinaryIO], Iterator[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Format:
    """What can be done with files of one format.

    Attributes:
        kind: For people: "PNG picture".
        is_whole: Whether a file is complete; given the file, at its start, and its size. ``None``
            if outputs of that format are not expected. May raise `EOFError` or `struct.error` for a
            file that ends within a header.
        texts: The texts in a file, seekable and at its start. May raise `Malformed`, and what
            damaged data leads to.
    """

    kind: str
    is_whole: _IsWhole | None = None
    texts: _Texts = lambda _file: iter(())


def format_of(start: bytes) -> Format | None:
    """The format of a file by its first `SIGNATURE_BYTES` bytes; ``None`` for an unknown one."""
    for at, signature, known in _BY_SIGNATURE:
        if start.startswith(signature, at):
            return known
    if start[4:9] == b"\0\0\0\0{":
        return _SAFETENSORS
    return _MP3 if mp3.starts_with_frame(start) else None


_MP3 = Format("MP3 audio", mp3.is_whole, mp3.texts)
_SAFETENSORS = Format("safetensors file", safetensors.is_whole, safetensors.texts)
_AVIF = Format("AVIF picture", mp4.is_whole, avif.texts)
_QUICKTIME = Format("QuickTime video", mp4.is_whole, mp4.texts)
_SVG = Format("SVG picture", None, svg.texts)
_TIFF = Format("TIFF picture")

# The first that fits counts.
_BY_SIGNATURE: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Format("PNG picture", png.is_whole, png.texts)),
    (0, b"\xff\xd8\xff", Format("JPEG picture", jpeg.is_whole, jpeg.texts)),
    # Some tools pad a GIF with zeros.
    (0, b"GIF8", Format("GIF picture", lambda f, size: ends_with(f, size, b";", padded=True))),
    (8, b"WEBP", Format("WebP picture", riff.is_whole, riff.texts)),
    (8, b"AVI ", Format("AVI video", riff.is_whole)),
    (0, b"RF64", Format("WAV audio", lambda *_: True)),  # above 4 GB, of an unknown length
    (8, b"WAVE", Format("WAV audio", riff.is_whole)),
    (0, b"RIFF", Format("RIFF file", riff.is_whole)),
    (4, b"ftypavif", _AVIF),
    (4, b"ftypavis", _AVIF),
    (4, b"ftypheic", Format("HEIC picture", mp4.is_whole)),
    (4, b"ftyp", Format("MP4 video", mp4.is_whole, mp4.texts)),
    # QuickTime files older than the type box.
    (4, b"moov", _QUICKTIME),
    (4, b"wide", _QUICKTIME),
    (4, b"mdat", _QUICKTIME),
    (0, b"\x1a\x45\xdf\xa3", Format("WebM or Matroska video", matroska.is_whole, matroska.texts)),
    (0, b"fLaC", Format("FLAC audio", flac.is_whole, flac.texts)),
    (0, b"OggS", Format("Ogg audio", ogg.is_whole, ogg.texts)),
    (0, b"ID3", _MP3),
    (0, b"glTF", Format("GLB model", glb.is_whole, glb.texts)),
    (0, b"<svg", _SVG),
    (0, b"<?xml", _SVG),
    (0, b"BM", Format("BMP picture")),
    (0, b"II*\x00", _TIFF),
    (0, b"MM\x00*", _TIFF),
    (0, b"PK\x03\x04", Format("ZIP archive")),
    (0, b"%PDF", Format("PDF document")),
)

CHECKED_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".avif"),
        *(".mp4", ".mov", ".m4v", ".webm", ".mkv"),
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".glb"),
    }
)
"""A file so named is damaged unless it begins with a signature whose format has ``is_whole``."""
