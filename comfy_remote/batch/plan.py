"""What a batch runs: the axes that vary, and its rows, computed by number from them.

`plan_of` reads what the user asked for. A `Plan` never looks at the user's files again: `Plan.save`
writes all that its rows need into a folder.
"""

from __future__ import annotations

import json
import random as random_numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import ConfigurationError, LocalStorageError, WorkflowInvalid
from ..media.files import OWN_DATA, storage_errors, write_whole
from ..types import JsonValue, as_list, mapping
from ..workflow.change.prepare import Changes
from ..workflow.change.settings import find_input
from ..workflow.change.values import did_you_mean
from ..workflow.prompt import Place, Prompt, with_inputs
from ..workflow.schema import Schemas
from .axes import Axis, AxisReader, GivenValue, Part
from .frozen_rows import FrozenRows
from .names import SEED, Names, VariedInput
from .order import Dearness
from .values import Drawn

__all__ = ["Axis", "Plan", "Rows", "Variation", "Vary", "plan_of"]

_PLAN, _ROWS = "plan.json", "rows.jsonl"
_VERSION = 1
_MOST_SAMPLED = 1_000_000

Vary: TypeAlias = "Sequence[str] | Mapping[str, str | Iterable[GivenValue]]"
"""``["KSampler.seed=1..8"]``, or ``{"KSampler.seed": range(1, 9), "prompt": ["a cat", "a dog"]}``.

A text is read as one that is typed; what a list gives is taken as it is. Files may be `Path`."""

Rows: TypeAlias = "Path | Iterable[Mapping[str, GivenValue]]"
"""A CSV or JSON-lines file, or dictionaries: ``[{"prompt": "a cat", "KSampler.seed": 7}]``."""


@dataclass(frozen=True, slots=True)
class Variation:
    """What varies: the rows of a batch are all combinations of it.

    Attributes:
        vary: What is varied, and the values of each: see `axes`.
        zipped: Names that vary together, first with first: ``"KSampler.seed,prompt"``.
        rows: Rows that name what they set; combined with ``vary``, if that is given, too.
        repeat: How many runs each combination gets, each with a fresh seed.
        sample: How many of the combinations to take, at random; all if there are fewer.
        sample_seed: For the same ones again; by default, it is drawn.
    """

    vary: Vary = ()
    zipped: Sequence[str] = ()
    rows: Rows | None = None
    repeat: int | None = None
    sample: int | None = None
    sample_seed: int | None = None


class Plan:
    """The rows of a batch, each computed when it is asked for. Never changes; thread-safe.

    Attributes:
        axes: What varies, the dearest to change first: it changes least often.
        count: The number of rows.
        combinations: The number of all combinations, before sampling and repeating.
        chosen: The numbers of the combinations that run.
        sample_seed: By which they were chosen; ``None`` if all are taken.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        rows: FrozenRows,
        *,
        repeats: Part | None = None,
        times: int = 1,
        sample: int | None = None,
        sample_seed: int | None = None,
    ) -> None:
        self.axes = tuple(axes)
        self.combinations = 1
        for axis in self.axes:
            self.combinations *= axis.count
        self._rows = rows
        self._repeats = repeats
        self._times = times
        if sample is not None and sample < self.combinations and sample_seed is not None:
            self.sample_seed: int | None = sample_seed
            self.chosen: Sequence[int] = _sampled(self.combinations, sample, sample_seed)
        else:
            self.sample_seed = None
            self.chosen = range(self.combinations)
        self.count = len_of(self.chosen) * times

    @property
    def inputs(self) -> tuple[VariedInput, ...]:
        """All that varies, with the inputs of the prompt that each name sets."""
        repeated = () if self._repeats is None else self._repeats.inputs
        return (*(one for axis in self.axes for one in axis.inputs), *repeated)

    @property
    def sets(self) -> dict[str, list[Place]]:
        """The inputs of the frozen prompt that each name sets: ``{"seed": [("3", "seed")]}``."""
        return {one.name: list(one.places) for one in self.inputs}

    @property
    def repeat(self) -> int:
        """How many runs each combination gets."""
        return self._times

    def row(self, index: int) -> dict[str, JsonValue]:
        """The values of a row by name, dearest first; those that it leaves as they are, left out.

        A file is given as it was typed or found (``portraits/anna.png``); see `files`.

        Args:
            index: From 0; `IndexError` beyond the last.
        """
        values: dict[str, JsonValue] = {}
        for axis, number in self._of_row(index):
            values.update(axis.at(number))
        if self._repeats is not None:
            values[SEED] = self._repeats.values.at(index)[0]
        return values

    def files(self, index: int) -> list[Path]:
        """The files of this machine that a row loads."""
        return [p for axis, number in self._of_row(index) for p in axis.files(number).values()]

    def all_files(self) -> Iterator[Path]:
        """The files of this machine that any row loads; some perhaps more than once."""
        with_files = [axis for axis in self.axes if any(one.file for one in axis.inputs)]
        if self.sample_seed is None:
            numbers = ((axis, number) for axis in with_files for number in range(axis.count))
        else:
            numbers = (
                (axis, number)
                for combination in (self.chosen if with_files else ())
                for axis, number in zip(self.axes, self.numbers(combination), strict=True)
                if axis in with_files
            )
        return (path for axis, number in numbers for path in axis.files(number).values())

    def changes(self, index: int, base: Changes | None = None) -> Changes:
        """The changes that make a row of the frozen prompt.

        Args:
            base: What does not vary. A row's own values count more.
        """
        base = base or Changes()
        words: dict[str, Any] = {}
        settings: dict[str, JsonValue] = {}
        row = self.row(index)
        for one in self.inputs:
            if one.name not in row:
                continue
            value = row[one.name]
            if one.word is not None:
                words[one.word] = value
            else:
                settings[one.setting] = _carried(value) if one.file else value
        if isinstance(base.settings, Mapping) or not base.settings:
            before = base.settings if isinstance(base.settings, Mapping) else {}
            merged: Sequence[str] | Mapping[str, JsonValue] = {**before, **settings}
        else:
            merged = (*base.settings, *(f"{n}={_as_typed(v)}" for n, v in settings.items()))
        return replace(base, **words, settings=merged)

    def prompt(self, index: int, prompt: Prompt) -> Prompt:
        """The frozen prompt with a row's values in it, unchecked: what `changes` makes of it."""
        row = self.row(index)
        values: dict[Place, JsonValue] = {}
        for one in sorted(self.inputs, key=lambda one: one.word is None):  # settings come last
            if one.name in row:
                value = _carried(row[one.name]) if one.file else row[one.name]
                values.update(dict.fromkeys(one.places, value))
        return with_inputs(prompt, values)

    def save(self, folder: Path) -> None:
        """Freeze it: write ``plan.json``, and ``rows.jsonl`` with the values that are not computed.

        Raises:
            LocalStorageError: It cannot be written.
        """
        if len(self._rows):
            self._rows.save(folder / _ROWS)
        document = {
            "version": _VERSION,
            "axes": [[part.to_json() for part in axis.parts] for axis in self.axes],
            "repeats": None if self._repeats is None else self._repeats.to_json(),
            "times": self._times,
            "sample": None if self.sample_seed is None else len(self.chosen),
            "sample_seed": self.sample_seed,
            "rows": {"count": len(self._rows), "size": self._rows.size},
        }
        path = folder / _PLAN
        with storage_errors(path, denied=OWN_DATA):
            write_whole(path, json.dumps(document, indent=1).encode(), durable=True)

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """The plan that was saved in a folder.

        Raises:
            LocalStorageError: It cannot be read, or is damaged.
        """
        path = folder / _PLAN
        try:
            document = _document(path)
            stored = {k: v for k, v in mapping(document["rows"]).items() if isinstance(v, int)}
            rows = FrozenRows()
            if stored["count"]:
                rows = FrozenRows.load(folder / _ROWS, stored["count"], stored["size"])
            axes = [
                Axis(tuple(Part.from_json(mapping(part), rows) for part in as_list(parts)))
                for parts in as_list(document["axes"])
            ]
            repeats = document["repeats"]
            return cls(
                axes,
                rows,
                repeats=None if repeats is None else Part.from_json(mapping(repeats), rows),
                times=_number(document["times"]) or 1,
                sample=_number(document["sample"]),
                sample_seed=_number(document["sample_seed"]),
            )
        except OSError as error:
            raise LocalStorageError(
                f"{path} could not be read: {error.strerror or error}.", advice=OWN_DATA
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LocalStorageError(
                f"{path} is damaged, or of another version of Comfy Remote: {error}.",
                advice="Start the batch again.",
            ) from error

    def close(self) -> None:
        """Close its file. No row can be asked for afterwards."""
        self._rows.close()

    def numbers(self, combination: int) -> list[int]:
        """Of each axis, the number of its value in a combination; the last changes fastest."""
        found: list[int] = []
        for axis in reversed(self.axes):
            combination, number = divmod(combination, axis.count)
            found.append(number)
        return found[::-1]

    def _of_row(self, index: int) -> Iterator[tuple[Axis, int]]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return zip(self.axes, self.numbers(self.chosen[index // self._times]), strict=True)


def plan_of(
    variation: Variation,
    prompt: Prompt,
    *,
    folder: Path,
    schemas: Schemas | None = None,
    base: Changes | None = None,
    given: Sequence[Path] = (),
    beside: Path | None = None,
    filled: Mapping[str, Sequence[Place]] = MappingProxyType({}),
    random: random_numbers.Random | None = None,
) -> Plan:
    """The plan for what a user asked for. Blocking: reads files.

    Args:
        prompt: API format, as it is frozen: the workflow converted, and what does not vary set.
        folder: What relative paths start from: the current folder.
        schemas: The target's, which give values their types; by default, the bundled snapshot.
        base: What does not vary.
        given: Files that a table may name though they are not in its folder or the current one.
        beside: The workflow's folder, whose files may be named as well.
        filled: The inputs that the workflow's file takes by variables (``${PROMPT}``), by what they
            are called here (``prompt``).
        random: For seeds and samples; by default, it is seeded by the system.

    Raises:
        ConfigurationError: Something typed cannot be read, or contradicts something else; names it.
        InputFileMissing: A file is not there, or may not be taken.
        WorkflowInvalid: The workflow has no such input, or a value is not of its type.
    """
    base = base or Changes()
    draws = random or random_numbers.Random()
    schemas = schemas or Schemas.bundled()
    names = Names(prompt, schemas, base, filled)
    reader = AxisReader(names, draws, folder, given, beside)
    axes = _axes(reader, variation)
    inputs = [one for axis in axes for one in axis.inputs]
    _refuse_same(inputs)
    _refuse_set_once(inputs, prompt, base, schemas)
    axes = _zipped(axes, variation.zipped)
    dear = Dearness(prompt)
    # Stable: equal ones stay in the order typed.
    axes.sort(key=lambda axis: min(dear(one.places) for one in axis.inputs))
    for name, number in (("repeat", variation.repeat), ("sample", variation.sample)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} {number}: it is at least 1.")
    sample, sample_seed = variation.sample, variation.sample_seed
    if sample is not None and sample > _MOST_SAMPLED:
        raise ConfigurationError(f"sample {sample}: it is at most {_MOST_SAMPLED:,}.")
    if sample is None and sample_seed is not None:
        raise ConfigurationError(
            "sample_seed says which combinations to take, and there is no sample.",
            advice="Say how many to take, too.",
        )
    if sample is not None and sample_seed is None:
        sample_seed = draws.getrandbits(31)
    repeats = None
    if variation.repeat is not None:
        repeats = _repeats(names, inputs, base, variation.repeat, draws)
    return Plan(
        axes,
        reader.rows,
        repeats=repeats,
        times=variation.repeat or 1,
        sample=sample,
        sample_seed=sample_seed,
    )


def len_of(numbers: Sequence[int]) -> int:
    """`len`, also for a range that is too long for it."""
    return numbers.stop if isinstance(numbers, range) else len(numbers)


def _document(path: Path) -> dict[str, JsonValue]:
    document = mapping(json.loads(path.read_bytes()))
    if document["version"] != _VERSION:
        raise ValueError(f"its version is {document['version']}")
    return document


def _axes(reader: AxisReader, variation: Variation) -> list[Axis]:
    axes: list[Axis] = []
    if isinstance(variation.vary, Mapping):
        for name, values in variation.vary.items():
            if isinstance(values, str):
                axes.append(reader.axis(f"{name}={values}"))
            else:
                axes.append(reader.listed(name, values))
    else:
        typed = [variation.vary] if isinstance(variation.vary, str) else variation.vary
        axes += map(reader.axis, typed)
    if variation.rows is not None:
        axes.append(reader.table(variation.rows))
    return axes


def _refuse_same(inputs: Sequence[VariedInput]) -> None:
    """One input that two of them set: one of them would do nothing."""
    for one, other in combinations(inputs, 2):
        if one.name == other.name:
            raise ConfigurationError(
                f"{one.name} varies twice.", advice="Give all of its values at once."
            )
        if set(one.places) <= set(other.places) or set(other.places) <= set(one.places):
            node_id, key = next(iter(set(one.places) & set(other.places)))
            raise ConfigurationError(
                f"{one.name} and {other.name} set the same input, {node_id}.{key}.",
                advice="Vary one of them.",
            )


def _refuse_set_once(
    inputs: Sequence[VariedInput], prompt: Prompt, base: Changes, schemas: Schemas
) -> None:
    """A setting counts more than a seed or text, so one that is set once would not vary."""
    for setting in base.settings:
        name = setting.partition("=")[0] if not isinstance(base.settings, Mapping) else setting
        try:
            place = find_input(prompt, name, schemas)
        except WorkflowInvalid:
            continue  # said when it is applied
        for one in inputs:
            if place in one.places:
                raise ConfigurationError(
                    f"{one.name} varies, and {name} is set to one value.",
                    advice="Give one of the two.",
                )


def _zipped(axes: Sequence[Axis], zipped: Sequence[str]) -> list[Axis]:
    """The axes, those that vary together made one, in the place of the first."""
    found = list(axes)
    for text in [zipped] if isinstance(zipped, str) else zipped:
        names = [name.strip() for name in text.split(",")]
        where = f"zip {text}"
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigurationError(
                f"{where}: it takes two or more names.", advice="For example: KSampler.seed,prompt"
            )
        together: list[Axis] = []
        for name in names:
            axis = next((axis for axis in found if name in axis.names), None)
            if axis is None:
                known = [one for axis in found for one in axis.names]
                raise ConfigurationError(
                    f"{where}: {name!r} does not vary.{did_you_mean(name, known)}",
                    advice=f"What varies is {', '.join(known) or 'nothing'}.",
                )
            if axis not in together:
                together.append(axis)
        counts = {axis.count for axis in together}
        if len(counts) > 1:
            lengths = ", ".join(f"{', '.join(axis.names)} has {axis.count}" for axis in together)
            raise ConfigurationError(
                f"{where}: they have different numbers of values: {lengths}.",
                advice="A text with a comma in it is two, unless it is in quotes.",
            )
        position = min(map(found.index, together))
        found = [axis for axis in found if axis not in together]
        found.insert(position, Axis(tuple(part for axis in together for part in axis.parts)))
    return found


def _repeats(
    names: Names,
    inputs: list[VariedInput],
    base: Changes,
    times: int,
    draws: random_numbers.Random,
) -> Part:
    left = names.seeds_left(inputs)
    if not left or base.seed is not None:
        varied = [one.name for one in inputs if names.is_seed(one)]
        why = (
            f"seed is set to {base.seed}"
            if base.seed is not None
            else f"{' and '.join(varied)} varies"
            if varied
            else "the workflow has no seed"
        )
        raise ConfigurationError(
            f"repeat {times}: all runs of a combination would be the same, as {why}.",
            advice="Omit it." if not varied and base.seed is None else "Omit one of the two.",
        )
    seed = VariedInput(SEED, tuple(left))
    modulus = names.largest_random(seed.places) + 1
    # Drawn by the number of the row, so that no two rows have the same seed.
    return Part((seed,), Drawn.by(draws, times, modulus))


def _sampled(total: int, count: int, seed: int) -> list[int]:
    """``count`` different numbers below ``total``, in order: Floyd's algorithm.

    Of Python's generator, only `getrandbits` is used, so every version draws the same.
    """
    source = random_numbers.Random(seed)
    found: set[int] = set()
    for last in range(total - count, total):
        number = _below(source, last + 1)
        found.add(last if number in found else number)
    return sorted(found)


def _below(source: random_numbers.Random, limit: int) -> int:
    while True:
        number = source.getrandbits(limit.bit_length())
        if number < limit:
            return number


def _carried(value: JsonValue) -> JsonValue:
    """What a prompt calls a file: no more of its folders than tell it from others."""
    text = str(value)
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or ".." in text:
        parts = [part for part in PureWindowsPath(text).parts if part != ".."]
        return "/".join(parts[1:][-2:] if len(parts) > 1 else parts)
    return text


def _as_typed(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None
