"""Where the files are that a prompt loads: what may be taken, and from where."""

from __future__ import annotations

import contextlib
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from ...advice import Hint
from ...data_class import dataclass
from ...errors import InputFileMissing
from ...media.content_names import split_content_name
from ...media.files import sha256_of
from ...types import JsonValue
from ..prompt import Prompt, own_values
from ..schema import Schemas
from .names import file_below, may_look_up
from .uses import FileUse, file_use, file_uses

__all__ = [
    "FileSearch",
    "missing_file",
    "possible_uses",
    "refuse_files_elsewhere",
    "under_plain_name",
]

_LIKE_A_NAME = re.compile(r"[^\n]{1,255}\.\w{1,12}( ?\[input\])?")


@dataclass(frozen=True, slots=True)
class FileSearch:
    """Where the files that a workflow names are looked for.

    A workflow may come from anybody, so it gets only files of the folders it is run from, and no
    hidden ones, since the current folder may be somebody's home. The user names all others.

    Attributes:
        given: Files that the user has named: each is used for every name that ends with its file
            name, in whatever folder.
        roots: Folders whose files may be used, and those of their ``input`` folders; for names of
            another of ComfyUI's folders (``a.png [output]``), those of that one.
        on_target: Names that the target already has.
        may_name: Whether the user can name files.
    """

    given: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    on_target: frozenset[str] = frozenset()
    may_name: bool = True

    @classmethod
    def beside(cls, base: Path | None, given: Iterable[Path | str] | Path | str = ()) -> FileSearch:
        """Below the folder of a workflow, if it is in one, then below the current one.

        Raises:
            InputFileMissing: One of the given files is not there.
        """
        paths = tuple(map(Path, [given] if isinstance(given, str | Path) else given))
        for path in paths:
            if not _is_file(path):
                raise InputFileMissing(f"There is no file {path}.", advice="Check the path.")
        roots = [] if base is None else [base]
        with contextlib.suppress(OSError):  # the current folder has been removed
            roots.append(Path.cwd())
        return cls(paths, tuple(dict.fromkeys(roots)))

    def find(self, name: str, folder: str = "input") -> Path | None:
        """The file that a prompt calls ``name``; ``None`` if there is none that may be taken.

        Args:
            folder: Of ComfyUI's folders, the one that the name is in: see `FileUse`.
        """
        if folder == "asset":  # known to a ComfyUI alone
            return None

        def find(name: str) -> Path | None:
            return self._find(name, folder)

        return find(name) or under_plain_name(name, find)

    def named(self, name: str) -> Path | None:
        """The one of `given` that a name means; ``None`` if there is none.

        Of several with its file name, the one that is in folders of the same names.
        """
        *folders, file_name = name.replace("\\", "/").split("/")
        # A prompt from a saved picture has names by content; the user's file may have any content.
        plain = split_content_name(file_name)
        for wanted in (file_name, *(plain[:1] if plain else ())):
            found = [path for path in self.given if path.name == wanted and _is_file(path)]
            if found:
                return max(found, key=lambda path: _same_at_end(path.parts[:-1], folders))
        return None

    def _find(self, name: str, folder: str) -> Path | None:
        if (path := self.named(name)) is not None:
            return path
        if not may_look_up(name):
            return None
        for root, place in self._places(name, folder):
            below = file_below(root, place)
            if below is not None and not _hidden(below, root):
                return below
        return None

    def those_here(self, uses: Sequence[FileUse]) -> list[FileUse]:
        """The uses of files that `find` finds."""
        here = {name for name in {use.name for use in uses} if self.find(name) is not None}
        return [use for use in uses if use.name in here]

    def refusal(self, name: str) -> str | None:
        """Why a name is refused that `find` does not find; ``None`` if the file is only missing."""
        if not may_look_up(name):
            return "which is not below the folder of the workflow or the current one"
        for root, place in self._places(name):
            if not _is_file(root / place):
                continue
            if file_below(root, place) is not None:
                return "which is a hidden file or in a hidden folder"
            return f"which is a link that leads out of {root}"
        return None

    def folders(self) -> str:
        """The folders that are looked through, for people."""
        places = [place for root in self.roots for place in (root, root / "input")]
        return ", ".join(map(str, places)) or "nowhere"

    def advice(self, name: str) -> str:
        """What to do about a name that `find` does not find."""
        refused = self.refusal(name)
        if not self.may_name:
            return "Copy it there." if refused else "Put it there."
        return Hint.NAME_FILE() if refused else Hint.PUT_OR_NAME_FILE()

    def _places(self, name: str, folder: str = "input") -> Iterator[tuple[Path, str]]:
        # What is beside the workflow is no output because its name is that of one.
        folders = ("", "input/") if folder == "input" else (f"{folder}/",)
        # The second is for a workflow that was saved on Windows.
        for root in self.roots:
            for before in folders:
                for spelled in dict.fromkeys([name, name.replace("\\", "/")]):
                    yield root, f"{before}{spelled}"


def under_plain_name(name: str, find: Callable[[str], Path | None]) -> Path | None:
    """The file that a name by content was made for, if it still has that content.

    A picture saved by an engine holds the prompt with the engine's names of files:
    ``portrait_9f86d081884c.png`` was ``portrait.png``, which ``find`` finds.
    """
    plain = split_content_name(name)
    path = find(plain[0]) if plain is not None else None
    if plain is None or path is None:
        return None
    try:
        return path if sha256_of(path).startswith(plain[1]) else None
    except OSError:
        return None


def missing_file(use: FileUse, prompt: Prompt, search: FileSearch) -> InputFileMissing:
    """The error for a file that was not found, or that may not be used."""
    node = f"{prompt[use.node_id]['class_type']} (node {use.node_id})"
    why = search.refusal(use.name) or "which is not here"
    return InputFileMissing(
        f"{node} loads {reprlib.repr(use.name)}, {why}. Looked in: {search.folders()}.",
        advice=search.advice(use.name),
        details={"node_id": use.node_id, "input": use.input, "name": use.name},
    )


def possible_uses(prompt: Prompt, uses: Iterable[FileUse]) -> list[FileUse]:
    """What looks like a file's name in an input other than those of ``uses``.

    Only schemas can tell whether such an input loads files, and most prompts have none.
    """
    known = {(use.node_id, use.input) for use in uses}
    return [
        file_use(node_id, key, text)
        for node_id, node in prompt.items()
        for key, value in node["inputs"].items()
        if isinstance(value, str | list | dict) and (node_id, key) not in known
        for text in _possible_names(value)
    ]


def refuse_files_elsewhere(
    prompt: Prompt, search: FileSearch, schemas: Schemas | None = None
) -> None:
    """Raise `InputFileMissing` if the prompt loads a file that may not be used."""
    for use in file_uses(prompt, schemas):
        if not use.on_target and search.find(use.name) is None and search.refusal(use.name):
            raise missing_file(use, prompt, search)


def _possible_names(value: JsonValue) -> Iterator[str]:
    """Texts that look like a file's name, perhaps with a folder or an annotation."""
    for one in own_values(value):
        if isinstance(one, str) and _LIKE_A_NAME.fullmatch(one):
            yield one


def _same_at_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many folders are called the same, from the last one on."""
    same = takewhile(
        lambda two: two[0] == two[1], zip(reversed(one), reversed(other), strict=False)
    )
    return sum(1 for _ in same)


def _hidden(path: Path, root: Path) -> bool:
    below = path.relative_to(os.path.realpath(root))
    return any(part.startswith(".") for part in below.parts)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long: the value is the picture itself
        return False
