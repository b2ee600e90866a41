"""Nodes that ComfyUI does not have: to watch progress, to cancel, and to provoke faults.

They stay in the package: ``make page`` and the tests run them in sandboxes that are processes of
their own, and a way to load other nodes into such a process would be a way to load any code.
"""

# A node takes what its schema says, whether it needs it or not.
# ruff: noqa: ARG003

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from pydantic import JsonValue

from ..folders import Folders
from .base import ImageBatch, Node, NodeContext, NodeResult, saved_file
from .load import LoadImage
from .save import to_picture
from .schema import NodeSchema, Output, boolean, choice, floating, integer, socket, string

__all__ = ["SandboxFail", "SandboxFile", "SandboxLoad", "SandboxModel", "SandboxSlow"]

_CATEGORY = "sandbox"
_MODULE = "comfy_remote.sandbox"
_schema = partial(NodeSchema, category=_CATEGORY, module=_MODULE)
_PREVIEW_SIDE = 512
_BLOCK = 1 << 20


class SandboxSlow(Node):
    """Pass the image on after some steps, each as slow as wanted. Reacts to interrupts at once.

    ``seed`` only makes the node run again instead of using its cached result.
    """

    schema = _schema(
        name="SandboxSlow",
        display_name="Slow (Sandbox)",
        description="Takes its time, step by step, and passes the image through unchanged.",
        inputs=(
            socket("image", "IMAGE"),
            integer("steps", 10, 1, 10000, step=1),
            floating("seconds_per_step", 0.1, 0.0, 3600.0, 0.01),
            boolean("preview", True),
            integer("seed", 0, 0, 0xFFFFFFFFFFFFFFFF, required=False),
        ),
        outputs=(Output("IMAGE"),),
    )

    def run(
        self,
        context: NodeContext,
        image: ImageBatch,
        steps: int,
        seconds_per_step: float,
        preview: bool,
        seed: int = 0,
    ) -> NodeResult:
        picture = None
        if preview:
            picture = to_picture(image[0])
            picture.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        began = time.monotonic()
        for step in range(1, steps + 1):
            # What a step's preview costs is part of the step, or many steps would add up.
            due = began + step * seconds_per_step
            context.sleep(max(0.0, due - time.monotonic()))
            context.progress(step, steps, picture)
        return NodeResult([image])


class _OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's error, which ComfyUI reports."""


_OutOfMemoryError.__module__ = "torch"
_OutOfMemoryError.__qualname__ = "OutOfMemoryError"


class SandboxFail(Node):
    """Fail while running."""

    schema = _schema(
        name="SandboxFail",
        display_name="Fail (Sandbox)",
        description="Raises an error, runs out of memory, or ends the engine's process.",
        inputs=(
            socket("image", "IMAGE"),
            choice("mode", ("error", "out_of_memory", "crash")),
            string("message", "This node was asked to fail."),
        ),
        outputs=(Output("IMAGE"),),
    )

    def run(self, context: NodeContext, image: ImageBatch, mode: str, message: str) -> NodeResult:
        if mode == "out_of_memory":
            raise _OutOfMemoryError(message)
        if mode == "crash" and context.own_process:
            os._exit(1)  # no clean-up: that is what a crash is
        raise RuntimeError(message)


class SandboxLoad(LoadImage):
    """Load an image, and never look whether the file has changed: as nodes of many packs do.

    The name has to follow from the content, or a cached result is another picture's.
    """

    schema = replace(
        LoadImage.schema,
        name="SandboxLoad",
        display_name="Load without a fingerprint (Sandbox)",
        category=_CATEGORY,
        module=_MODULE,
    )

    @classmethod
    def fingerprint(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str:
        return ""


class SandboxModel(Node):
    """Load a model, which is only a name, and give an image of noise: another one with each load.

    So two jobs with the same noise have used the same load.
    """

    schema = _schema(
        name="SandboxModel",
        display_name="Model (Sandbox)",
        description="Takes as long as loading a model; its image is new each time that it runs.",
        inputs=(string("ckpt_name", "a.safetensors"), floating("seconds", 0.0, 0.0, 3600.0, 0.01)),
        outputs=(Output("IMAGE"),),
    )

    def run(self, context: NodeContext, ckpt_name: str, seconds: float) -> NodeResult:
        context.sleep(seconds)
        noise = np.random.default_rng().integers(0, 256, (1, 8, 8, 3))
        return NodeResult([(noise / 255).astype(np.float32)])


class SandboxFile(Node):
    """Write a file of any size, and list it under its own name or under another.

    The content is the same for the same size: a block of 1 MiB from a fixed seed, repeated.
    """

    schema = _schema(
        name="SandboxFile",
        display_name="File (Sandbox)",
        description="Writes a file of a given size into the output folder.",
        inputs=(
            string("filename", "file.bin"),
            string("subfolder", ""),
            integer("size", 1024, 0, 1 << 40),
            choice("list_under", ("images", "gifs", "video", "audio", "3d", "files")),
            # Clients must not trust this name; a hostile one is how to find out.
            string("listed_filename", ""),
            string("listed_subfolder", ""),
        ),
        outputs=(),
        output_node=True,
    )

    def run(
        self,
        context: NodeContext,
        filename: str,
        subfolder: str,
        size: int,
        list_under: str,
        listed_filename: str,
        listed_subfolder: str,
    ) -> NodeResult:
        name = PurePosixPath(filename).name
        path = context.folders.inside(context.folders.root / "output", subfolder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        block = random.Random(0).randbytes(min(size, _BLOCK))
        with path.open("wb") as file:
            for start in range(0, size, _BLOCK):
                file.write(block[: size - start])
                context.sleep(0)
        listed = saved_file(listed_filename or name, listed_subfolder or subfolder, "output")
        return NodeResult((), {list_under: [listed]})
