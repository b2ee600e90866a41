"""Files of values that people write: texts, a line each; tables (CSV); JSON, a value a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError, InputFileMissing
from ..text_file import SAVE_AS_UTF8, NotText, lines_of
from ..types import JsonValue
from ..units import counted, size_text
from ..workflow.json_document import refuse_constant

__all__ = ["cells_of", "is_json_lines", "is_table", "json_values", "texts_of", "unquoted"]

_LARGEST = 512 * 1024 * 1024
_LONGEST_LINE = 1024 * 1024
_MOST_COLUMNS = 1000
_SEPARATORS = (",", ";", "\t")
_QUOTES = "\"'"
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def is_table(path: Path) -> bool:
    """Whether it is a CSV file, by its name."""
    return path.suffix.casefold() in (".csv", ".tsv")


def is_json_lines(path: Path) -> bool:
    """Whether it has a JSON value in each line, by its name."""
    return path.suffix.casefold() in (".jsonl", ".ndjson")


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file, each with the number of its line.

    Lines that are empty or begin with ``#`` are left out. A text in quotes may begin with ``#`` or
    with a space.

    Raises:
        ConfigurationError: It is too large, or not text.
        InputFileMissing: It is not there.
    """
    for number, line in _lines(path):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, unquoted(text)


def unquoted(text: str) -> str:
    """A text without the quotes around it, if it is in quotes as a whole; ``""`` in it is ``"``."""
    quote = text[0] if text and text[0] in _QUOTES else ""
    inside = text[1:-1]
    if not quote or len(text) < 2 or text[-1] != quote:
        return text
    return inside.replace(quote * 2, quote) if quote not in inside.replace(quote * 2, "") else text


def cells_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, each with the number of its (last) line; the first is its header.

    Cells are separated by commas, semicolons or tabs, whichever the header has most of. Empty
    rows are left out.

    Raises:
        ConfigurationError: It is too large, not text, or a row has other columns than the header.
        InputFileMissing: It is not there.
    """
    lines = _lines(path)
    first = next((line for _, line in lines if line.strip()), "")
    separator = max(_SEPARATORS, key=first.count)
    header: list[str] | None = None
    reader = csv.reader((line for _, line in _lines(path)), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigurationError(
                f"{path}, line {reader.line_num}: {error}.",
                advice='Put a cell with quotes in quotes, and double those inside: "a ""b"" c".',
            ) from None
        if cells is None:
            return
        if not any(map(str.strip, cells)):
            continue
        if header is None:
            header = cells = _header(path, cells)
        elif len(cells) != len(header):
            raise ConfigurationError(
                f"{path}, line {reader.line_num}: {counted(len(cells), 'cell')}, and the header "
                f"has {len(header)}.",
                advice=f"Put a cell with {separator!r} in it in double quotes.",
            )
        yield reader.line_num, cells


def json_values(path: Path) -> Iterator[tuple[int, JsonValue]]:
    """The JSON values of a file, one a line, each with the number of its line.

    Raises:
        ConfigurationError: It is too large, or a line is not JSON.
        InputFileMissing: It is not there.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value: JsonValue = _DECODER.decode(line.strip())
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{path}, line {number}: it is not JSON: {error}.",
                advice='Write one object a line: {"seed": 7, "prompt": "a cat"}.',
            ) from None
        yield number, value


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if len(names) > _MOST_COLUMNS or "" in names or twice is not None:
        wrong = (
            (f"{twice!r} is there twice" if twice else f"it has {len(names)} columns")
            if "" not in names
            else f"column {names.index('') + 1} has no name"
        )
        raise ConfigurationError(
            f"{path}: the header (its first line) names what varies, and {wrong}.",
            advice="For example: KSampler.seed,prompt",
        )
    return names


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder, and not a file of values.")
        if size > _LARGEST:
            raise ConfigurationError(
                f"{path} has {size_text(size)}, and files of values may have "
                f"{size_text(_LARGEST)}.",
                advice="Split it, and run a batch for each.",
            )
        for number, line in enumerate(lines_of(path, _LONGEST_LINE), 1):
            if len(line) >= _LONGEST_LINE:
                raise ConfigurationError(
                    f"{path}, line {number}: it has more than {_LONGEST_LINE:,} characters.",
                    advice="Write one text or row a line.",
                )
            yield number, line
    except NotText as error:
        raise ConfigurationError(f"{path}: {error}.", advice=SAVE_AS_UTF8) from None
    except FileNotFoundError:
        raise InputFileMissing(f"There is no file {path}.", advice="Check the path.") from None
    except OSError as error:
        raise ConfigurationError(f"{path} could not be read: {error.strerror or error}.") from error
