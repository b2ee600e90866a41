"""A packed workflow: one zip file with ``workflow.json``, ``comfy-remote.lock`` and ``input/``.

Unpacked by any program, it is a folder that runs. Read here, nothing of it is believed: names stay
below a folder, sizes and counts are bounded by what is really unpacked, and what else is in the
file stays in it. It may be anybody's, so addresses in its workflow, where a worker would fetch
models from, are taken out until its owner has trusted them.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import LocalStorageError, WorkflowInvalid
from ..media.files import reserved_on_windows, storage_errors, written_whole
from ..types import JsonValue
from ..units import size_text

__all__ = [
    "LARGEST_INPUTS",
    "MOST_INPUTS",
    "PackedFiles",
    "can_be_packed",
    "packed_files",
    "without_addresses",
    "write_packed",
]

LARGEST_INPUTS = 512 * 1024 * 1024
"""Bytes of all files in ``input/``, unpacked."""

MOST_INPUTS = 1000

_WORKFLOW, _LOCK, _INPUT = "workflow.json", "comfy-remote.lock", "input/"
_LARGEST_WORKFLOW = 64 * 1024 * 1024
_LARGEST_LOCK = 4 * 1024 * 1024
_LARGEST_DIRECTORY = 512 * 1024  # bytes of the list of entries: some thousands
_CHUNK = 1024 * 1024
_END, _END_SIZE = b"PK\x05\x06", 22
_END_64, _END_64_SIZE = b"PK\x06\x07", 20  # before the end: of the 64-bit form, with other sizes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LONGEST_NAME = 240
_ADVICE = "Have it packed again, or ask whoever made it for the workflow itself."
_REPO_LIST = "repo_list"


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """What is in a packed workflow.

    Attributes:
        workflow: The text of ``workflow.json``.
        lock: The text of its lock; ``None`` if it has none.
        inputs: The sizes of its input files, by the names that the workflow calls them.
    """

    workflow: bytes
    lock: str | None
    inputs: Mapping[str, int]


def packed_files(file: BinaryIO, name: str, unpack_to: Path | None = None) -> PackedFiles:
    """What is in a packed workflow; ``name`` begins messages. Blocking.

    Args:
        file: Seekable.
        unpack_to: A new folder, for the input files.

    Raises:
        WorkflowInvalid: It is not one, or it is damaged, too large, or leads out of its folder.
        LocalStorageError: The files could not be written.
    """
    with _opened(file, name) as archive:
        entries = _checked(archive, name)
        if _WORKFLOW not in entries:
            raise _refused(name, f"it has no {_WORKFLOW}")
        workflow = _read(archive, entries[_WORKFLOW], _LARGEST_WORKFLOW, name)
        lock = None
        if _LOCK in entries:
            raw = _read(archive, entries[_LOCK], _LARGEST_LOCK, name)
            lock = raw.decode("utf-8", "replace")
        inputs = {
            entry.removeprefix(_INPUT): info
            for entry, info in entries.items()
            if entry.startswith(_INPUT)
        }
        total = sum(info.file_size for info in inputs.values())
        if len(inputs) > MOST_INPUTS or total > LARGEST_INPUTS:
            raise _refused(
                name,
                f"its {len(inputs)} input files have {size_text(total)}, and "
                f"{MOST_INPUTS} files of {size_text(LARGEST_INPUTS)} are read at most",
            )
        if unpack_to is not None:
            for relative, info in inputs.items():
                _unpack(archive, info, unpack_to / relative, name)
        sizes = {relative: info.file_size for relative, info in inputs.items()}
        return PackedFiles(workflow, lock, sizes)


def can_be_packed(name: str) -> bool:
    """Whether an input file of that name is read from a packed workflow again, on any system."""
    return _is_safe(_INPUT + name) and not _is_hidden(name)


def write_packed(path: Path, workflow: bytes, lock: str | None, inputs: Mapping[str, Path]) -> int:
    """Write a packed workflow, whole or not at all; returns its size. The same in, the same out.

    Args:
        inputs: The files, by the names that the workflow calls them.

    Raises:
        LocalStorageError: It cannot be written, or an input cannot be read.
    """
    with storage_errors(path), written_whole(path) as made:
        _write(made, workflow, lock, inputs)
    return path.stat().st_size


def without_addresses(document: JsonValue) -> JsonValue:
    """A workflow without the addresses that a worker would fetch models from.

    Those are in ``models`` of the workflow and of nodes, and in nodes titled ``repo_list``, which
    get another title.
    """
    match document:
        case list():
            return [without_addresses(one) for one in document]
        case dict():
            kept = {
                key: without_addresses(value)
                for key, value in document.items()
                if not (key == "models" and _names_addresses(value))
            }
            title = kept.get("title")
            if isinstance(title, str) and title.casefold() == _REPO_LIST:
                kept["title"] = f"{title} (not trusted)"
            return kept
        case _:
            return document


def _names_addresses(value: JsonValue) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and "url" in one for one in value)


# Reading


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[zipfile.ZipFile]:
    """The archive, once its list of entries is known to be small."""
    try:
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(0, size - _END_SIZE - 0xFFFF))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_SIZE:
            raise _refused(name, "it is cut off, or no zip file")
        directory = struct.unpack_from("<I", tail, at + 12)[0]
        # Python reads the sizes of the 64-bit form wherever there is one, whatever is said here.
        is_64_bit = tail[max(0, at - _END_64_SIZE) : at].startswith(_END_64)
        if directory > _LARGEST_DIRECTORY or is_64_bit:
            raise _refused(name, "it has too many entries")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(name, f"it is damaged ({error})") from error


def _checked(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The entries that are read, by name: each name is safe, and there once."""
    found: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in archive.infolist():
        entry = info.orig_filename
        if not _is_safe(entry):
            raise _refused(name, f"the name {entry[:80]!r} in it leads out of its folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise _refused(name, f"{entry[:80]} in it is a link")
        if entry.endswith("/") or not (
            entry in (_WORKFLOW, _LOCK) or (entry.startswith(_INPUT) and not _is_hidden(entry))
        ):
            continue
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            raise _refused(name, f"{entry[:80]} in it is encrypted, or packed in an unusual way")
        if entry.casefold() in seen:
            raise _refused(name, f"{entry[:80]} is in it twice")
        seen.add(entry.casefold())
        found[entry] = info
    return found


def _is_safe(entry: str) -> bool:
    parts = entry.removesuffix("/").split("/")
    return (
        0 < len(entry) <= _LONGEST_NAME
        and not any(part in ("", ".", "..") for part in parts)
        and not any(letter in entry for letter in '\\:*?"<>|')
        and entry.isprintable()
        and not any(part.endswith((" ", ".")) or reserved_on_windows(part) for part in parts)
    )


def _is_hidden(entry: str) -> bool:
    return any(part.startswith(".") for part in entry.split("/"))


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int, name: str) -> bytes:
    if info.file_size > largest:
        raise _refused(name, f"{info.filename} in it is larger than {size_text(largest)}")
    with archive.open(info) as entry:
        data = entry.read(largest + 1)
    if len(data) > largest:
        raise _refused(name, f"{info.filename} in it is larger than it says")
    return data


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path, name: str) -> None:
    left = info.file_size
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with archive.open(info) as entry, place.open("xb") as file:
            while chunk := entry.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _refused(name, f"{info.filename} in it is larger than it says")
                file.write(chunk)


# Writing


def _write(path: Path, workflow: bytes, lock: str | None, inputs: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_info(_WORKFLOW), workflow)
        if lock is not None:
            archive.writestr(_info(_LOCK), lock.encode())
        for relative, source in sorted(inputs.items()):
            _pack(archive, _INPUT + relative, source)


def _info(entry: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(entry)  # of 1980, so the same files give the same bytes
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _pack(archive: zipfile.ZipFile, entry: str, source: Path) -> None:
    try:
        with source.open("rb") as file, archive.open(_info(entry), "w") as packed:
            while chunk := file.read(_CHUNK):
                packed.write(chunk)
    except OSError as error:
        raise LocalStorageError(
            f"{source} could not be packed: {error.strerror or error}.",
            advice="Check that it is still there, that you may read it, and that there is room.",
            details={"path": str(source)},
        ) from error


def _refused(name: str, why: str) -> WorkflowInvalid:
    return WorkflowInvalid(f"{name} cannot be used as a packed workflow: {why}.", advice=_ADVICE)
