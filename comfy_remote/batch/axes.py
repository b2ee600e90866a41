"""What varies, as it is typed: ``KSampler.seed=1..8``, ``prompt=@prompts.txt``, ``@runs.csv``.

```
1..8  8..1  0.1..0.9/0.2     a range of numbers, its ends included, with its step
random*8                     seeds, drawn once
5,7,9  red,"a, b"            a list; of ranges, too: 1..4,8
portraits/*.png              files, for an input that loads one
@prompts.txt                 a value a line; # begins a comment
@runs.csv  @runs.jsonl       the column of that name; without a name before it, all columns
```
"""

from __future__ import annotations

import glob
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigurationError, InputFileMissing, WorkflowInvalid
from ..media.files import OWN_DATA, storage_errors
from ..types import JsonValue
from ..workflow.change.values import did_you_mean
from ..workflow.files import FileSearch
from ..workflow.files.uses import ANNOTATION
from .frozen_rows import FrozenRows
from .names import Kind, Names, VariedInput, spot
from .rows_file import cells_of, is_json_lines, is_table, json_values, texts_of
from .values import Drawn, Stepped, Stored, Values, values_from_json

__all__ = ["Axis", "AxisReader", "GivenValue", "Part"]

_NUMBER = r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:/({_NUMBER}))?")
_LIKE_A_RANGE = re.compile(rf"{_NUMBER}\s*[-:]\s*{_NUMBER}(?:\s*:\s*{_NUMBER})?")
_RANDOM = re.compile(r"random(?:\*(\d{1,10}))?", re.IGNORECASE)
_MOST_STORED = 5_000_000
"""Values of one axis that are written down; ranges and seeds are computed and have no limit."""
_ROOM = "Free some space."
_GLOB = re.compile(r"[*?\[]")
_DIGITS = re.compile(r"(\d+)")
_QUOTES = "\"'"

GivenValue: TypeAlias = "JsonValue | os.PathLike[str]"
"""A value that a program gives."""
_Cell: TypeAlias = "Callable[[VariedInput, GivenValue, str], JsonValue]"


@dataclass(frozen=True, slots=True)
class Part:
    """Inputs whose values come together, and these values."""

    inputs: tuple[VariedInput, ...]
    values: Values

    def to_json(self) -> dict[str, JsonValue]:
        """For `from_json`."""
        return {
            "inputs": [
                {"name": one.name, "places": [list(p) for p in one.places], "file": one.file}
                for one in self.inputs
            ],
            "values": self.values.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue], rows: FrozenRows) -> Part:
        """The inverse of `to_json`; raises `KeyError`, `TypeError` or `ValueError`."""
        inputs = []
        for one in _list(value["inputs"]):
            found = dict(one) if isinstance(one, dict) else {}
            places = [_list(place) for place in _list(found["places"])]
            inputs.append(
                VariedInput(
                    str(found["name"]),
                    tuple((str(node_id), str(key)) for node_id, key in places),
                    found["file"] is True,
                )
            )
        return cls(tuple(inputs), values_from_json(value["values"], rows))


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that varies, or several together (a zip, a file with several columns)."""

    parts: tuple[Part, ...]

    @property
    def inputs(self) -> tuple[VariedInput, ...]:
        """What it sets, in the order typed."""
        return tuple(one for part in self.parts for one in part.inputs)

    @property
    def names(self) -> tuple[str, ...]:
        """As typed: ``KSampler.seed``, ``prompt``."""
        return tuple(one.name for one in self.inputs)

    @property
    def count(self) -> int:
        """How many values it has."""
        return self.parts[0].values.count

    def at(self, index: int) -> dict[str, JsonValue]:
        """Its values by name, those that a row of a file does not give left out.

        A file is given as it was typed or found: ``portraits/anna.png``.
        """
        return {
            one.name: cell[0] if one.file and isinstance(cell, list) else cell
            for one, cell in self._cells(index)
        }

    def files(self, index: int) -> dict[str, Path]:
        """The files of this machine among them, by name."""
        return {
            one.name: Path(str(cell[1]))
            for one, cell in self._cells(index)
            if one.file and isinstance(cell, list)
        }

    def _cells(self, index: int) -> Iterator[tuple[VariedInput, JsonValue]]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        for part in self.parts:
            # A row may be shorter: later ones of a JSON file can name more inputs.
            for one, cell in zip(part.inputs, part.values.at(index), strict=False):
                if cell is not None:
                    yield one, cell


class AxisReader:
    """Reads what varies. Values that are neither computed nor few end up in ``rows``.

    Args:
        names: Those of the prompt.
        draws: For random seeds.
        folder: What relative paths start from: the current folder.
        given: Further files that may be named.
        beside: The workflow's folder, if it is in one.
    """

    def __init__(
        self,
        names: Names,
        draws: random.Random,
        folder: Path,
        given: Sequence[Path] = (),
        beside: Path | None = None,
    ) -> None:
        self.rows = FrozenRows()
        self._names = names
        self._draws = draws
        self._folder = folder
        self._given = tuple(given)
        self._beside = () if beside is None else (beside,)

    def axis(self, text: str) -> Axis:
        """The axis for ``NAME=VALUES`` or ``@FILE``.

        Raises:
            ConfigurationError: It cannot be read; names the text.
            InputFileMissing: A file is not there, or may not be taken.
            WorkflowInvalid: The workflow has no such input, or a value is not of its type.
        """
        where = f"vary {_short(text)}"
        if text.startswith("@"):
            return self._file(self._path(text[1:], where))
        name, equals, values = text.partition("=")
        name, values = name.strip(), values.strip()
        if not equals or not name:
            raise ConfigurationError(
                f"{where}: it is not of the form NAME=VALUES.",
                advice="For example: KSampler.seed=1..8, or prompt=@prompts.txt, or @runs.csv.",
            )
        varied = self._names.find(name, where)
        if values.startswith("@"):
            return Axis((self._column(varied, self._path(values[1:], where), where),))
        items = list(_items(values, self._names.kind(varied), where))
        if len(items) == 1 and not items[0][1]:
            computed = self._computed(varied, items[0][0], where)
            if computed is not None:
                return Axis((Part((varied,), computed),))
        cells = (self._cells(varied, item, quoted, where) for item, quoted in items)
        return Axis((self._stored((varied,), chain.from_iterable(cells), where),))

    def listed(self, name: str, values: Iterable[GivenValue]) -> Axis:
        """The axis for values that a program gives; raises what `axis` raises."""
        where = f"vary {name}"
        varied = self._names.find(name, where)
        if isinstance(values, range) and values and self._names.kind(varied) == "number":
            for number in (values[0], values[-1]):
                self._given_cell(varied, number, where)
            return Axis((Part((varied,), Stepped(values.start, values.step, len(values))),))
        cells = (self._given_cell(varied, value, where) for value in values)
        return Axis((self._stored((varied,), ([cell] for cell in cells), where),))

    def table(self, rows: Path | Iterable[Mapping[str, GivenValue]]) -> Axis:
        """The axis for rows that name their inputs: a file, or what a program gives."""
        if isinstance(rows, Path):
            return self._file(self._path(str(rows), "rows"))
        numbered = ((f"rows, number {n}", row) for n, row in enumerate(rows, 1))
        return self._objects(numbered, "rows", self._given_cell)

    def _file(self, path: Path) -> Axis:
        if is_json_lines(path):
            search = self._search(path)
            numbered = ((f"{path}, line {n}", value) for n, value in json_values(path))
            return self._objects(
                numbered,
                str(path),
                lambda varied, value, where: self._found_cell(varied, value, where, search),
            )
        if not is_table(path):
            raise ConfigurationError(
                f"{path} is neither .csv nor .jsonl, so it does not say what its values are for.",
                advice=f"For a text a line: prompt=@{path.name}.",
            )
        rows = cells_of(path)
        _, header = next(rows, (0, []))
        inputs = tuple(self._names.find(name, f"{path}, line 1") for name in header)
        search = self._search(path)
        as_it_is = [self._names.kind(one) == "text" for one in inputs]

        def cells() -> Iterator[list[JsonValue]]:
            for number, texts in rows:
                where = f"{path}, line {number}"
                yield [
                    self._cell(one, text if spaces else text.strip(), where, search)
                    if text.strip()
                    else None
                    for one, spaces, text in zip(inputs, as_it_is, texts, strict=True)
                ]

        return Axis((self._stored(inputs, cells(), str(path)),))

    def _column(self, varied: VariedInput, path: Path, where: str) -> Part:
        """The values of one input in a file."""
        search = self._search(path)

        if is_json_lines(path):
            cells = (
                self._found_cell(varied, _member(value, varied.name, at), at, search)
                for at, value in ((f"{path}, line {n}", one) for n, one in json_values(path))
            )
        else:
            texts = _texts_in_column(path, varied.name) if is_table(path) else texts_of(path)
            cells = (
                self._cell(varied, text, f"{path}, line {number}", search) for number, text in texts
            )
        return self._stored((varied,), ([cell] for cell in cells), where)

    def _objects(
        self,
        rows: Iterable[tuple[str, JsonValue | Mapping[str, GivenValue]]],
        what: str,
        cell: _Cell,
    ) -> Axis:
        inputs: dict[str, VariedInput] = {}

        def cells() -> Iterator[list[JsonValue]]:
            for where, row in rows:
                if not isinstance(row, Mapping):
                    raise ConfigurationError(
                        f"{where}: it is not an object.",
                        advice='Write one a line: {"seed": 7, "prompt": "a cat"}.',
                    )
                for name in row:
                    if name not in inputs:
                        inputs[name] = self._names.find(name, where)
                yield [
                    None if row.get(name) is None else cell(one, row[name], where)
                    for name, one in inputs.items()
                ]

        stored = self._stored((), cells(), what)
        if not inputs:
            raise ConfigurationError(
                f"{what}: no row names anything.",
                advice='Write what it sets: {"seed": 7, "prompt": "a cat"}.',
            )
        return Axis((Part(tuple(inputs.values()), stored.values),))

    def _stored(
        self, inputs: tuple[VariedInput, ...], cells: Iterable[Sequence[JsonValue]], where: str
    ) -> Part:
        first = len(self.rows)
        with storage_errors(Path(tempfile.gettempdir()), full=_ROOM, denied=OWN_DATA):
            for number, row in enumerate(cells):
                if number >= _MOST_STORED:
                    raise ConfigurationError(
                        f"{where}: it has more than {_MOST_STORED:,} values.",
                        advice="Split it, and run a batch for each part.",
                    )
                self.rows.add(row)
        count = len(self.rows) - first
        if not count:
            raise ConfigurationError(
                f"{where}: there are no values in it.",
                advice="Write one a line; a table has a line of names above them.",
            )
        return Part(inputs, Stored(self.rows, first, count))

    def _computed(self, varied: VariedInput, text: str, where: str) -> Values | None:
        """A range or random seeds; ``None`` if it is neither."""
        kind = self._names.kind(varied)
        if kind not in ("number", "other"):
            return None
        if drawn := _RANDOM.fullmatch(text):
            return self._drawn(varied, int(drawn[1] or 1), where)
        if found := _RANGE.fullmatch(text):
            try:
                stepped = _stepped(found[1], found[2], found[3], where)
                for number in {0, min(1, stepped.count - 1), stepped.count - 1}:
                    self._names.accepted(varied, stepped.at(number)[0])
            except WorkflowInvalid as error:
                raise spot(where, error) from None
            return stepped
        if kind == "number" and (".." in text or _LIKE_A_RANGE.fullmatch(text)):
            raise ConfigurationError(
                f"{where}: {_short(text)} is not a range.",
                advice="Ranges are 1..8, 8..1, or with a step 0.1..0.9/0.2.",
            )
        return None

    def _drawn(self, varied: VariedInput, count: int, where: str) -> Drawn:
        if not self._names.is_seed(varied):
            raise ConfigurationError(
                f"{where}: random draws seeds, and {varied.name} is not one.",
                advice="Give a range (1..8) or a list (5,7,9).",
            )
        modulus = self._names.largest_random(varied.places) + 1
        if not 1 <= count <= modulus:
            raise ConfigurationError(f"{where}: random*{count} is not from 1 to {modulus}.")
        return Drawn.by(self._draws, count, modulus)

    def _cells(
        self, varied: VariedInput, item: str, quoted: bool, where: str
    ) -> Iterator[list[JsonValue]]:
        """The rows for one item of a list."""
        if not quoted and (computed := self._computed(varied, item, where)) is not None:
            if computed.count > _MOST_STORED:
                raise ConfigurationError(
                    f"{where}: {item} has more than {_MOST_STORED:,} values.",
                    advice="Only a range without others beside it may have more.",
                )
            yield from map(computed.at, range(computed.count))
        elif varied.file:
            yield from ([cell] for cell in self._own_files(item, quoted, where))
        else:
            yield [self._typed(varied, item, where)]

    def _typed(self, varied: VariedInput, text: str, where: str) -> JsonValue:
        try:
            return self._names.typed(varied, text)
        except WorkflowInvalid as error:
            raise spot(where, error) from None

    def _accepted(self, varied: VariedInput, value: GivenValue, where: str) -> JsonValue:
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            return self._names.accepted(varied, plain)
        except WorkflowInvalid as error:
            raise spot(where, error) from None

    def _given_cell(self, varied: VariedInput, value: GivenValue, where: str) -> JsonValue:
        """A value of a program's; its files may be anywhere."""
        accepted = self._accepted(varied, value, where)
        if not varied.file:
            return accepted
        return next(self._own_files(str(accepted), True, where))

    def _found_cell(
        self, varied: VariedInput, value: GivenValue, where: str, search: FileSearch
    ) -> JsonValue:
        """A value of a file's: what it names is taken from below its folder only."""
        accepted = self._accepted(varied, value, where)
        return self._cell(varied, str(accepted), where, search) if varied.file else accepted

    def _cell(self, varied: VariedInput, text: str, where: str, search: FileSearch) -> JsonValue:
        if not varied.file:
            return self._typed(varied, text, where)
        if ANNOTATION.match(text):
            return text
        path = search.find(text)
        if path is not None:
            return [text.replace("\\", "/"), str(path)]
        if refusal := search.refusal(text):
            raise InputFileMissing(
                f"{where}: it names {_short(text)}, {refusal}.",
                advice=search.advice(text),
                details={"name": text},
            )
        return text

    def _own_files(self, text: str, quoted: bool, where: str) -> Iterator[JsonValue]:
        """The files that the user names, by a path or a pattern."""
        path = self._path(text, where)
        if os.path.isfile(path):  # noqa: PTH113  # unlike `Path`, it takes any text
            yield [_shown(text), str(path)]
            return
        if os.path.isdir(path):  # noqa: PTH112
            raise ConfigurationError(
                f"{where}: {path} is a folder.",
                advice=f"Name the files in it: {_shown(text).rstrip('/')}/*.png",
            )
        if quoted or ANNOTATION.match(text) or not _GLOB.search(text):
            yield self._as_in_a_workflow(text)
            return
        expanded = _expanded(text)
        # Unlike that of `Path`, this one leaves hidden files out.
        names = glob.iglob(expanded, root_dir=self._folder, recursive=True)  # noqa: PTH207
        found = [name for name in names if (self._folder / name).is_file()]
        if not found:
            raise InputFileMissing(
                f"{where}: no file matches {text!r} in {self._folder}.",
                advice="Check the folder and the ending.",
            )
        for name in sorted(found, key=_natural):
            yield [_shown(name), str((self._folder / name).absolute())]

    def _as_in_a_workflow(self, text: str) -> JsonValue:
        """A name as a workflow has it: of a file beside that, of one given, or of the target's."""
        found = None
        if not ANNOTATION.match(text):
            found = FileSearch(self._given, (*self._beside, self._folder)).find(text)
        return text if found is None else [_shown(text), str(found)]

    def _path(self, text: str, where: str) -> Path:
        if "\0" in text:
            raise ConfigurationError(f"{where}: the name of a file has no zero character in it.")
        return (self._folder / _expanded(text)).absolute()

    def _search(self, path: Path) -> FileSearch:
        """Where the files are that a file names: as for a workflow, and below its own folder."""
        roots = (path.parent, *self._beside, self._folder)
        return FileSearch(self._given, tuple(dict.fromkeys(roots)))


def _texts_in_column(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """One column of a table: that of the name, or the only one."""
    rows = cells_of(path)
    _, header = next(rows, (0, []))
    if name not in header and len(header) != 1:
        raise ConfigurationError(
            f"{path} has no column {name!r}.{did_you_mean(name, header)}",
            advice=f"It has {', '.join(header)}. To vary all of them: @{path.name}",
        )
    column = header.index(name) if name in header else 0
    for number, cells in rows:
        yield number, cells[column]


def _member(value: JsonValue, name: str, where: str) -> JsonValue:
    """A value, or that of its name in an object."""
    if not isinstance(value, dict):
        return value
    if name not in value:
        raise ConfigurationError(f"{where}: it has no {name!r}.{did_you_mean(name, value)}")
    return value[name]


def _items(text: str, kind: Kind, where: str) -> Iterator[tuple[str, bool]]:
    """The items between commas, and whether each was in quotes."""
    at = 0
    while True:
        while text[at : at + 1].isspace():
            at += 1
        quote = text[at : at + 1]
        if quote and quote in _QUOTES:
            item, at = _quoted(text, at, where)
            quoted = True
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            item, at, quoted = text[at:end].strip(), end, False
            if kind == "text" and text[end + 1 : end + 2].isspace():
                raise ConfigurationError(
                    f"{where}: it is split at each comma, and after {_short(item)} there is a "
                    "space, as inside a text.",
                    advice="Put each text in double quotes, within those of the shell: "
                    '\'prompt="a cat, sleeping","a dog"\', or in a file, a text a line: '
                    "prompt=@prompts.txt.",
                )
            if not item:
                raise ConfigurationError(
                    f"{where}: there is no value "
                    + ("after =." if not text else "between two commas, or at an end."),
                    advice='An empty text is "".',
                )
        yield item, quoted
        if at >= len(text):
            return
        at += 1  # the comma


def _quoted(text: str, start: int, where: str) -> tuple[str, int]:
    """The text in quotes that begins there, and where what follows begins: a comma, or the end."""
    quote = text[start]
    found, at = "", start + 1
    while (end := text.find(quote, at)) >= 0:
        found += text[at:end]
        if text[end + 1 : end + 2] != quote:
            break
        found, at = found + quote, end + 2
    else:
        raise ConfigurationError(
            f"{where}: the quote before {_short(text[start + 1 :])} is not closed.",
            advice="A text that begins with a quote is put in the other kind, or in a file.",
        )
    rest = text[end + 1 :]
    after = rest.lstrip()
    if after and not after.startswith(","):
        raise ConfigurationError(
            f"{where}: after the quote that closes {_short(found)}, a comma is missing.",
            advice="Put the whole text in quotes, the other kind if there are quotes in it.",
        )
    return found, end + 1 + len(rest) - len(after)


def _stepped(first: str, last: str, step: str | None, where: str) -> Stepped:
    start, end = Decimal(first), Decimal(last)
    by = Decimal(step) if step is not None else Decimal(1)
    numbers = (start, end, by)
    exponents = [number.as_tuple().exponent for number in numbers]
    scale = max(0, *(-exponent for exponent in exponents if isinstance(exponent, int)))
    if step is None and any(number != number.to_integral_value() for number in (start, end)):
        raise ConfigurationError(
            f"{where}: {first}..{last} needs a step.", advice=f"For example {first}..{last}/0.1."
        )
    if by <= 0:
        raise ConfigurationError(
            f"{where}: the step {step} is not above 0.",
            advice=f"The ends say the direction: {last}..{first} runs the other way.",
        )
    # Whole numbers from here on: no sum of decimals drifts.
    low, high, width = (int(Fraction(number) * 10**scale) for number in numbers)
    count = abs(high - low) // width + 1
    return Stepped(low, width if high >= low else -width, count, scale)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """For sorting: ``2.png`` is before ``10.png``."""
    parts = _DIGITS.split(name.casefold())  # every second one is a number
    return [(0, int(part)) if at % 2 else (1, part) for at, part in enumerate(parts)]


def _expanded(text: str) -> str:
    """With the user's own folder for ``~``; that of a user who does not exist is taken as typed."""
    return os.path.expanduser(text)  # noqa: PTH111


def _shown(text: str) -> str:
    return text.replace(os.sep, "/")


def _short(text: str, longest: int = 60) -> str:
    return repr(text if len(text) <= longest else f"{text[:longest]}…")


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value
