"""The node packs in an engine's ``custom_nodes``: version, commit and content of each."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from yarl import URL

from ..targets.engine_arguments import arguments_of
from ..targets.engine_facts import RUN_AT_START, imported_packs
from ..types import JsonValue
from ..wire.installed import InstalledPack
from ..wire.nodes import PackWanted
from .nodes.program import node_folders

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "classes_in",
    "commit_of",
    "custom_node_folders",
    "installed_packs",
    "is_pack",
    "packs_in",
    "public_repository",
    "same_source",
    "with_brought",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST_NOTE = 1024 * 1024  # bytes of what git or a pack says of itself
_MOST_FILES = 5000
_LARGEST_CONTENT = 64 * 1024 * 1024  # bytes of a pack's Python files
_BY_SSH = re.compile(r"git@[A-Za-z0-9.-]+:[A-Za-z0-9][A-Za-z0-9._/-]*")
_TESTS = frozenset({"test", "tests"})
_OTHERS = {"__pycache__", "node_modules", "venv"}


def custom_node_folders(stats: Mapping[str, JsonValue], volume: Path) -> list[Path]:
    """Where an engine on this machine has its node packs.

    Args:
        stats: Its ``/system_stats``, whose ``argv`` says how it was started.
        volume: Where a network volume is mounted, which may hold a whole ComfyUI.
    """
    argv, of_volume = arguments_of(stats), volume / "ComfyUI" / "custom_nodes"
    found = node_folders(Path(argv[0]).parent, argv[1:]) if argv else []
    return [*found, of_volume] if of_volume.is_dir() and of_volume not in found else found


def packs_in(folders: Sequence[Path]) -> set[str]:
    """The names of all packs that ComfyUI imports, also of those without a node. Blocking."""
    found: set[str] = set()
    for folder in folders:
        try:
            for path in folder.iterdir():
                files = [f"{path.name}/{name}" for name in RUN_AT_START if (path / name).is_file()]
                found |= imported_packs(files or [path.name])
        except OSError:
            continue
    return found


def installed_packs(
    names: Collection[str], folders: Sequence[Path], *, unchanged_since: float | None = None
) -> list[InstalledPack]:
    """What is known of packs, by their names in ``custom_nodes``, in the order of the names.
    Blocking.

    Args:
        unchanged_since: When the engine was started, in seconds since 1970: what it has imported of
            a pack that was changed after that is not known.
    """
    return [_pack(name, folders, unchanged_since) for name in sorted(names)]


def is_pack(pack: PackWanted, other: InstalledPack) -> bool:
    """Whether a pack that is there is the one that is asked for, in whatever version: by its
    folder, its id, or its repository."""
    names = {other.name.casefold(), (other.registry_id or "").casefold()}
    return pack.name.casefold() in names or same_source(pack.source, other.url or "")


def same_source(one: str, other: str) -> bool:
    """Whether two ids, or two addresses of repositories, are of one pack."""
    return _spelled(one) == _spelled(other)


def _spelled(source: str) -> str:
    return source.casefold().rstrip("/").removesuffix(".git")


def with_brought(
    packs: Sequence[InstalledPack], brought: Mapping[str, InstalledPack]
) -> list[InstalledPack]:
    """The same, with those marked that jobs have brought; what was asked for by is known of them,
    also where their files do not say it.

    Args:
        brought: By name.
    """
    return [
        one
        if (known := brought.get(one.name)) is None
        else known.model_copy(
            update={**one.model_dump(exclude_none=True, exclude={"brought"}), "brought": True}
        )
        for one in packs
    ]


def _pack(name: str, folders: Sequence[Path], unchanged_since: float | None) -> InstalledPack:
    for folder in folders:
        for path in (folder / name, folder / f"{name}.py"):
            if path.exists():
                registry_id, version = _what_it_says(path)
                return InstalledPack(
                    name=name,
                    registry_id=registry_id,
                    version=version,
                    commit=commit_of(path),
                    url=_origin(path),
                    content=_content(path, unchanged_since),
                )
    return InstalledPack(name=name)


def _what_it_says(path: Path) -> tuple[str | None, str | None]:
    """Id and version of a pack's ``pyproject.toml``, which the registry asks for.

    ComfyUI-Manager notes the registry's id of what it has cloned in ``.git/.cnr-id``.
    """
    noted = _text(_git_folder(path) / ".cnr-id").strip() or None
    try:
        project = tomllib.loads(_text(path / "pyproject.toml")).get("project", {})
    except (tomllib.TOMLDecodeError, RecursionError):
        return noted, None
    project = project if isinstance(project, dict) else {}
    name, version = project.get("name"), project.get("version")
    return (
        noted or (name if isinstance(name, str) else None),
        version if isinstance(version, str) else None,
    )


def classes_in(path: Path, wanted: Collection[str]) -> set[str]:
    """Those of some node classes that a pack has, by the text of its Python files. Blocking.

    A class counts that is the key of a mapping (``"NAME": …``, as in ``NODE_CLASS_MAPPINGS``) or
    the id of a node (``node_id="NAME"``), and no other mention. A pack's tests do not count: they
    have workflows, with nodes of other packs.
    """
    path = path if path.exists() else path.with_name(f"{path.name}.py")
    files = [path] if path.is_file() else _python_files(path)
    texts = (one for one in files if _TESTS.isdisjoint(one.relative_to(path).parts))
    found: set[str] = set()
    for file in texts:
        text = _text(file)
        if here := [name for name in wanted if name not in found and name in text]:
            found.update(match[2] or match[4] for match in _naming(here).finditer(text))
    return found


def _naming(classes: Iterable[str]) -> re.Pattern[str]:
    """The key of a mapping, or the id of a node."""
    names = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    return re.compile(
        rf"""(?:(?<![\w"'])(["'])({names})\1\s*:)|(?:node_id\s*=\s*(["'])({names})\3)"""
    )


def commit_of(path: Path) -> str | None:
    """What is checked out, read as git's repository layout has it (gitrepository-layout(5))."""
    git = _git_folder(path)
    head = _text(git / "HEAD").strip()
    if head.startswith("ref: "):
        ref = head.removeprefix("ref: ")
        if ".." in ref or not ref.startswith("refs/"):
            return None
        head = _text(git / ref).strip() or _packed(git, ref)
    return head if _COMMIT.fullmatch(head) else None


def _packed(git: Path, ref: str) -> str:
    for line in _text(git / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return commit
    return ""


def _origin(path: Path) -> str | None:
    """The address of ``origin``, without a login; ``None`` for a folder of this machine."""
    section = ""
    for line in _text(_git_folder(path) / "config").splitlines():
        words = line.strip()
        if words.startswith("["):
            section = words
        elif section == '[remote "origin"]' and words.partition("=")[0].strip() == "url":
            return public_repository(words.partition("=")[2].strip())
    return None


def public_repository(address: str) -> str | None:
    """A repository's address without a login; ``None`` for a folder of this machine."""
    if _BY_SSH.fullmatch(address):
        return address
    try:
        url = URL(address)
    except ValueError:
        return None
    if url.scheme not in ("https", "http", "ssh", "git") or not url.host:
        return None
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _git_folder(path: Path) -> Path:
    """``.git``, which is a file that names the folder in a submodule."""
    git = path / ".git"
    named = _text(git) if git.is_file() else ""
    return path / named.removeprefix("gitdir:").strip() if named.startswith("gitdir:") else git


def _content(path: Path, unchanged_since: float | None) -> str | None:
    """SHA-256 of the Python files and their paths; ``None`` if they are too many, or changed."""
    digest, size = hashlib.sha256(), 0
    files = [path] if path.is_file() else sorted(_python_files(path))
    if len(files) > _MOST_FILES:
        return None
    try:
        for file in files:
            status = file.stat()
            size += status.st_size
            if size > _LARGEST_CONTENT:
                return None
            changed = max(status.st_mtime, status.st_ctime)
            if unchanged_since is not None and changed > unchanged_since:
                return None
            content = file.read_bytes()
            name = file.name if file == path else file.relative_to(path).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _python_files(path: Path) -> Iterator[Path]:
    found = 0
    for at, folders, names in os.walk(path):
        folders[:] = [one for one in folders if one not in _OTHERS and not one.startswith(".")]
        for name in names:
            file = Path(at, name)
            # A pipe or a device would be read for ever.
            if name.endswith(".py") and file.is_file():
                found += 1
                yield file
                if found > _MOST_FILES:
                    return


def _text(path: Path) -> str:
    """A small text; empty if it is not there or cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_LARGEST_NOTE).decode("utf-8", "replace")
    except (OSError, ValueError):  # the latter: a name that git's files give, with a NUL in it
        return ""
