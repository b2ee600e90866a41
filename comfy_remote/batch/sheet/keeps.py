"""``keeps.json``: which rows of a batch its user keeps, and which they reject."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...json_text import parse_json
from ...media.files import storage_errors, write_whole
from ...types import JsonValue

__all__ = ["KEEPS", "Keeps", "read_keeps", "write_keeps"]

KEEPS = "keeps.json"
_LARGEST = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Keeps:
    """Rows that were decided on; no row is in both."""

    keep: frozenset[int] = frozenset()
    reject: frozenset[int] = frozenset()

    def to_json(self) -> dict[str, JsonValue]:
        """``{"version": 1, "keep": [0, 7], "reject": [3]}``, in order."""
        return {"version": 1, "keep": [*sorted(self.keep)], "reject": [*sorted(self.reject)]}

    @classmethod
    def from_json(cls, value: JsonValue) -> Keeps:
        """The inverse.

        Raises:
            ValueError: It is nothing of the kind.
        """
        if not isinstance(value, dict) or value.get("version") != 1:
            raise ValueError("not the keeps of a sheet")
        keep, reject = (_rows(value.get(name, [])) for name in ("keep", "reject"))
        if keep & reject:
            raise ValueError("a row is both kept and rejected")
        return cls(keep, reject)


def _rows(value: JsonValue) -> frozenset[int]:
    if not isinstance(value, list):
        raise ValueError("rows are a list")  # noqa: TRY004 (what callers catch)
    rows = [one for one in value if isinstance(one, int) and not isinstance(one, bool) and one >= 0]
    if len(rows) != len(value):
        raise ValueError("a row is a number from 0")
    return frozenset(rows)


def read_keeps(folder: Path) -> Keeps:
    """What was chosen so far; nothing, where the file is missing or damaged."""
    try:
        with (folder / KEEPS).open("rb") as file:
            return Keeps.from_json(parse_json(file.read(_LARGEST)))
    except (FileNotFoundError, ValueError):
        return Keeps()


def write_keeps(folder: Path, keeps: Keeps) -> None:
    """Write them, in place of what was there.

    Raises:
        LocalStorageError: They cannot be written.
    """
    path = folder / KEEPS
    with storage_errors(path):
        write_whole(path, json.dumps(keeps.to_json()).encode() + b"\n", durable=True)
