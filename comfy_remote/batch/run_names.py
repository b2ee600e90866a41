"""Names of a run's folder and files: short, the same again, and allowed on every system."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath, PureWindowsPath

from ..errors import ConfigurationError
from ..media.files import safe_relative_path
from ..types import JsonValue
from ..workflow.change.values import did_you_mean

__all__ = ["check_pattern", "flat_name", "run_name"]

_LONGEST = 80
_MOST_BYTES = 180  # 255 is the most, and names of partial files are longer
_LONGEST_VALUE = 40
_SHORTEST_VALUE = 4
_DIGITS = 4
# What separates words in a name: all that a shell or a system could take for something else.
_BETWEEN_WORDS = re.compile(r"[^\w.+=-]+")
_FILE_NAME = re.compile(r"[^\n]{1,255}\.[A-Za-z]\w{1,11}")
_FIELD = re.compile(r"\{([^{}]*)\}")
_OWN_FIELDS = ("index", "name", "ext")


def run_name(row: int, values: Mapping[str, JsonValue]) -> str:
    """The name of a run's folder: ``0007_seed=7_cfg=5.5``.

    At most 80 characters, unique by the number of the row, and the same for the same row and
    values. Node names are left out where the inputs' names alone are clear. Of texts, there is
    the beginning; of files, the name without its folder and ending.
    """
    number = f"{row:0{_DIGITS}}"
    pairs = [(_words(name), _words(_text(values[full]))) for full, name in _short(values).items()]
    for longest in range(_LONGEST_VALUE, _SHORTEST_VALUE - 1, -1):
        parts = (f"_{name}={value[:longest].rstrip('.-_')}" for name, value in pairs)
        found = number + "".join(parts)
        if _fits(found):
            return _safe(found)
    while not _fits(found):
        found = found[:-1].rstrip("_")
    return _safe(found)


def check_pattern(pattern: str, names: Collection[str]) -> None:
    """Check a pattern for `flat_name`.

    Args:
        names: What varies.

    Raises:
        ConfigurationError: It has a field that does not exist, or not ``{index}``, so that runs
            would have the same names.
    """
    known = [*_OWN_FIELDS, *dict.fromkeys([*_short(dict.fromkeys(names)).values(), *names])]
    fields = _FIELD.findall(pattern)
    for field in fields:
        if field not in known:
            raise ConfigurationError(
                f"The pattern {pattern!r} has {{{field}}}, which does not vary."
                f"{did_you_mean(field, known)}",
                advice=f"It may have {', '.join(f'{{{one}}}' for one in known)}.",
            )
    if "index" not in fields:
        raise ConfigurationError(
            f"The pattern {pattern!r} has no {{index}}, so different runs may have the same name.",
            advice="For example: {index}_{name}{ext}",
        )


def flat_name(
    pattern: str,
    row: int,
    values: Mapping[str, JsonValue],
    output_name: str,
    number: int = 0,
) -> str:
    """The name of an output file by a pattern such as ``{index}_{seed}{ext}``.

    ``{index}`` is the number of the row, ``{name}`` the output's own name without its ending,
    ``{ext}`` its ending, with the dot; the others are names of what varies, or the last parts of
    these. A ``/`` makes folders. What a row leaves as it is, is empty.

    Args:
        number: Of the output in its run, from 0. Without ``{name}``, later ones get it.
    """
    own = PurePosixPath(output_name)
    short = _short(values)
    words = {
        **{name: _words(_text(values[full]))[:_LONGEST_VALUE] for full, name in short.items()},
        **{name: _words(_text(value))[:_LONGEST_VALUE] for name, value in values.items()},
        "index": f"{row:0{_DIGITS}}",
        "name": _words(own.stem),
        "ext": own.suffix,
    }
    found = _FIELD.sub(lambda field: words.get(field[1], ""), pattern)
    if not found.endswith(own.suffix):
        found += own.suffix
    if number and "{name}" not in pattern:
        found = f"{found.removesuffix(own.suffix)}_{number + 1}{own.suffix}"
    return str(safe_relative_path(found))


def _short(names: Mapping[str, object]) -> dict[str, str]:
    """Each name without its node, if no other one is called the same then."""
    last = {name: name.rpartition(".")[2] for name in names}
    found = list(last.values())
    return {name: short if found.count(short) == 1 else name for name, short in last.items()}


def _text(value: JsonValue) -> str:
    if isinstance(value, str):
        return PureWindowsPath(value).stem if _FILE_NAME.fullmatch(value) else value
    return json.dumps(value, ensure_ascii=False)


def _words(text: str) -> str:
    # NFC, as systems compare names; no control characters, and no marks of direction.
    plain = "".join(c for c in unicodedata.normalize("NFC", text[:500]) if c.isprintable())
    return _BETWEEN_WORDS.sub(" ", plain).strip(" .").replace(" ", "-")


def _fits(name: str) -> bool:
    return len(name) <= _LONGEST and len(name.encode()) <= _MOST_BYTES


def _safe(name: str) -> str:
    return safe_relative_path(name).name
