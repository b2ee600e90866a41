"""Packed workflows (`workflow.packed`) that were opened: a folder of ours for each, by content.

A job's input files have to stay where they are as long as it may be sent again, so they are not
in a temporary folder. The newest are there, so many and so large at most.

What a packed workflow names is a stranger's until its owner has trusted it: until then, the
workflow in the folder has no address to fetch models from.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..config.folders import home
from ..config.trust import TrustStore
from ..errors import WorkflowInvalid
from ..media.file_changes import discard, rename_path
from ..media.files import sha256_of, storage_errors, write_whole
from ..types import JsonValue
from ..workflow.json_document import decode, parse_json
from ..workflow.load import parse_workflow
from ..workflow.models import model_sources
from ..workflow.packed import packed_files, without_addresses
from ..workflow.repo_list import find_repo_list

__all__ = ["Unpacked", "named_in_packed", "packed_source", "unpacked"]

_FOLDER = "packed"
_LOCK = "comfy-remote.lock"
_MOST = 50
_LARGEST = 2 * 1024 * 1024 * 1024  # bytes of all of them
_LARGEST_FILE = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A packed workflow that was opened.

    Attributes:
        workflow: Its file here, beside ``comfy-remote.lock`` and ``input``.
        untrusted: What it names and the owner has not trusted, so that the workflow is without it.
    """

    workflow: Path
    untrusted: tuple[str, ...] = ()


def unpacked(path: Path, *, folder: Path | None = None) -> Unpacked:
    """Open a packed workflow. Blocking.

    Args:
        folder: The user's data folder.

    Raises:
        WorkflowInvalid: It is not one, or must not be believed.
        LocalStorageError: There is no room for it.
    """
    root = folder or home()
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise WorkflowInvalid(f"{path} is too large for a packed workflow.")
        digest = sha256_of(path)
    except OSError as error:
        raise WorkflowInvalid(f"{path} cannot be read: {error.strerror or error}.") from error
    with path.open("rb") as file:
        inside = packed_files(file, str(path))
    document = parse_json(decode(inside.workflow, str(path)), str(path))
    untrusted = tuple(TrustStore(root).missing(path, _named(document)))
    place = root / _FOLDER / f"{digest[:32]}{'' if untrusted else '-trusted'}"
    workflow = place / f"{_stem(path)}.json"
    if not workflow.is_file():
        shown = without_addresses(document) if untrusted else document
        with storage_errors(place):
            if not place.is_dir():
                _fill(path, place, inside.lock)
                _tidy(place)
            # One content may have several names; a job may be using what is there.
            write_whole(_source_of(workflow), str(path).encode())
            write_whole(workflow, json.dumps(shown, ensure_ascii=False).encode())
    with contextlib.suppress(OSError):
        os.utime(place)
    return Unpacked(workflow, untrusted)


def packed_source(workflow: Path) -> str | None:
    """The packed workflow that a file was opened from, as it was called; ``None`` for others."""
    if workflow.parent.parent.name != _FOLDER:
        return None
    try:
        return _source_of(workflow).read_text("utf-8")
    except (OSError, ValueError):
        return None


def named_in_packed(path: Path) -> list[str]:
    """The addresses that a packed workflow names for models, a line each; not those of its lock.

    Raises:
        WorkflowInvalid: It is not one.
    """
    try:
        with path.open("rb") as file:
            inside = packed_files(file, str(path))
    except OSError as error:
        raise WorkflowInvalid(f"{path} cannot be read: {error.strerror or error}.") from error
    return _named(parse_json(decode(inside.workflow, str(path)), str(path)))


def _named(document: JsonValue) -> list[str]:
    loaded = parse_workflow(document)
    names = [
        f"model {source.folder}/{source.name}: {source.url}"
        for source in model_sources(loaded.workflow or {})
    ]
    # Each by itself: with both, one counts, and which of them runs is another program's choice.
    lists = (find_repo_list(loaded.prompt or {}), find_repo_list({}, loaded.workflow))
    lines = [line.strip() for listed in lists for line in listed.splitlines()]
    names += [f"model of its repo_list: {line}" for line in lines if line]
    return list(dict.fromkeys(names))


def _fill(path: Path, place: Path, lock: str | None) -> None:
    """Make the folder of a content, and put it in its place once it is whole."""
    made = place.with_name(f".{uuid.uuid4().hex}.part")
    made.mkdir(mode=0o700, parents=True)
    try:
        with path.open("rb") as file:
            packed_files(file, str(path), made / "input")
        if lock is not None:
            (made / _LOCK).write_text(lock, "utf-8")
        try:
            rename_path(made, place)
        except OSError:
            if not place.is_dir():  # another process has been quicker
                raise
    finally:
        discard(made)


def _tidy(kept: Path) -> None:
    """Remove the oldest, until they are few and small enough."""
    folders = [one for one in kept.parent.iterdir() if one != kept and one.is_dir()]
    with contextlib.suppress(OSError):
        folders.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    left = _LARGEST - _size(kept)
    for number, one in enumerate(folders, 2):
        left -= _size(one)
        if number > _MOST or left < 0:
            discard(one)


def _size(folder: Path) -> int:
    try:
        return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    except OSError:
        return 0


def _source_of(workflow: Path) -> Path:
    """The note of where an opened workflow came from."""
    return workflow.with_name(f".{workflow.stem}.source")


def _stem(path: Path) -> str:
    """A plain name, whatever the file is called."""
    stem = path.name.removesuffix(".zip").removesuffix(".json")
    plain = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in stem)
    return plain.strip()[:80] or "workflow"
