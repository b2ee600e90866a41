"""Which inputs of a prompt name a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..interface import REMOTE_INPUT
from ..prompt import Prompt

__all__ = ["ANNOTATION", "FileUse", "every_file_use", "file_uses"]

# Inputs of ComfyUI's own nodes (and of VideoHelperSuite's) that name a file in `input/`.
_FILE_INPUTS = {
    "LoadImage": "image",
    "LoadImageMask": "image",
    "LoadImageOutput": "image",
    "LoadAudio": "audio",
    "LoadVideo": "file",
    "LoadLatent": "latent",
    "Load3D": "model_file",
    "Load3DAnimation": "model_file",
    REMOTE_INPUT: "file",
    "VHS_LoadVideo": "video",
    "VHS_LoadAudioUpload": "audio",
}
ANNOTATION = re.compile(r"^(?P<name>.*?) ?\[(?P<folder>input|output|temp)\]$", re.DOTALL)
"""``name [input]`` says which of ComfyUI's folders a name is in; input is the default."""


@dataclass(frozen=True, slots=True)
class FileUse:
    """One input of one node that names a file.

    Attributes:
        name: Below that folder; of an asset, ``blake3:`` and its hash.
        folder: ``input``, ``output``, ``temp`` or ``asset``.
    """

    node_id: str
    input: str
    name: str
    folder: str = "input"


def file_uses(prompt: Prompt) -> Iterator[FileUse]:
    """Every file the prompt loads from ``input/``, in the order of its nodes.

    Names annotated ``[output]`` or ``[temp]``, and ``blake3:`` hashes, are the target's own
    files and are left out.
    """
    return (use for use in every_file_use(prompt) if use.folder == "input")


def every_file_use(prompt: Prompt) -> Iterator[FileUse]:
    """Every file the prompt loads, from whatever folder, in the order of its nodes."""
    for node_id, node in prompt.items():
        key = _FILE_INPUTS.get(node["class_type"])
        value = node["inputs"].get(key) if key else None
        if key is None or not isinstance(value, str):
            continue
        if not value and node["class_type"] == REMOTE_INPUT:
            continue  # it takes its value from elsewhere
        annotated = ANNOTATION.match(value)
        if value.startswith("blake3:"):
            yield FileUse(node_id, key, value, "asset")
        elif annotated is None:
            yield FileUse(node_id, key, value)
        else:
            yield FileUse(node_id, key, annotated["name"], annotated["folder"])
