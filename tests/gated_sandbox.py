"""A sandbox with one node more, which waits until a test lets it go.

So a test decides when a job ends, and needs no guess at how long a command takes to start. The
fixture ``gated_url`` (tests/conftest.py) is such a sandbox; `Gate` is one job's gate.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import MappingProxyType

from comfy_remote.sandbox import nodes as registry
from comfy_remote.sandbox.nodes.base import ImageBatch, Node, NodeContext, NodeResult
from comfy_remote.sandbox.nodes.schema import NodeSchema, Output, socket, string


class Gated(Node):
    """Reports its first of two steps, over and over, until there is a file; gives the image."""

    schema = NodeSchema(
        name="Gated",
        display_name="Gated",
        category="tests",
        inputs=(socket("image", "IMAGE"), string("file", "")),
        outputs=(Output("IMAGE"),),
    )

    def run(self, context: NodeContext, image: ImageBatch, file: str) -> NodeResult:
        context.progress(1, 2)
        while not Path(file).exists():
            context.sleep(0.05)
            context.progress(1, 2)
        return NodeResult([image])


class Gate:
    """A workflow in API format that runs until its gate is opened.

    Args:
        folder: Where its file is written.
        name: Of the file, and of what it saves.

    Attributes:
        path: The workflow's file.
        prompt: What is in it.
    """

    def __init__(self, folder: Path, name: str = "gated") -> None:
        self._file = folder / f"{name}.open"
        inputs = {"image": ["1", 0], "file": str(self._file)}
        empty = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
        saved = {"images": ["2", 0], "filename_prefix": name}
        self.prompt = {
            "1": {"class_type": "EmptyImage", "inputs": empty},
            "2": {"class_type": "Gated", "inputs": inputs},
            "3": {"class_type": "SaveImage", "inputs": saved},
        }
        self.path = folder / f"{name}.json"
        self.path.write_text(json.dumps(self.prompt))

    def open(self) -> None:
        """Let its job end."""
        self._file.touch()


if __name__ == "__main__":
    # The engine's other modules take the table when they are imported: so this comes first.
    registry.NODES = MappingProxyType({**registry.NODES, Gated.schema.name: Gated})
    from comfy_remote.sandbox.__main__ import main

    sys.exit(main())
