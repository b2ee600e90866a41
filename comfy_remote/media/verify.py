"""Whether a file is all there, by what its own format says. Nothing is decoded.

ComfyUI announces neither size nor hash of its files, and a proxy that loses the end of an
answer may well end it in good order. But most formats know how long they are.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias

from ..errors import OutputCorrupt
from ..json_text import has_more_values
from .files import CHUNK_SIZE
from .verify_sound import is_mp3, whole_flac, whole_matroska, whole_mp3, whole_ogg

__all__ = ["check_whole"]

_Check: TypeAlias = Callable[[BinaryIO, int], bool]
"""Whether a file of that many bytes is whole."""

_TAIL = 64 * 1024
# The format's own limit.
_LONGEST_HEADER = 100_000_000
_MOST_VALUES = 2_000_000
_KNOWN_BY_SIGNATURE = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".avif"),
        *(".mp4", ".mov", ".m4v", ".webm", ".mkv"),
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".glb"),
    }
)


def check_whole(path: Path, filename: str) -> None:
    """Refuse a file that is cut off, damaged where its format can tell, or something else.

    A file whose name does not fit its content is let through, as long as it is a picture, a
    film, a sound or a model at all: custom nodes do such things.

    Args:
        path: The file.
        filename: Its name on the target.

    Raises:
        OutputCorrupt: It is not whole, or not what the name says.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    suffix = PurePosixPath(filename).suffix.lower()
    with path.open("rb") as file:
        # The only format here whose files do not begin with a signature.
        check = _safetensors if suffix == ".safetensors" else _format_of(file.read(16))
        if check is None and suffix in _KNOWN_BY_SIGNATURE:
            what = "is empty" if not size else f"is no {suffix[1:].upper()} file"
            raise _corrupt(filename, what, size)
        file.seek(0)
        try:
            whole = check is None or check(file, size)
        except struct.error:  # it ends within a header
            whole = False
    if not whole:
        raise _corrupt(filename, "is cut off or damaged", size)


def _corrupt(filename: str, what: str, size: int) -> OutputCorrupt:
    return OutputCorrupt(
        f"{filename} {what} ({size} bytes arrived).",
        advice="Fetch it again with `comfy-remote jobs resume`.",
        details={"filename": filename, "size": size},
    )


def _format_of(head: bytes) -> _Check | None:
    """What can check a file that begins so; ``None`` for a format we don't know."""
    signatures: tuple[tuple[int, bytes, _Check], ...] = (
        (0, b"\x89PNG\r\n\x1a\n", _png),
        (0, b"\xff\xd8\xff", _jpeg),
        (0, b"RIFF", _riff),
        (0, b"glTF", _glb),
        (4, b"ftyp", _boxes),
        (4, b"moov", _boxes),  # QuickTime before there was a type box
        (4, b"mdat", _boxes),
        (0, b"GIF8", _gif),
        (0, b"\x1a\x45\xdf\xa3", whole_matroska),
        (0, b"fLaC", whole_flac),
        (0, b"OggS", whole_ogg),
        # These do not say how long they are, or only now and then.
        (0, b"RF64", _any),  # WAV above 4 GB
    )
    found = next((check for at, magic, check in signatures if head.startswith(magic, at)), None)
    return whole_mp3 if found is None and is_mp3(head) else found


def _any(_file: BinaryIO, _size: int) -> bool:
    return True


def _png(file: BinaryIO, _size: int) -> bool:
    """Chunk after chunk, with their check sums, up to the last."""
    file.seek(8)
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        checksum = zlib.crc32(kind)
        while length:
            block = file.read(min(length, CHUNK_SIZE))
            if not block:
                return False
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
        if struct.unpack(">I", file.read(4))[0] != checksum:
            return False
        if kind == b"IEND":
            return True


def _jpeg(file: BinaryIO, size: int) -> bool:
    # Some cameras and tools write a little more behind the end mark.
    file.seek(max(0, size - _TAIL))
    return b"\xff\xd9" in file.read()


def _gif(file: BinaryIO, size: int) -> bool:
    """It ends with a semicolon; some tools fill up with zeros behind it."""
    file.seek(max(0, size - _TAIL))
    return file.read().rstrip(b"\0").endswith(b";")


def _safetensors(file: BinaryIO, size: int) -> bool:
    """A length, a JSON header of that length, and tensors as far as the header says."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _LONGEST_HEADER):
        return False
    try:
        text = file.read(length)
        if has_more_values(text, _MOST_VALUES):
            return False
        header = json.loads(text)
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        return bool(8 + length + max(ends, default=0) == size)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _riff(file: BinaryIO, size: int) -> bool:
    """WebP, WAV, AVI."""
    length = struct.unpack("<4xI", file.read(8))[0]
    # Who writes a WAV into a pipe cannot know its length.
    return length in (0, 0xFFFFFFFF) or bool(length + 8 <= size)


def _glb(file: BinaryIO, size: int) -> bool:
    return bool(struct.unpack("<8xI", file.read(12))[0] <= size)


def _boxes(file: BinaryIO, size: int) -> bool:
    """MP4 and its kin (MOV, M4A, AVIF, HEIC): boxes that fill the file."""
    at, kinds = 0, set()
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        kinds.add(kind)
        header = 8
        if length == 1:
            length, header = struct.unpack(">Q", file.read(8))[0], 16
        elif length == 0:
            length = size - at
        if length < header:
            return False
        at += length
    # A picture's boxes have `meta` in `moov`'s place.
    # A few bytes behind the last box are harmless; a box that ends behind the file is not.
    return at <= size and b"mdat" in kinds and not kinds.isdisjoint({b"moov", b"meta"})
