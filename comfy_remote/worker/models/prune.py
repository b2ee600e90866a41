"""Removing models that we fetched and that are no longer wanted: nothing else, ever."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...media.file_changes import discard, remove_file
from ...media.files import sha256_of, storage_errors
from .folders import OUR_FOLDER, PartFile
from .manifest import Entry, Manifest

__all__ = ["PrunePlan", "plan_prune", "prune", "verify"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What pruning would do.

    Attributes:
        remove: Fetched by us, as we wrote them, neither listed nor pinned, and not asked for.
        keep: Fetched by us, as we wrote them, and listed or pinned.
        asked: Fetched by us, as we wrote them, not listed, but another list has asked for them
            recently.
        lost: Entries whose file is gone, or was changed and so is not ours any more.
    """

    remove: tuple[Entry, ...]
    keep: tuple[Entry, ...]
    asked: tuple[Entry, ...]
    lost: tuple[Entry, ...]


def plan_prune(manifest: Manifest, wanted: Collection[str], asked: Collection[str]) -> PrunePlan:
    """What pruning would do. Changes nothing.

    Args:
        wanted: Paths of the listed models, relative to the models folder.
        asked: Paths of those that other lists have asked for; see `manifest.Asked`.

    Raises:
        LocalStorageError: The pins cannot be read, so nothing can be said.
    """
    remove, keep, theirs, lost = [], [], [], []
    with storage_errors(manifest.root):
        for entry in manifest.entries():
            file = manifest.file(entry)
            # A link leads to a file that is not here: somebody made it.
            if file.is_symlink() or not entry.untouched(file):
                lost.append(entry)
            elif entry.path in wanted or manifest.pinned(entry.path):
                keep.append(entry)
            elif entry.path in asked:
                theirs.append(entry)
            else:
                remove.append(entry)
    return PrunePlan(tuple(remove), tuple(keep), tuple(theirs), tuple(lost))


def verify(manifest: Manifest, plan: PrunePlan) -> dict[str, bool]:
    """Whether the content of each file to remove is still what we wrote, by path; reads them whole.

    This finds a file that somebody put where ours was, with its size and time. Done
    before `prune`, which keeps other workers waiting.
    """
    verified = {}
    for entry in plan.remove:
        file = manifest.file(entry)
        with storage_errors(file):
            verified[entry.path] = sha256_of(file) == entry.sha256 and entry.untouched(file)
    return verified


def prune(
    manifest: Manifest,
    wanted: Collection[str],
    asked: Collection[str],
    parts: Collection[str],
    verified: Mapping[str, bool],
) -> PrunePlan:
    """Remove what `plan_prune` says, and unfinished downloads that nobody asks for.

    Only inside `Presence.alone`.

    Args:
        parts: Keys of the `PartFile`s to keep.
        verified: What `verify` said. What it did not look at (another worker has fetched it
            since) stays.
    """
    plan = plan_prune(manifest, wanted, asked)
    removed: list[Entry] = []
    kept, lost = list(plan.keep), list(plan.lost)
    for entry in plan.remove:
        file = manifest.file(entry)
        if entry.path not in verified:
            kept.append(entry)
            continue
        if not verified[entry.path] or not entry.untouched(file):
            lost.append(entry)
            continue
        with storage_errors(file):
            remove_file(file, missing_ok=True)
        manifest.forget(entry)
        removed.append(entry)
        _log.info("pruned %s (%d bytes)", entry.path, entry.size)
    for entry in lost:
        manifest.forget(entry)
    _remove_parts(manifest.root, parts)
    return PrunePlan(tuple(removed), tuple(kept), plan.asked, tuple(lost))


def _remove_parts(root: Path, wanted: Collection[str]) -> None:
    for note in (root / OUR_FOLDER / "parts").glob("*.json"):
        if note.stem not in wanted:
            for path in root.glob(f"*/{PartFile(root, '', note.stem).path.name}"):
                discard(path)
            discard(note)
