"""Where an engine on this machine has its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..workflow.files import file_below

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["EngineFolders", "folders_in"]


@dataclass(frozen=True, slots=True)
class EngineFolders:
    """The three folders of an engine on this machine."""

    input: Path
    output: Path
    temp: Path

    def file(self, folder: str, subfolder: str, filename: str) -> Path | None:
        """A file in one of them, if it is one, and really there."""
        root = {"input": self.input, "output": self.output, "temp": self.temp}.get(folder)
        name = f"{subfolder}/{filename}" if subfolder else filename
        if root is None or file_below(root, name) is None:
            return None
        path = root / name
        return None if path.is_symlink() else path


def folders_in(stats: Mapping[str, JsonValue]) -> EngineFolders | None:
    """The folders that an engine was started with, from the ``argv`` in its ``/system_stats``.

    Source of facts: ComfyUI's ``folder_paths.py`` and ``main.py`` (0.3.64 and 0.33.0).
    """
    system = stats.get("system")
    argv = system.get("argv") if isinstance(system, dict) else None
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    if not words:
        return None
    given = [part for word in words for part in word.split("=", 1)]

    def after(flag: str) -> Path | None:
        named = given[given.index(flag) + 1 :][:1] if flag in given else []
        return Path(named[0]) if named else None

    base = after("--base-directory") or Path(words[0]).parent
    if not base.is_absolute():
        return None
    temp = after("--temp-directory")
    found = EngineFolders(
        input=after("--input-directory") or base / "input",
        output=after("--output-directory") or base / "output",
        temp=temp / "temp" if temp else base / "temp",
    )
    absolute = all(path.is_absolute() for path in (found.input, found.output, found.temp))
    return found if absolute else None
