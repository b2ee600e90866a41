"""Files written safely: names that stay below a folder, contents that are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

from ..advice import Hint
from ..errors import LocalStorageError
from .file_changes import discard, link_file, replace_file

__all__ = [
    "CHUNK_SIZE",
    "OWN_DATA",
    "blake3_of",
    "copy_whole",
    "fitting",
    "folder_beside",
    "leads_out",
    "link_or_copy",
    "place",
    "place_below",
    "place_new",
    "private_folder",
    "reserved_on_windows",
    "safe_relative_path",
    "sha256_of",
    "storage_errors",
    "subfolder_of",
    "sync_file",
    "sync_folder",
    "take_name",
    "write_whole",
    "written_whole",
]

CHUNK_SIZE = 1024 * 1024
"""Bytes read or written at a time."""

OWN_DATA = "Correct its permissions, or set COMFY_REMOTE_HOME to a folder in which you may write."
_OWN_DATA_FULL = "Free some space, then try again; or set COMFY_REMOTE_HOME to a folder elsewhere."
LONGEST_PATH = 259 if os.name == "nt" else None
"""Characters of a path that all programs on Windows open
(https://learn.microsoft.com/windows/win32/fileio/maximum-file-path-limitation)."""

_FULL = Hint.ROOM_FOR_OUTPUTS()
_STAMP = len("_20261121-101500_999")  # what `place` may add to a name
_SHORTEST_PART = 8
_MAX_PART = 120
# Control characters, and what Windows forbids in a name (":" would open an NTFS stream).
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')
_RESERVED_ON_WINDOWS = re.compile(
    r"^(con|prn|aux|nul|(com|lpt)[0-9¹²³]|conin\$|conout\$|clock\$) *(\.|$)", re.IGNORECASE
)
# Files that some program reads because of their name alone, ours among them.
_READ_BY_NAME = {"comfy-remote.toml", "autorun.inf", "desktop.ini"}


def reserved_on_windows(name: str) -> bool:
    """Whether Windows opens a device where a file has that name: ``NUL``, ``con.png``."""
    return _RESERVED_ON_WINDOWS.match(name) is not None


def _safe_part(part: str) -> str:
    # Byte order tricks: U+202E makes "gnp.exe" read "exe.png".
    cleaned = "".join(c for c in _FORBIDDEN.sub("_", part) if c.isprintable())
    # Windows strips trailing dots and spaces, so "a.png." would become another file's name.
    cleaned = cleaned.lstrip().rstrip(". ")
    hidden = cleaned.startswith(".")
    if hidden or reserved_on_windows(cleaned) or cleaned.casefold() in _READ_BY_NAME:
        cleaned = f"_{cleaned}"
    if len(cleaned) > _MAX_PART:
        suffix = PurePosixPath(cleaned).suffix[:20]
        cleaned = cleaned[: _MAX_PART - len(suffix)].rstrip(". ") + suffix.rstrip(". ")
    return cleaned


def subfolder_of(path: PurePath) -> str:
    """ComfyUI's ``subfolder`` of a relative path: its folders with ``/``, empty where it has none.

    >>> subfolder_of(PurePosixPath("a/b/x.png")), subfolder_of(PurePosixPath("x.png"))
    ('a/b', '')
    """
    return "/".join(path.parts[:-1])


def safe_relative_path(filename: str, subfolder: str = "") -> PurePosixPath:
    """A path below any folder, made from names that came from elsewhere.

    ``..``, absolute parts and drive letters are dropped, both kinds of slash separate, what any
    platform forbids becomes ``_``, and an empty name becomes ``output``. Hidden names (``.env``),
    those that Windows reserves, and those that a program reads by itself (``comfy-remote.toml``)
    get a leading ``_``. The result is the same on every platform and never empty.

    >>> str(safe_relative_path("../../x.png", "C:\\\\a"))
    'C_/a/x.png'
    """
    parts = re.split(r"[\\/]+", f"{subfolder}/{filename}")
    safe = [s for part in parts if (s := _safe_part(part))]
    last = re.split(r"[\\/]+", filename)[-1]
    if not safe or not _safe_part(last):
        safe.append("output")
    return PurePosixPath(*safe)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 lower-case hex digits, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def blake3_of(path: Path) -> str:
    """BLAKE3 of a file's content, like `sha256_of`."""
    from blake3 import blake3  # here: few jobs need it

    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def storage_errors(
    path: Path, *, full: str | None = None, denied: str | None = None
) -> Iterator[None]:
    """Turn `OSError`s of writing below ``path`` into `LocalStorageError`s.

    Args:
        full: Advice for a full disk; by default, what to do about outputs, or about Comfy Remote's
            own data.
        denied: Advice where it cannot be written; `OWN_DATA` for a folder of Comfy Remote's own.
    """
    if full is None:
        full = _OWN_DATA_FULL if denied == OWN_DATA else _FULL
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalStorageError(
                f"The disk that holds {path} is full.",
                advice=full,
                details={"path": str(path)},
            ) from error
        if error.errno == errno.ENAMETOOLONG or _is_too_long(path, error):
            raise LocalStorageError(
                f"{path} could not be written: the path has {len(str(path))} characters, which is "
                "too long for this system.",
                advice=Hint.OTHER_FOLDER(),
                details={"path": str(path)},
            ) from error
        raise LocalStorageError(
            f"{path} could not be written: {error.strerror or error}.",
            advice=Hint.WRITABLE_FOLDER() if denied is None else denied,
            details={"path": str(path)},
        ) from error


@contextlib.contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A new folder below ``folder`` that only its owner may enter; removed at the end.

    Raises:
        LocalStorageError: It cannot be made.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made = folder_beside(folder, f".comfy-remote-{uuid.uuid4().hex[:12]}")
    try:
        yield made
    finally:
        discard(made)


def folder_beside(folder: Path, name: str, *, windows: bool = os.name == "nt") -> Path:
    """A folder for files that get their final names beside it; it may be there.

    Only its owner may enter, by its mode. Not on Windows: there (since Python 3.12.4), mode 0700
    is an access list for its owner, which each file in it takes along to its final name; so it
    is as private as the folder that it is in.

    Raises:
        OSError: It cannot be made.
    """
    made = folder / name
    made.mkdir(mode=0o777 if windows else 0o700, exist_ok=True)
    return made


def place(source: Path, destination: Path, sha256: str, *, link: bool = True) -> Path:
    """Give a complete file its final name, atomically, replacing nothing.

    The content is linked (or, across file systems, copied beside and renamed), with mode 0600. A
    file of that name with the same content stays as it is; if the content differs, the new file
    gets the time in its name: ``picture_20261121-101500.png``.

    Args:
        source: A complete file; it stays.
        destination: Where it is wanted. Parents are made when missing.
        sha256: Of the source.
        link: Whether it may be a link. It has the source's permissions, on Windows its access list.

    Returns:
        Where the content is now.

    Raises:
        LocalStorageError: It could not be written; nothing is left under a final name.
    """
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o600)
        for candidate in _candidates(destination):
            try:
                link_or_copy(source, candidate, link=link)
                return candidate
            except FileExistsError:
                if candidate.is_file() and sha256_of(candidate) == sha256:
                    return candidate
    raise LocalStorageError(
        f"No free name was found for {destination}.",
        advice=Hint.OTHER_FOLDER(),
    )


def place_below(
    source: Path, folder: Path, relative: PurePosixPath, sha256: str, *, link: bool = True
) -> Path:
    """`place` for a name from elsewhere (`safe_relative_path`), below a folder of the user's.

    Raises:
        LocalStorageError: As `place`, or a link below the folder leads out of it.
    """
    destination = folder / fitting(folder, relative)
    if leads_out(destination.parent, folder):
        raise LocalStorageError(
            f"{destination} was not written: a link leads out of {folder}.",
            advice=Hint.LINK_OUT_OF_FOLDER(),
            details={"path": str(destination)},
        )
    return place(source, destination, sha256, link=link)


def fitting(
    folder: Path, relative: PurePosixPath, *, longest: int | None = LONGEST_PATH
) -> PurePosixPath:
    """A name below a folder, its longest parts cut as far as the path is too long.

    What a name ends in stays. If the folder's own path is too long, so is the result.

    Args:
        longest: Characters of the whole path; ``None`` for no limit.
    """
    if longest is None:
        return relative
    parts = list(relative.parts)
    over = len(str(folder.absolute())) + len(f"/{relative}") + _STAMP - longest
    while over > 0:
        number = max(range(len(parts)), key=lambda one: len(parts[one]))
        part, suffix = parts[number], PurePosixPath(parts[number]).suffix[:20]
        length = max(_SHORTEST_PART, len(part) - over) - len(suffix)
        # "constellation.webp" may become "con.webp", which Windows reserves.
        cut = _safe_part(part[: max(1, length)].rstrip(". ") + suffix)
        if len(cut) >= len(part):
            break
        over -= len(part) - len(cut)
        parts[number] = cut
    return PurePosixPath(*parts)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether links make a path below a folder lead out of it; neither need exist."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def place_new(source: Path, candidates: Iterable[Path]) -> Path:
    """Like `place`, under the first of several names in one folder that is free.

    Raises:
        LocalStorageError: It could not be written, or none of the names is free.
    """
    with storage_errors(source):
        source.chmod(0o600)
    for candidate in candidates:
        with storage_errors(candidate):
            candidate.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_or_copy(source, candidate)
            except FileExistsError:
                continue
            return candidate
    raise LocalStorageError(
        f"No free name was found for {source.name}.", advice="Clear out the output folder."
    )


def take_name(
    source: Path, destination: Path, digest: str, digest_of: Callable[[Path], str] = sha256_of
) -> None:
    """Rename a complete file, in place of what has the name.

    Windows does not replace a file that somebody reads: it stays, if it has the same digest.

    Raises:
        OSError: It cannot have the name.
    """
    try:
        replace_file(source, destination, seconds=0)
    except PermissionError:
        if destination.is_file() and digest_of(destination) == digest:
            discard(source)
        else:
            replace_file(source, destination)


def copy_whole(source: Path, destination: Path, *, durable: bool = False) -> None:
    """Copy a file; otherwise as `write_whole`.

    Raises:
        OSError: It cannot be copied. Nothing is left.
    """
    with written_whole(destination, durable) as beside:
        shutil.copyfile(source, beside)


def write_whole(path: Path, content: bytes, *, durable: bool = False, mode: int = 0o600) -> None:
    """Write a file atomically, replacing a file of that name.

    The folders are made when missing, for their owner only.

    Args:
        durable: Whether it has to survive a power cut from then on.
        mode: Of the file; by default, only its owner may read it.

    Raises:
        OSError: It cannot be written. Nothing is left.
    """
    with written_whole(path, durable) as beside:
        beside.write_bytes(content)
        if mode != 0o600:
            beside.chmod(mode)


@contextlib.contextmanager
def written_whole(path: Path, durable: bool = False) -> Iterator[Path]:
    """An empty file beside ``path`` to write to, which is renamed at the end: see `write_whole`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        beside.touch(mode=0o600, exist_ok=False)
        yield beside
        if durable:
            with beside.open("rb+") as file:
                sync_file(file.fileno())
        replace_file(beside, path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        discard(beside)
        raise


def sync_file(handle: int) -> None:
    """Have what was written to an open file survive a power cut.

    Raises:
        OSError: The disk failed, or is full.
    """
    if sys.platform == "darwin":  # its fsync leaves it in the disk's own memory
        import fcntl

        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    else:
        os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut.

    Raises:
        OSError: The disk failed.
    """
    if os.name == "nt":  # it has no such thing, and writes them in time
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_too_long(path: Path, error: OSError) -> bool:
    """Windows says of a path that is too long that there is no such path (3), or its name (206)."""
    return getattr(error, "winerror", None) in (3, 206) and len(str(path.absolute())) > 200


def _candidates(destination: Path) -> Iterator[Path]:
    yield destination
    stamped = f"{destination.stem}_{time.strftime('%Y%m%d-%H%M%S')}"
    yield destination.with_name(f"{stamped}{destination.suffix}")
    for count in range(2, 1000):
        yield destination.with_name(f"{stamped}_{count}{destination.suffix}")


def link_or_copy(source: Path, destination: Path, *, link: bool = True) -> None:
    """Give a file a second name. Where that cannot, or must not, be a hard link, it is a copy.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be linked or copied.
    """
    if link:
        try:
            link_file(source, destination)
            return
        except FileExistsError:
            raise
        except OSError:
            pass  # another file system, or one without links (exFAT)
    if destination.exists():
        raise FileExistsError(destination)
    copy_whole(source, destination)
