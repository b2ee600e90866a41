"""What is known of ComfyUI's output nodes: one row a class. A missing class counts as unknown.

Source of facts: the ``ui`` of each node in ComfyUI 0.33.0's ``nodes.py`` and ``comfy_extras``, and
for placeholders ComfyUI's frontend 1.49.6 (`saveImageExtraOutput`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..data_class import dataclass

if TYPE_CHECKING:
    from ..outputs import OutputKind

__all__ = ["ADD_AN_OUTPUT", "NO_OUTPUT", "OUTPUT_NODES", "FileSize", "OutputNode"]

NO_OUTPUT = "No node of the workflow saves or shows anything"
"""What every face says of a prompt without an output node; ComfyUI refuses to run it."""
ADD_AN_OUTPUT = "Add a Save Image node, or another that saves."


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes per pixel of files with pictures from the node's ``input``: minimum and average.

    For pictures with detail, as models make them. Measured on a few; good for a warning.
    """

    input: str
    least: float
    typical: float


@dataclass(frozen=True, slots=True)
class OutputNode:
    """One class.

    Attributes:
        kind: Of its outputs, if the types of its inputs do not tell.
        endings: A pattern for the files that it lists under ``images`` in ComfyUI's history: only
            these does the public worker-comfyui return.
        other: What else it makes, for people.
        placeholders: Whether ComfyUI's page fills in ``%date:…%`` in the names of its files.
        size: Of its files, if that can be estimated.
        preview: Whether it only shows something, and is not what a workflow is for.
        lists_files: Whether ComfyUI's history lists the files that it saves.
    """

    kind: OutputKind | None = None
    endings: str = ""
    other: str = ""
    placeholders: bool = False
    size: FileSize | None = None
    preview: bool = False
    lists_files: bool = True


_PNG = FileSize("images", 0.5, 1.5)
_WEBP = FileSize("images", 0.02, 0.1)
_FRAMES = FileSize("images", 0.003, 0.03)
_VIDEO = FileSize("video", 0.003, 0.03)
_SOUND = OutputNode(other="sound", placeholders=True)
_MODEL_3D = OutputNode(other="3D models", placeholders=True)
_VIEW_3D = OutputNode(other="a 3D view")
_MODEL = OutputNode(placeholders=True, lists_files=False)
_UNLISTED = OutputNode(lists_files=False)

OUTPUT_NODES: Mapping[str, OutputNode] = {
    # Pictures and films.
    "SaveImage": OutputNode(endings="png", placeholders=True, size=_PNG),
    "SaveImageAdvanced": OutputNode(endings="[^.]+", placeholders=True),
    "SaveAnimatedPNG": OutputNode(endings="png", placeholders=True, size=_PNG),
    "SaveAnimatedWEBP": OutputNode("image", "webp", placeholders=True, size=_WEBP),
    "SaveSVGNode": OutputNode("image", "svg", placeholders=True),
    "SaveVideo": OutputNode(endings="mp4|mkv|mov|webm", placeholders=True, size=_VIDEO),
    "SaveWEBM": OutputNode("video", "webm", placeholders=True, size=_FRAMES),
    "SaveImageWebsocket": OutputNode(other="pictures sent over the WebSocket"),
    # Of VideoHelperSuite, in an eighth of the workflows that people share.
    "VHS_VideoCombine": OutputNode("video", other="videos listed as gifs", size=_FRAMES),
    # Sound, 3D, texts and values.
    "SaveAudio": _SOUND,
    "SaveAudioAdvanced": _SOUND,
    "SaveAudioMP3": _SOUND,
    "SaveAudioOpus": _SOUND,
    "Save3DAdvanced": _MODEL_3D,
    "SaveGLB": _MODEL_3D,
    "SaveGaussianSplat": _MODEL_3D,
    "SavePointCloud": _MODEL_3D,
    "SaveLatent": OutputNode("file", other="latents", placeholders=True),
    "SaveText": OutputNode("text", other="text"),
    "SaveTextNode": OutputNode(other="text"),
    "ComfyRemoteOutput": OutputNode(other="values"),
    "RunPodRemoteExecute": OutputNode(other="pictures from elsewhere"),
    # Previews.
    "PreviewImage": OutputNode(other="previews", size=_PNG, preview=True),
    "MaskPreview": OutputNode(other="previews", preview=True),
    "ImageCompare": OutputNode(other="previews"),
    "PreviewAny": OutputNode("text", other="text", preview=True),
    "PreviewAudio": OutputNode(other="sound", preview=True),
    "Preview3D": OutputNode("3d", other="a 3D view", preview=True),
    "Preview3DAnimation": OutputNode("3d", other="a 3D view"),
    "Preview3DAdvanced": _VIEW_3D,
    "PreviewGaussianSplat": _VIEW_3D,
    "PreviewPointCloud": _VIEW_3D,
    # Models and data sets.
    "CLIPSave": _MODEL,
    "LoraSave": _MODEL,
    "ModelSave": _MODEL,
    "VAESave": _MODEL,
    "CheckpointSave": _UNLISTED,
    "SaveLoRA": _UNLISTED,
    "SaveImageDataSetToFolder": _UNLISTED,
    "SaveImageTextDataSetToFolder": _UNLISTED,
    "SaveTrainingDataset": _UNLISTED,
}
