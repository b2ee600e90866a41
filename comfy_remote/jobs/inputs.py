"""The files that a prompt loads: found here once, and sent along with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Protocol

from ..errors import InputFileMissing, OutputCorrupt
from ..media.content_names import content_name
from ..media.files import safe_relative_path, sha256_of
from ..targets.base import InputFile, Target, input_errors
from ..workflow.files import FileSearch, FileUse, every_file_use, missing_file, with_names
from ..workflow.prompt import Prompt

if TYPE_CHECKING:
    from ..workflow.check.sizes import Pictures

__all__ = ["InputSource", "SearchedFolders", "collect_inputs", "loaded_pictures"]


class InputSource(Protocol):
    """Where the files of a prompt may be taken from on this machine. Its methods may block."""

    def find(self, use: FileUse) -> Path | None:
        """The file that is meant; ``None`` if it is not here, or may not be taken."""

    def described(self, path: Path) -> tuple[int, str]:
        """Size and SHA-256 of a file. Raises `InputFileMissing` if it cannot be read."""

    def must_be_found(self, use: FileUse) -> bool:
        """Whether a file that is not here must be known to be on the target."""

    def may_be_on_target(self, use: FileUse) -> bool:
        """Whether to ask the target for a file that is not here."""

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        """The error for what is neither here nor there."""


class SearchedFolders:
    """The files that a user named, and those beside the workflow: an `InputSource`."""

    def __init__(self, search: FileSearch) -> None:
        self._search = search

    def find(self, use: FileUse) -> Path | None:
        return self._search.find(use.name, use.folder)

    def described(self, path: Path) -> tuple[int, str]:
        with input_errors(path):
            return path.stat().st_size, sha256_of(path)

    def must_be_found(self, use: FileUse) -> bool:
        return use.folder == "input"  # others may be the target's own

    def may_be_on_target(self, use: FileUse) -> bool:
        return not self._search.refusal(use.name)

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        return missing_file(use, prompt, self._search)


async def collect_inputs(
    prompt: Prompt,
    uses: Iterable[FileUse],
    target: Target,
    source: InputSource,
    complete: Sequence[InputFile] = (),
) -> tuple[Prompt, list[InputFile]]:
    """The prompt with the names that its files get on the target, and those files that are here.

    Args:
        uses: What the prompt loads.
        complete: Files that the prompt names already.

    Raises:
        InputFileMissing: One is neither here nor on the target.
    """
    files = {file.name: file for file in complete}
    given = frozenset(files)
    names: dict[FileUse, str] = {}
    on_target: set[str] = set()
    for use in uses:
        if use.name in given:
            continue
        path = await asyncio.to_thread(source.find, use)
        if path is not None:
            size, sha256 = await asyncio.to_thread(source.described, path)
            file = _used(files, use, path, size, sha256)
            files[file.name], names[use] = file, file.name
        elif use.on_target or not source.must_be_found(use):
            continue
        elif use.name not in on_target:
            if not (source.may_be_on_target(use) and await target.has_input(use.name)):
                raise source.missing(use, prompt)
            on_target.add(use.name)
        if path is None and "\\" in use.name:  # every system accepts the other
            names[use] = use.name.replace("\\", "/")
    return with_names(prompt, names), list(files.values())


def _used(
    files: Mapping[str, InputFile], use: FileUse, path: Path, size: int, sha256: str
) -> InputFile:
    """The file that is sent for a use, by the user's name if possible.

    That is: without the folders of an absolute path, and by content if two files have one name.
    What an engine calls it is for its target to decide.
    """
    # An asset is named by its hash, which has no ending.
    name = _plain(path.name if use.folder == "asset" else use.name)
    known = files.get(name)
    if known is not None and known.sha256 != sha256:
        name = content_name(name, sha256)
        known = files.get(name)
    before, place = () if known is None else known.places, (use.node_id, use.input)
    # Uses come in the order of inputs.
    places = before if before[-1:] == (place,) else (*before, place)
    return InputFile(name, path, size, sha256, places)


def _plain(name: str) -> str:
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
    return str(safe_relative_path(PureWindowsPath(name).name if absolute else name))


def loaded_pictures(prompt: Prompt, find: Callable[[FileUse], Path | None]) -> dict[str, Pictures]:
    """What the nodes that load a picture give, by node. Reads the beginnings of the files."""
    from ..media.images import picture_size  # here: most jobs need neither
    from ..workflow.check.sizes import Pictures

    found: dict[str, Pictures] = {}
    for use in every_file_use(prompt):
        path = find(use) if prompt[use.node_id]["class_type"].startswith("LoadImage") else None
        if path is None:
            continue
        try:
            count, width, height = picture_size(path)
        except OutputCorrupt:  # whoever loads it says so
            continue
        found[use.node_id] = Pictures(count, width, height, sampled=True)
    return found
