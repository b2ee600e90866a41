"""The three folders of an engine, and how names in a prompt become paths below them."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ..workflow.files import ANNOTATION, names_another_machine

__all__ = ["Folders", "PathOutsideFolder", "SaveLocation"]


class PathOutsideFolder(ValueError):
    """A name in a prompt or a request points outside of the folder it belongs to."""


@dataclass(frozen=True, slots=True)
class SaveLocation:
    """Where a node saves a series of numbered files.

    Attributes:
        directory: Exists.
        name: The prefix's last part; files are named ``{name}_{counter:05}_.{ending}``.
        counter: The first free number.
        subfolder: Below the output folder, ``/`` between parts; may be empty.
    """

    directory: Path
    name: str
    counter: int
    subfolder: str


@dataclass(frozen=True, slots=True)
class Folders:
    """ComfyUI's ``input``, ``output`` and ``temp`` below one directory."""

    root: Path

    def create(self) -> None:
        """Make the folders that are missing."""
        for name in ("input", "output", "temp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def by_type(self, folder_type: str) -> Path | None:
        """The folder that ComfyUI calls by that type; ``None`` for any other word."""
        return self.root / folder_type if folder_type in ("input", "output", "temp") else None

    @staticmethod
    def inside(folder: Path, *parts: str) -> Path:
        """``folder`` joined with ``parts``, which came from outside.

        Raises:
            PathOutsideFolder: The result would be elsewhere, or no valid name.
        """
        if any(map(names_another_machine, parts)):
            raise PathOutsideFolder(f"Invalid file path: {parts!r}")
        base = os.path.realpath(folder)
        try:
            path = os.path.realpath(os.path.join(base, *parts))  # noqa: PTH118
            within = os.path.commonpath((base, path)) == base
        except ValueError as error:  # a NUL in the name, or another drive on Windows
            raise PathOutsideFolder(f"Invalid file path: {parts!r}") from error
        if not within:
            raise PathOutsideFolder(f"Invalid file path: {parts!r}")
        return Path(path)

    @staticmethod
    def split_annotation(name: str, default: str) -> tuple[str, str]:
        """``name [output]`` as the name and the folder's type; ``default`` without brackets."""
        match = ANNOTATION.match(name)
        return (name, default) if match is None else (match["name"], match["folder"])

    def input_path(self, name: str) -> Path:
        """The file that a Load node names: ``name``, or ``name [output]``.

        Raises:
            PathOutsideFolder: The name points outside of its folder.
        """
        name, folder_type = self.split_annotation(name, "input")
        return self.inside(self.root / folder_type, name)

    def save_location(self, folder: Path, prefix: str, width: int, height: int) -> SaveLocation:
        """Where files with ``filename_prefix`` go; makes the folder.

        ``%width%``, ``%height%`` and parts of the time (``%year%``, ``%month%``, …) are filled
        in. (ComfyUI's page, not its server, fills in ``%date:…%`` and ``%node.widget%``.)

        Raises:
            PathOutsideFolder: The prefix points outside of ``folder``.
        """
        prefix = os.path.normpath(_fill_in(prefix, width, height))
        subfolder, name = os.path.split(prefix)
        directory = self.inside(folder, subfolder)
        if not name or name in (os.curdir, os.pardir):
            raise PathOutsideFolder(f"Invalid filename prefix: {prefix!r}")
        directory.mkdir(parents=True, exist_ok=True)
        pattern = re.compile(rf"{re.escape(os.path.normcase(name))}_(\d+)(?:[_.].*)?$", re.DOTALL)
        taken = (pattern.match(os.path.normcase(entry.name)) for entry in directory.iterdir())
        counter = max((int(match[1]) for match in taken if match), default=0) + 1
        return SaveLocation(directory, name, counter, subfolder.replace(os.sep, "/"))


def _fill_in(prefix: str, width: int, height: int) -> str:
    prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
    names = ("year", "month", "day", "hour", "minute", "second")
    for name, value in zip(names, time.strftime("%Y %m %d %H %M %S").split(), strict=True):
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
