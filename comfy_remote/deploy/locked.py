"""The node packs and the ComfyUI of a lock, for an image that is built with them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..ready.lock import Lock, LockedPack
from ..ready.pins import Unpinned, pin_of
from ..wire.nodes import PackWanted

__all__ = ["COMFYUI_COMMIT", "COMFYUI_VERSION", "ImagePacks", "comfyui_release", "packs_for_image"]

COMFYUI_VERSION = "0.33.0"
"""Of our images; see the Dockerfile."""
COMFYUI_COMMIT = "2f35f4a08176d993cded35dac3332be4f7287f41"

_OURS = frozenset({"comfy-remote"})
_RELEASE = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+)")


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
        if _is_ours(pack):
            continue
        try:
            wanted = pin_of(pack)
        except Unpinned as error:
            notes.append(f"{pack.name} is not in it: {error}.")
            continue
        if found.setdefault(wanted.name.casefold(), wanted) is not wanted:
            notes.append(f"{pack.name} is not in it: another pack of the lock gets its folder.")
    return ImagePacks(tuple(found.values()), tuple(notes))


def comfyui_release(lock: Lock) -> str | None:
    """The lock's ComfyUI, if it is a release: ``0.33.0``."""
    release = _RELEASE.fullmatch(lock.comfyui.version or "")
    return release[1] if release is not None else None


def _is_ours(pack: LockedPack) -> bool:
    by_class = bool(pack.classes) and all(one.startswith("ComfyRemote") for one in pack.classes)
    return by_class or pack.id in _OURS
