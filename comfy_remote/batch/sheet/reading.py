"""A batch's folder as a sheet needs it: what was asked for, what each run made, what was chosen.

All three files are read with care: a batch may still be writing them, a kill may have cut them off
at any byte, and a folder may have come from somebody else. So a file's name is taken only if it is
below the folder by its text, and each text that is only shown is cleaned and has a limit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from ...clean import cleaned_text
from ...json_text import parse_json
from ...media.files import storage_errors
from ...units import counted
from .keeps import Keeps, read_keeps

__all__ = [
    "BATCH",
    "MANIFEST",
    "Batch",
    "BatchFile",
    "Output",
    "Run",
    "RunError",
    "ShownAxis",
    "read_batch",
]

BATCH = "batch.json"
MANIFEST = "manifest.jsonl"

MOST_RUNS = 100_000
"""Lines of a manifest that one page shows; the first rows of a larger batch."""

_LONGEST_LINE = 4 * 1024 * 1024
_LARGEST_BATCH = 64 * 1024 * 1024
_LONGEST_TEXT = 4000  # characters of an error or a problem
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What no system has in a name that our own programs give (`media.files.safe_relative_path`).
_NOT_IN_A_NAME = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


def _shown(text: str) -> str:
    cleaned = cleaned_text(text)
    return cleaned if len(cleaned) <= _LONGEST_TEXT else f"{cleaned[:_LONGEST_TEXT]} …"


class Output(_Read):
    """A file that a run made.

    Attributes:
        file: Relative to the batch's folder, with ``/``.
        node: The id of the node that made it.
        kind: ``image``, ``video``, ``audio``, ``3d``, ``text`` or ``file``.
        size: Bytes.
        sha256: ``None`` where the manifest has no valid one.
    """

    file: str
    node: str | None = None
    kind: str = "file"
    media_type: str = "application/octet-stream"
    size: int | None = None
    sha256: str | None = None

    @field_validator("file")
    @classmethod
    def _below_the_folder(cls, file: str) -> str:
        parts = file.split("/")
        if _NOT_IN_A_NAME.search(file) or not all(p and p.strip(". ") for p in parts):
            raise ValueError("not a name below the folder")
        return file

    @field_validator("sha256")
    @classmethod
    def _whole_hash(cls, sha256: str | None) -> str | None:
        return sha256 if sha256 is not None and _SHA256.fullmatch(sha256) else None


class ShownText(_Read):
    """A text that a node showed, and that is no file."""

    node: str | None = None
    text: str = ""

    @field_validator("text")
    @classmethod
    def _short(cls, text: str) -> str:
        return _shown(text)


class RunError(_Read):
    """Why a run failed."""

    code: str = ""
    message: str = ""
    advice: str | None = None

    @field_validator("code", "message", "advice")
    @classmethod
    def _short(cls, text: str | None) -> str | None:
        return None if text is None else _shown(text)


class Run(_Read):
    """One line of the manifest: a run that has ended. See `batch.manifest`.

    Attributes:
        row: From 0.
        state: ``succeeded``, ``failed`` or ``cancelled``.
        seconds: How long it ran.
        cost: US dollars.
        unread: How many of its outputs the manifest names in a way that is not followed.
    """

    row: int = Field(ge=0)
    run: str = ""
    state: str = ""
    attempt: int = 1
    values: dict[str, JsonValue] = {}
    seed: int | None = None
    target: str = ""
    job: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    cost: float | None = None
    outputs: list[Output] = []
    texts: list[ShownText] = []
    problems: list[str] = []
    error: RunError | None = None
    unread: int = 0

    @field_validator("seconds", "cost")
    @classmethod
    def _finite(cls, amount: float | None) -> float | None:
        return amount if amount is not None and math.isfinite(amount) and amount >= 0 else None

    @field_validator("run", "state", "target")
    @classmethod
    def _clean(cls, text: str) -> str:
        return _shown(text)

    @field_validator("problems")
    @classmethod
    def _short(cls, problems: list[str]) -> list[str]:
        return [_shown(one) for one in problems[:50]]


class AxisFile(_Read):
    """What varies, as ``batch.json`` has it: the first values of each axis."""

    names: list[str]
    count: int = 0
    values: list[list[JsonValue]] = []


class BatchFile(_Read):
    """``batch.json``: what the batch was asked to do.

    Attributes:
        workflow: The name of its file.
        count: Rows in all.
        axes: Outermost first.
        prompt: In API format, without a row's values.
        sets: The ``[node, input]`` pairs that each name changes.
        command: What runs the workflow once; a row's values are options behind it.
    """

    id: str = ""
    name: str = ""
    workflow: str = ""
    target: str = ""
    created: str = ""
    count: int = Field(default=0, ge=0)
    axes: list[AxisFile] = []
    prompt: dict[str, JsonValue] = {}
    sets: dict[str, list[tuple[str, str]]] = {}
    command: list[str] = []

    @field_validator("name", "workflow", "target", "created")
    @classmethod
    def _clean(cls, text: str) -> str:
        return _shown(text)


@dataclass(frozen=True, slots=True)
class ShownAxis:
    """One thing that varies, with all of its values that are known, in order."""

    names: tuple[str, ...]
    values: list[tuple[JsonValue, ...]]


@dataclass(frozen=True, slots=True)
class Batch:
    """All that a sheet shows.

    Attributes:
        axes: What varies.
        runs: Those that have ended, by row.
        places: For each run, the index of its value on each axis; -1 where it has none.
        product: Whether row ``n`` is the n-th combination of the axes' values, the last axis
            changing fastest. Only then is it known what a row that has not run would be.
        keeps: What was chosen so far.
        notes: What could not be read, as sentences.
    """

    file: BatchFile
    axes: list[ShownAxis]
    runs: list[Run]
    places: list[tuple[int, ...]]
    product: bool
    keeps: Keeps
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Rows in all."""
        return max(self.file.count, self.runs[-1].row + 1 if self.runs else 0)


def read_batch(folder: Path) -> Batch:
    """What a batch's folder says. It blocks.

    Raises:
        LocalStorageError: Its files cannot be read.
    """
    notes: list[str] = []
    with storage_errors(folder):
        described = _read_description(folder / BATCH, notes)
        runs = _read_runs(folder / MANIFEST, notes)
        keeps = read_keeps(folder)
    axes = _axes_of(described, runs)
    places = _places(axes, runs)
    return Batch(
        file=described,
        axes=axes,
        runs=runs,
        places=places,
        product=_is_product(described, axes, runs, places),
        keeps=keeps,
        notes=notes,
    )


def _read_description(path: Path, notes: list[str]) -> BatchFile:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BATCH)
        return BatchFile.model_validate(parse_json(content))
    except FileNotFoundError:
        notes.append(f"{BATCH} is not there: what varies is taken from {MANIFEST}.")
    except ValueError:  # a ValidationError is one
        notes.append(f"{BATCH} cannot be read: what varies is taken from {MANIFEST}.")
    return BatchFile()


def _read_runs(path: Path, notes: list[str]) -> list[Run]:
    last: dict[int, Run] = {}
    damaged = more = 0
    for line in _lines(path):
        run = _run_of(line)
        if run is None:
            damaged += 1
        elif run.row in last or len(last) < MOST_RUNS:
            last[run.row] = run
        else:
            more += 1
    if damaged:
        notes.append(f"{counted(damaged, 'line')} of {MANIFEST} could not be read.")
    if more:
        notes.append(f"Only {MOST_RUNS:,} runs are shown; {MANIFEST} has {more:,} more.")
    if unread := sum(run.unread for run in last.values()):
        notes.append(f"{counted(unread, 'output')} left out: the name leads out of the folder.")
    return [last[row] for row in sorted(last)]


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines. The last one, without its end, is still being written, or was cut off."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(_LONGEST_LINE):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == _LONGEST_LINE:
                yield b"too long"
                while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass


def _run_of(line: bytes) -> Run | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    outputs = value.get("outputs")
    named = outputs if isinstance(outputs, list) else []
    read = [one for one in map(_output_of, named) if one is not None]
    try:
        return Run.model_validate({**value, "outputs": read, "unread": len(named) - len(read)})
    except ValidationError:
        return None


def _output_of(value: JsonValue) -> Output | None:
    try:
        return Output.model_validate(value)
    except ValidationError:
        return None


def _key(values: tuple[JsonValue, ...]) -> str:
    return json.dumps(values, sort_keys=True)


def _value_of(run: Run, names: tuple[str, ...]) -> tuple[JsonValue, ...] | None:
    """A run's value on an axis. A row of a table may leave some of its columns out."""
    if not any(name in run.values for name in names):
        return None
    return tuple(run.values.get(name) for name in names)


def _axes_of(described: BatchFile, runs: list[Run]) -> list[ShownAxis]:
    """The axes with the values that ``batch.json`` lists, and behind them what runs have had."""
    names = [tuple(axis.names) for axis in described.axes]
    listed = [[tuple(one) for one in axis.values] for axis in described.axes]
    named = {name for axis in names for name in axis}
    for run in runs:
        for name in run.values:
            if name not in named:
                named.add(name)
                names.append((name,))
                listed.append([])
    axes = []
    for axis, values in zip(names, listed, strict=True):
        known = {_key(one): one for one in values if len(one) == len(axis)}
        for run in runs:
            if (value := _value_of(run, axis)) is not None:
                known.setdefault(_key(value), value)
        axes.append(ShownAxis(axis, list(known.values())))
    return axes


def _places(axes: list[ShownAxis], runs: list[Run]) -> list[tuple[int, ...]]:
    known = [{_key(value): index for index, value in enumerate(axis.values)} for axis in axes]

    def place(run: Run, axis: ShownAxis, indexes: dict[str, int]) -> int:
        value = _value_of(run, axis.names)
        return -1 if value is None else indexes[_key(value)]

    return [
        tuple(place(run, axis, indexes) for axis, indexes in zip(axes, known, strict=True))
        for run in runs
    ]


def _is_product(
    described: BatchFile, axes: list[ShownAxis], runs: list[Run], places: list[tuple[int, ...]]
) -> bool:
    sizes = [axis.count for axis in described.axes]
    if not sizes or len(sizes) != len(axes) or math.prod(sizes) != described.count:
        return False
    if any(len(axis.values) != size for axis, size in zip(axes, sizes, strict=True)):
        return False
    return all(place == _digits(run.row, sizes) for run, place in zip(runs, places, strict=True))


def _digits(row: int, sizes: list[int]) -> tuple[int, ...]:
    digits = []
    for size in reversed(sizes):
        row, digit = divmod(row, size)
        digits.append(digit)
    return tuple(reversed(digits))
