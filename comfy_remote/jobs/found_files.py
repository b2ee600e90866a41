"""The files that are sent with a prompt, collected one by one as they are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..media.content_names import content_name
from ..media.files import safe_relative_path
from ..targets.base import InputFile
from ..workflow.files import FileUse, with_names
from ..workflow.prompt import Prompt

__all__ = ["FoundFiles"]


class FoundFiles:
    """Collects files, each once, and the names that the prompt gets for them.

    They are the user's names, as far as they can be: without the folders of an absolute path, and
    by content where two files come under one name. Its target decides what an
    engine calls them.

    Args:
        complete: Files that the prompt names already.
    """

    def __init__(self, complete: Sequence[InputFile] = ()) -> None:
        self._files = {file.name: file for file in complete}
        self._names: dict[FileUse, str] = {}
        self._complete = frozenset(self._files)

    @property
    def files(self) -> list[InputFile]:
        """All of them."""
        return list(self._files.values())

    def has(self, use: FileUse) -> bool:
        """Whether that file was there from the beginning."""
        return use.name in self._complete

    def add(self, use: FileUse, path: Path, size: int, sha256: str) -> None:
        """Add a file to those that are sent."""
        # An asset is named by its hash, which has no ending.
        name = _plain(path.name if use.folder == "asset" else use.name)
        known = self._files.get(name)
        if known is not None and known.sha256 != sha256:
            name = content_name(name, sha256)
            known = self._files.get(name)
        places = (*(known.places if known is not None else ()), (use.node_id, use.input))
        self._files[name] = InputFile(name, path, size, sha256, tuple(dict.fromkeys(places)))
        self._names[use] = name

    def leave(self, use: FileUse) -> None:
        """Use a file that the target has. Its name gets ``/``, which every system accepts."""
        if "\\" in use.name:
            self._names[use] = use.name.replace("\\", "/")

    def named_in(self, prompt: Prompt) -> Prompt:
        """The prompt with these names."""
        return with_names(prompt, self._names)


def _plain(name: str) -> str:
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
    return str(safe_relative_path(PureWindowsPath(name).name if absolute else name))
