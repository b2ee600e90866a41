"""How large the pictures are that a prompt loads from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import OutputCorrupt
from ..media.images import picture_size
from ..workflow.check.sizes import Pictures
from ..workflow.files import FileUse, every_file_use
from ..workflow.prompt import Prompt

__all__ = ["loaded_pictures"]


def loaded_pictures(prompt: Prompt, find: Callable[[FileUse], Path | None]) -> dict[str, Pictures]:
    """What the nodes give that load a picture, by node. Reads the heads of the files.

    Args:
        find: Where a file is; ``None`` if it is not here.
    """
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
