"""``manifest.jsonl``: one line for each run that has ended, in the folder of a batch's outputs.

A line is appended when its run ends, and is on the disk before the record says so. A newer line of
a row counts instead of an earlier one, which goes when the batch's driver starts or ends. What a
killed process left of a last line is cut off.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, TypedDict

from ..json_text import parse_json
from ..media.file_changes import patiently, replace_file
from ..media.files import storage_errors, sync_file
from ..types import JsonValue, as_list, mapping

__all__ = [
    "MANIFEST",
    "ManifestOutput",
    "ManifestTail",
    "ManifestWriter",
    "RunLine",
    "read_manifest",
]

MANIFEST = "manifest.jsonl"

_LONGEST_LINE = 16 * 1024 * 1024
_STATES = ("succeeded", "failed", "cancelled")
_TYPES = {
    "run": str,
    "attempt": int,
    "values": dict,
    "target": str,
    "job": str | None,
    "seed": int | None,
    "started": str | None,
    "ended": str | None,
    "seconds": int | float | None,
    "cost": int | float | None,
    "outputs": list,
    "problems": list,
    "error": dict | None,
    "cached": str | None,
    "saved": int | float | None,
}


class ManifestOutput(TypedDict):
    """An output of a run, as its line has it: the file relative to the manifest, with ``/``."""

    file: str
    node: str | None
    kind: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run of a batch.

    Attributes:
        row: From 0.
        run: The name of its folder.
        state: ``succeeded``, ``failed`` or ``cancelled``.
        attempt: From 1.
        values: What was changed for it, by the names that its user gave.
        seed: The seed that all its samplers have; ``None`` where it was not changed.
        job: The id of its job; ``None`` if it failed before it had one.
        started, ended: UTC, as ``2026-11-30T22:00:00.123Z``.
        seconds: How long it ran, on the GPU where the target tells it.
        target: Where it ran; of a route, the member.
        cost: US dollars, estimated, as the ledger has it; ``None`` where no price is known.
        problems: What it should have made, and did not.
        error: ``code``, ``message``, ``advice`` of what went wrong.
        cached: The id of the job whose result it was given; ``None`` if it ran.
        saved: US dollars that it did not cost by that, if they are known.
    """

    row: int
    run: str
    state: str
    attempt: int
    values: dict[str, JsonValue]
    target: str
    job: str | None = None
    seed: int | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    cost: float | None = None
    outputs: list[ManifestOutput] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    error: dict[str, JsonValue] | None = None
    cached: str | None = None
    saved: float | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As written."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, JsonValue]) -> RunLine:
        """The inverse; unknown keys are left out.

        Raises:
            TypeError, ValueError: It is no such line.
        """
        row = line.get("row")
        if not isinstance(row, int) or isinstance(row, bool) or row < 0:
            raise ValueError(f"{row!r} is no row")
        if line.get("state") not in _STATES:
            raise ValueError("it has no state")
        for name, wanted in _TYPES.items():
            if name in line and not isinstance(line[name], wanted):
                raise TypeError(f"{name} has another type")
        for output in as_list(line.get("outputs", [])):
            if not isinstance(output, dict) or not isinstance(output.get("file"), str):
                raise TypeError("an output is no file")
        return cls(**{name: line[name] for name in cls.__slots__ if name in line})  # type: ignore[arg-type]


def read_manifest(path: Path) -> dict[int, RunLine]:
    """The last line of each row, by row. What is not a line of a manifest is left out.

    Raises:
        LocalStorageError: The file cannot be read.
    """
    if not path.exists():
        return {}
    with storage_errors(path):
        return {line.row: line for line in _lines(path) if line is not None}


def _lines(path: Path) -> Iterator[RunLine | None]:
    """Each line; ``None`` for one that is none: cut off by a kill, or somebody else's."""
    with path.open("rb") as file:
        while raw := file.readline(_LONGEST_LINE):
            yield _line_of(raw)


def _line_of(raw: bytes) -> RunLine | None:
    try:
        return RunLine.from_json(mapping(parse_json(raw)))
    except (ValueError, TypeError, AttributeError):
        return None


class ManifestTail:
    """A manifest that another process writes: gives each line once. Its methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = 0  # its number: another one when the writer has tidied up
        self._read = 0  # bytes
        self._attempts: dict[int, int] = {}

    def more(self) -> list[RunLine]:
        """The lines that are new since the last time; at first, all.

        Raises:
            LocalStorageError: The file cannot be read.
        """
        with storage_errors(self._path):
            if not self._path.exists():
                return []
            with self._path.open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._file or now.st_size < self._read:
                    self._file, self._read = now.st_ino, 0
                file.seek(self._read)
                return list(self._new(file))

    def _new(self, file: BinaryIO) -> Iterator[RunLine]:
        while (raw := file.readline(_LONGEST_LINE)).endswith(b"\n"):
            self._read += len(raw)
            line = _line_of(raw)
            if line is not None and self._attempts.get(line.row) != line.attempt:
                self._attempts[line.row] = line.attempt
                yield line


class ManifestWriter:
    """Appends to a manifest. Opened by the one driver of a batch. Its methods block.

    Args:
        path: Of the manifest, in a folder that exists; made when missing.

    Raises:
        LocalStorageError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self.tidy()

    def add(self, line: RunLine) -> None:
        """Write a line; it is on the disk afterwards. Several threads may write at a time."""
        text = json.dumps(line.to_json(), ensure_ascii=False) + "\n"
        content = text.encode("utf-8", errors="replace")
        with (
            self._writing,
            storage_errors(self._path),
            # Unbuffered: what a full disk has not taken must not be written once more at `close`.
            patiently(lambda: self._path.open("r+b", buffering=0)) as file,
        ):
            end = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
                sync_file(file.fileno())
            except OSError:
                file.truncate(end)  # a full disk took a part of it
                raise

    def tidy(self) -> None:
        """Leave one line for each row, in the order in which the runs have ended."""
        with storage_errors(self._path):
            self._path.touch(mode=0o600)
            rows = [None if line is None else line.row for line in _lines(self._path)]
            last = {row: number for number, row in enumerate(rows) if row is not None}
            if len(last) == len(rows) and _ends_whole(self._path):
                return
            made = self._path.with_name(f".{self._path.name}.new")
            wanted = set(last.values())
            with self._path.open("rb") as old, made.open("wb") as new:
                for number, raw in enumerate(iter(lambda: old.readline(_LONGEST_LINE), b"")):
                    if number in wanted:
                        new.write(raw.rstrip(b"\n") + b"\n")
                new.flush()
                sync_file(new.fileno())
            replace_file(made, self._path)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
