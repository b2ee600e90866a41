"""Which files a prompt loads, and where they are on this machine."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputFileMissing
from .interface import REMOTE_INPUT
from .prompt import Prompt

__all__ = [
    "ANNOTATION",
    "FileUse",
    "every_file_use",
    "file_below",
    "file_uses",
    "find_file",
    "input_folders",
    "missing_file",
]

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


def find_file(name: str, given: Sequence[Path], folders: Sequence[Path]) -> Path | None:
    """Where the file that a prompt calls ``name`` is here.

    Args:
        name: As in the prompt; may have subfolders, or be an absolute path.
        given: Files named by the user; one with the same file name wins.
        folders: Looked through in order.
    """
    posix = PurePosixPath(name.replace("\\", "/"))
    for path in given:
        if path.name == posix.name and _is_file(path):
            return path
    if not posix.name:
        return None
    for folder in folders:
        # An absolute name replaces the folder: a path typed into the workflow. The second is
        # for a workflow that was saved on Windows.
        for candidate in (folder / name, folder / posix):
            if _is_file(candidate):
                return candidate
    return None


def file_below(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder or below it; ``None`` if it is not there, or outside.

    For names that somebody else has chosen: ``..``, absolute paths and links do not lead out.
    """
    try:
        # `Path.resolve` raises RuntimeError where links go in a circle, before Python 3.13.
        path = Path(os.path.realpath(folder / name))
        inside = path.is_relative_to(os.path.realpath(folder)) and path.is_file()
    except (OSError, ValueError):  # too long, or a null byte in it
        return None
    return path if inside else None


def input_folders(base: Path) -> list[Path]:
    """Where the files that a workflow loads are looked for, in order.

    Args:
        base: The folder that the workflow is in.
    """
    return list(dict.fromkeys([base, base / "input", Path.cwd(), Path.cwd() / "input"]))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long: somebody put the picture itself there
        return False


def missing_file(use: FileUse, prompt: Prompt, folders: Sequence[Path]) -> InputFileMissing:
    """The error for a file that is nowhere."""
    node = f"{prompt[use.node_id]['class_type']} (node {use.node_id})"
    looked = ", ".join(map(str, folders))
    return InputFileMissing(
        f"{node} loads {reprlib.repr(use.name)}, which is not here. Looked in: {looked}.",
        advice="Put it there, or name it with --input FILE.",
        details={"node_id": use.node_id, "input": use.input, "name": use.name},
    )
