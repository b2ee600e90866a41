"""A job's outputs as the target announces them, before anything is fetched."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from dataclasses import asdict, field, fields
from pathlib import Path, PurePosixPath
from typing import Literal

from .data_class import dataclass
from .types import JsonValue

__all__ = [
    "TEXT_KEYS",
    "OutputKind",
    "OutputProblem",
    "OutputSource",
    "RemoteOutput",
    "kind_of",
    "media_type_of",
]

OutputKind = Literal["image", "video", "audio", "3d", "text", "file"]

# Types that Python's table lacks on some platforms (Windows reads its own registry).
_MEDIA_TYPES = {
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".jpg": "image/jpeg",
    ".latent": "application/octet-stream",
    ".m4a": "audio/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".obj": "model/obj",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".ply": "model/ply",
    ".png": "image/png",
    ".stl": "model/stl",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
}


TEXT_KEYS = ("text", "string")
"""The keys of ComfyUI's history under which nodes list texts."""


def media_type_of(filename: str) -> str:
    """Media type by the file's ending, ``application/octet-stream`` when unknown."""
    suffix = PurePosixPath(filename).suffix.lower()
    return (
        _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    )


def kind_of(filename: str) -> OutputKind:
    """What a person would call this file.

    Decided by the file's ending, not by the key ComfyUI listed it under: ``SaveVideo``
    lists its MP4 under ``images``, and VideoHelperSuite under ``gifs``.
    """
    family = media_type_of(filename).partition("/")[0]
    match family:
        case "image" | "video" | "audio" | "text":
            return family
        case "model":
            return "3d"
        case _:
            return "file"


@dataclass(frozen=True, slots=True)
class OutputSource:
    """Where a target reads an output's bytes from. One of these is set.

    Attributes:
        path: Path and query below the target's own base URL.
        url: Absolute URL on another host (storage); fetched without the target's key.
        data: The bytes themselves, base64, as they came in the result.
        kept: Its name on the worker, which sends it in parts.
        file: A file of this machine, where the target put it as it arrived.
        delete_url: With ``url``: a signed address to DELETE it by, once it is here.
    """

    path: str | None = None
    url: str | None = None
    data: str | None = None
    kept: str | None = None
    file: Path | None = None
    delete_url: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """One file (or one text) that a job produced.

    Attributes:
        node_id: The node that produced it; ``None`` where the worker does not say
            (the public worker-comfyui).
        kind: image, video, audio, 3d, text or file.
        filename: As the target named it. Not trusted: see `media.files.safe_relative_path`.
        subfolder: Below the target's output folder, ``/`` between parts; may be empty.
        folder: ComfyUI's folder type: ``output`` (saved), ``temp`` (a preview), ``input``.
        media_type: For example ``image/png``.
        size: Bytes; ``None`` when not announced.
        sha256: 64 lower-case hex digits; ``None`` when not announced.
        blake3: Likewise, where a target announces that one instead.
        text: The text itself, for outputs that are not files (``PreviewAny``); else ``None``.
        source: Where to read the bytes; ``None`` for a text, unless it is too long for an answer.
        key: Under which ComfyUI's history listed it: ``images``, ``gifs``, ``audio``, ``3d``,
            ``text``, …; ``None`` where the worker does not say.
        number: Its position in the answer of a worker that gives file names without subfolders,
            so that two files may have one name; ``None`` elsewhere.
        member: Of a route, the target that has it; ``None`` where it is the job's own.
    """

    node_id: str | None
    kind: OutputKind
    filename: str
    subfolder: str = ""
    folder: str = "output"
    media_type: str = "application/octet-stream"
    size: int | None = None
    sha256: str | None = None
    text: str | None = None
    source: OutputSource | None = field(default=None, repr=False)  # whole files, signed addresses
    key: str | None = None
    number: int | None = None
    member: str | None = field(default=None, repr=False)
    blake3: str | None = None

    def __eq__(self, other: object) -> bool:
        """Whether both describe the same output, whatever subclass either is of."""
        if not isinstance(other, RemoteOutput):
            return NotImplemented
        return all(
            getattr(self, one.name) == getattr(other, one.name) for one in fields(RemoteOutput)
        )

    @property
    def file(self) -> tuple[str, str, str, int | None]:
        """Identifies this file among the files of its job."""
        return self.folder, self.subfolder, self.filename, self.number

    @property
    def is_shown_text(self) -> bool:
        """Whether it is a text that a node shows, and not a file; a long one has a ``source``."""
        if self.key not in TEXT_KEYS:
            return False
        return self.filename.startswith(f"{self.node_id}_{self.key}_")

    @property
    def drawn_node(self) -> str:
        """The id of the node that a person drew: one that it expanded into is called ``ID.…``."""
        return (self.node_id or "").partition(".")[0]

    def to_json(self) -> dict[str, JsonValue]:
        """A description for people and programs: everything but the bytes."""
        return {
            "node_id": self.node_id,
            "kind": self.kind,
            "filename": self.filename,
            "subfolder": self.subfolder,
            "folder": self.folder,
            "media_type": self.media_type,
            "size": self.size,
            "sha256": self.sha256,
            "text": self.text,
        }


def in_prompt_order(
    outputs: Iterable[RemoteOutput], prompt: Iterable[str]
) -> tuple[RemoteOutput, ...]:
    """Outputs in the order of a prompt's nodes; last, those whose node it does not have."""
    order = {node_id: number for number, node_id in enumerate(prompt)}
    return tuple(sorted(outputs, key=lambda one: order.get(one.drawn_node, len(order))))


@dataclass(frozen=True, slots=True)
class OutputProblem:
    """Why a job that succeeded has fewer outputs than its workflow asks for.

    Attributes:
        node_id: The node whose output it is; ``None`` if that is not known.
        node_class: Its ``class_type``.
        filename: The file that is missing or damaged; ``None`` if the node made nothing at all.
        reason: A sentence.
    """

    node_id: str | None
    node_class: str | None
    filename: str | None
    reason: str

    def __str__(self) -> str:
        node = f"Node {self.node_id}" if self.node_id is not None else "An output"
        named = f"{node} ({self.node_class})" if self.node_class else node
        return ": ".join(part for part in (named, self.filename, self.reason) if part)

    def to_json(self) -> dict[str, JsonValue]:
        """``{"node_id", "node_class", "filename", "reason"}``."""
        return asdict(self)
