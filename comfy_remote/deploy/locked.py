"""The node packs, the ComfyUI and the models of a lock, for an image or a project. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import ModelUnavailable
from ..ready.lock import Lock
from ..ready.pins import Unpinned, pin_of
from ..ready.sync.lines import repo_line
from ..wire.nodes import PackWanted

__all__ = [
    "COMFYUI_COMMIT",
    "COMFYUI_VERSION",
    "ImagePacks",
    "is_own_pack",
    "model_lines",
    "packs_for_image",
]

COMFYUI_VERSION = "0.33.0"
"""Of our images; see the Dockerfile."""
COMFYUI_COMMIT = "2f35f4a08176d993cded35dac3332be4f7287f41"

_OWN = "comfy-remote"  # in the Comfy Registry


@dataclass(frozen=True, slots=True)
class ImagePacks:
    """What is installed in an image.

    Attributes:
        packs: In the lock's order; not our own, which each image has.
        notes: Why others are not, a sentence each.
    """

    packs: tuple[PackWanted, ...]
    notes: tuple[str, ...]


def packs_for_image(lock: Lock) -> ImagePacks:
    """The node packs of a lock, each at exactly one state of its code."""
    found: dict[str, PackWanted] = {}
    notes: list[str] = []
    for pack in lock.packs:
        if is_own_pack(pack.id, pack.classes):
            continue
        try:
            wanted = pin_of(pack)
        except Unpinned as error:
            notes.append(f"{pack.name} is not in it: {error}.")
            continue
        if wanted.source.startswith("http:"):
            notes.append(f"{pack.name} is not in it: its repository is on another machine.")
            continue
        if found.setdefault(wanted.name.casefold(), wanted) is not wanted:
            notes.append(f"{pack.name} is not in it: another pack of the lock gets its folder.")
    return ImagePacks(tuple(found.values()), tuple(notes))


def model_lines(lock: Lock) -> dict[tuple[str, str], str]:
    """Lines of a repo_list, by folder and name: for the models that have an address which everybody
    can fetch from.
    """
    lines = {}
    for one in lock.models:
        public = [each.url for each in one.addresses if not each.url.startswith("r2:")]
        if one.folder is None or not public:
            continue
        try:
            lines[one.folder, one.name] = repo_line(one, public[0])
        except ModelUnavailable:  # its name cannot be said in a line
            continue
    return lines


def is_own_pack(registry_id: str | None, classes: Collection[str]) -> bool:
    """Whether a pack is Comfy Remote's own, which each image has.

    Args:
        classes: Those of its classes that are known.
    """
    by_class = bool(classes) and all(one.startswith("ComfyRemote") for one in classes)
    return by_class or registry_id == _OWN
