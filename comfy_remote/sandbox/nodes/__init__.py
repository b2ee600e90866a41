"""All nodes by ``class_type``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import image, load, mask, remote, save, testing
from .base import Node

__all__ = ["NODES"]

_CLASSES: tuple[type[Node], ...] = (
    load.LoadImage,
    load.LoadImageMask,
    image.EmptyImage,
    image.ImageScale,
    image.ImageScaleBy,
    image.ImageInvert,
    image.ImageBatchNode,
    image.ImageCrop,
    image.ImageBlend,
    image.ImagePadForOutpaint,
    mask.SolidMask,
    mask.MaskToImage,
    mask.ImageToMask,
    mask.InvertMask,
    save.SaveImage,
    save.PreviewImage,
    save.SaveAnimatedWEBP,
    save.SaveImageWebsocket,
    save.SaveImageDataSetToFolder,
    remote.ComfyRemoteInput,
    remote.ComfyRemoteOutput,
    remote.ComfyRemotePart,
    remote.ComfyRemoteShown,
    testing.SandboxSlow,
    testing.SandboxFail,
    testing.SandboxFile,
    testing.SandboxLoad,
    testing.SandboxModel,
)

NODES: Mapping[str, type[Node]] = MappingProxyType({node.schema.name: node for node in _CLASSES})
