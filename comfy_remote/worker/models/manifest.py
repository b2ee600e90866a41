"""What is on record in a models folder: what we fetched into it, the pins, and which list asked for
which models.

One small file a model and a list, so that workers which share the volume never overwrite one
another's. Pins are in ``comfy-remote.pins`` in the models folder, one pattern a line.
"""

from __future__ import annotations

import fnmatch
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, Field, ValidationError

from ...media.file_changes import discard
from ...media.files import safe_relative_path, storage_errors, write_whole
from ...wire.repo_list import ModelLine
from .folders import OUR_FOLDER

__all__ = ["ASKED_FOR_DAYS", "Asked", "Entry", "Manifest", "list_key"]

# In the models folder: what is never pruned, such as ``loras/style.safetensors`` or ``vae/*``; a
# comment begins with ``#``.
_PINS = "comfy-remote.pins"
ASKED_FOR_DAYS = 7
"""For how many days a model stays for a list that asked for it."""
_DAY = 24 * 3600.0
# The same list again within that time changes nothing worth writing.
_FRESH = 600.0


class Entry(BaseModel):
    """One model that we fetched.

    Attributes:
        path: Relative to the models folder, ``/`` between parts.
        identity: What it was fetched from (see `link.Link`); no secret.
        sha256: Of its content, counted while it was written.
        modified: The file's modification time right after, in ns since 1970.
        fetched: When, in s since 1970.
        fetched_for: The list that asked for it (see `list_key`); empty in older entries.
    """

    path: str
    identity: str
    size: int = Field(ge=0)
    sha256: str
    modified: int
    fetched: float = 0.0
    fetched_for: str = ""

    @property
    def folder(self) -> str:
        """The folder below ``models`` that it is in."""
        return self.path.partition("/")[0]

    def untouched(self, file: Path) -> bool:
        """Whether the file has the size and time that it had when we wrote it.

        To the second: a volume that was mounted again may have dropped the rest.
        """
        try:
            status = file.stat()
        except OSError:
            return False
        same_time = abs(status.st_mtime_ns - self.modified) < 1_000_000_000
        return status.st_size == self.size and same_time


class Manifest:
    """The entries of one models folder, as they are when first asked for.

    Made for each job: other workers add to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / OUR_FOLDER / "files"
        self._known: list[Entry] | None = None

    def entries(self) -> list[Entry]:
        """All entries, by path. One that cannot be read, or leads elsewhere, is passed over."""
        if self._known is None:
            self._known = sorted(self._read(), key=lambda entry: entry.path)
        return self._known

    def file(self, entry: Entry) -> Path:
        """Where an entry's model is."""
        return self.root / entry.path

    def intact(self, identity: str, folder: str, name: str | None) -> Entry | None:
        """A model that we fetched from there and that is still as we wrote it."""
        for entry in self.entries():
            path = PurePosixPath(entry.path)
            if entry.identity == identity and path.parts[0] == folder:
                within = path.relative_to(folder).as_posix()
                if (name is None or within == name) and entry.untouched(self.file(entry)):
                    return entry
        return None

    def entry_of(self, path: Path) -> Entry | None:
        """The entry of a file, if we fetched it and it is as we wrote it."""
        if not path.is_relative_to(self.root):
            return None
        name = path.relative_to(self.root).as_posix()
        entry = next((each for each in self.entries() if each.path == name), None)
        return entry if entry is not None and entry.untouched(path) else None

    def add(self, file: Path, identity: str, sha256: str, fetched_for: str) -> Entry:
        """Record a file that was just written, for a list (see `list_key`)."""
        with storage_errors(self._folder):
            status = file.stat()
            entry = Entry(
                path=file.relative_to(self.root).as_posix(),
                identity=identity,
                size=status.st_size,
                sha256=sha256,
                modified=status.st_mtime_ns,
                fetched=time.time(),
                fetched_for=fetched_for,
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._place(entry.path), entry.model_dump_json(indent=1).encode())
        self._known = None
        return entry

    def forget(self, entry: Entry) -> None:
        """Remove an entry whose file is no longer ours, or no longer there."""
        discard(self._place(entry.path))
        self._known = None

    def pinned(self, path: str) -> bool:
        """Whether ``comfy-remote.pins`` names a path (relative to the models folder)."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self._pins())

    def _pins(self) -> Iterator[str]:
        try:
            text = (self.root / _PINS).read_text(encoding="utf-8-sig", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            if pattern := line.partition("#")[0].strip().replace("\\", "/").lstrip("/"):
                yield pattern

    def _place(self, path: str) -> Path:
        return self._folder / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"

    def _read(self) -> Iterator[Entry]:
        try:
            files = list(self._folder.glob("*.json"))
        except OSError:
            return
        for file in files:
            try:
                entry = Entry.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                continue
            # Somebody else may have written it: it must not lead out of the models folder.
            inside = str(safe_relative_path(entry.path)) == entry.path
            if inside and len(PurePosixPath(entry.path).parts) > 1:
                yield entry


def list_key(name: str, lines: Sequence[ModelLine]) -> str:
    """The identity of a list: the name that its owner gives it, else its lines."""
    text = f"name {name}"
    if not name:
        text = "\n".join(sorted(f"{one.kind} {one.url} {one.name} {one.sha256}" for one in lines))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Note(BaseModel):
    """What one list asked for.

    Attributes:
        asked: When it did so last, in s since 1970.
        paths: Relative to the models folder.
    """

    asked: float
    paths: list[str]


class Asked:
    """Which list asked for which models, and when, so that pruning spares what other lists need.

    A list that comes again (of the same name, or with the same lines) replaces what it asked for
    before.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / OUR_FOLDER / "lists"

    def note(self, key: str, paths: Collection[str]) -> None:
        """Note that a list asks for these models now."""
        wanted, now = sorted(set(paths)), time.time()
        before = self._read(self._file(key))
        if before is not None and before.paths == wanted and 0 <= now - before.asked < _FRESH:
            return
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._file(key), _Note(asked=now, paths=wanted).model_dump_json().encode())
        for file, note in self._notes():
            if _is_over(note.asked, now):
                discard(file)

    def by_others(self, key: str, entries: Collection[Entry]) -> dict[str, float]:
        """What other lists have asked for recently.

        Args:
            key: The list whose own notes are left out.
            entries: The manifest's. Those of an older version do not say which list they were
                fetched for: they count as another's.

        Returns:
            When, by path, in s since 1970.
        """
        now = time.time()
        others = [note for file, note in self._notes() if file != self._file(key)]
        asked = [(path, note.asked) for note in others for path in note.paths]
        asked += [(entry.path, entry.fetched) for entry in entries if not entry.fetched_for]
        found: dict[str, float] = {}
        for path, when in asked:
            if not _is_over(when, now):
                found[path] = max(when, found.get(path, when))
        return found

    def _notes(self) -> Iterator[tuple[Path, _Note]]:
        for file in sorted(self._folder.glob("*.json")):
            if (note := self._read(file)) is not None:
                yield file, note

    def _read(self, file: Path) -> _Note | None:
        try:
            return _Note.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _is_over(asked: float, now: float) -> bool:
    """Whether a note is too old. A time in the future is of another clock, and counts as now."""
    return now - asked > ASKED_FOR_DAYS * _DAY
