"""The Dockerfile of an image with the ComfyUI and the node packs of a lock, on top of our own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..clean import one_line
from ..errors import ConfigurationError
from ..media.files import storage_errors, write_whole
from ..ready.lock import Lock, LockedComfyUI
from .locked import COMFYUI_VERSION, packs_for_image
from .runpod.wanted import IMAGE

__all__ = ["Dockerfile", "dockerfile_for", "write_dockerfile"]

_MADE_BY = "# Made by Comfy Remote"
_COMFYUI = "https://github.com/Comfy-Org/ComfyUI.git"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 300  # characters of a comment


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """One that was made.

    Attributes:
        notes: What of the lock is not in the image, and why, a sentence each.
        whole: Whether all of its node packs are.
    """

    text: str
    notes: tuple[str, ...] = ()
    whole: bool = True


def dockerfile_for(lock: Lock, needed_by: Sequence[str] = ()) -> Dockerfile:
    """The Dockerfile of a lock.

    Our image has the script that installs node packs, uv, and PyTorch held at its version by
    ``UV_CONSTRAINT``; what is read here is what its own Dockerfile reads (docker/).

    Args:
        needed_by: What the lock was made of, for its reader.
    """
    made = packs_for_image(lock)
    comfyui, note = _comfyui(lock)
    notes = (*([note] if note else []), *made.notes)
    by = f", for {', '.join(needed_by)}" if needed_by else ""
    lines = [
        *_comment(f"Made by Comfy Remote{by}: what a lock names, but for its models."),
        *_comment("Build it in a folder of its own: docker build -t YOU/comfy-remote-worker:1 ."),
        *_comment("Another image of ours: --build-arg WORKER=YOU/IMAGE:TAG"),
        f"ARG WORKER={IMAGE}",
        "FROM ${WORKER}",
        *comfyui,
    ]
    if made.packs:
        listed = [f"        '{one}' \\" for one in made.packs]
        lines += [
            "",
            "# Each at one version of the Comfy Registry, or at one commit.",
            "RUN printf '%s\\n' \\",
            *listed,
            "        > /opt/custom_nodes/custom_nodes.txt \\",
            "    && python /opt/custom_nodes/install_custom_nodes.py \\",
            "        /opt/custom_nodes/custom_nodes.txt /comfyui/custom_nodes",
        ]
    if notes:
        lines += ["", *(line for one in notes for line in _comment(one))]
    return Dockerfile("\n".join(lines) + "\n", notes, whole=not made.notes)


def _comfyui(lock: Lock) -> tuple[list[str], str]:
    """The steps that bring its ComfyUI, and what to say of it."""
    release, commit = lock.comfyui.release, lock.comfyui.commit or ""
    if release == COMFYUI_VERSION or lock.comfyui == LockedComfyUI():
        return [], ""
    if _COMMIT.fullmatch(commit):
        what = commit
    elif release is not None:
        what = f"refs/tags/v{release}"
    else:
        return [], f"The lock names no release of ComfyUI, so it stays at {COMFYUI_VERSION}."
    return [
        "",
        f"# ComfyUI {release or commit}",
        f"RUN git -C /comfyui fetch --quiet --depth 1 {_COMFYUI} {what} \\",
        "    && git -C /comfyui checkout --quiet --force --detach FETCH_HEAD \\",
        "    && uv pip install --requirement /comfyui/requirements.txt \\",
        "        --override /opt/constraints/no-template-media.txt",
    ], ""


def _comment(text: str) -> list[str]:
    """A comment: what is in it may be somebody else's, and is no instruction."""
    line = one_line(text)
    return [f"# {line if len(line) <= _LONGEST else f'{line[:_LONGEST]} …'}"]


def write_dockerfile(path: Path, made: Dockerfile) -> None:
    """Write one, whole or not at all. One that Comfy Remote has made before is replaced. Blocking.

    Raises:
        ConfigurationError: There is one that somebody has written.
        LocalStorageError: It cannot be written.
    """
    with storage_errors(path):
        if path.exists() and not path.read_text("utf-8", "replace").startswith(_MADE_BY):
            raise ConfigurationError(
                f"{path} is there, and Comfy Remote has not made it.",
                advice="Name another file, or remove it.",
            )
        write_whole(path, made.text.encode())
