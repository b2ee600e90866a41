"""``worker-comfyui``: the answers of the public RunPod worker (its README, 5.0 and later)."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, JsonValue

__all__ = ["WorkerComfyUIAnswer", "WorkerComfyUIImage", "node_in"]

# An output that the workflow made and the worker could not return.
_OF_ONE_FILE = re.compile(
    r"(Error (uploading|encoding) .+|Failed to fetch image data .+|Skipping image in node .+)",
    re.DOTALL,
)
_EXECUTION_ERROR = re.compile(r"Node Type: (?P<type>.+?), Node ID: (?P<id>[^,\s]+), Message:")


class WorkerComfyUIImage(BaseModel):
    """One file: its bytes in base64, or the address of an object in a bucket."""

    filename: str
    type: Literal["base64", "s3_url"]
    data: str


class WorkerComfyUIAnswer(BaseModel):
    """A result: only the saved files that nodes list as images.

    Attributes:
        images: In the order in which the nodes ran. Names need not be unique, since their folders
            are missing.
        errors: What went wrong, also in a workflow that failed after a file was saved: that job
            is completed for RunPod.
        status: ``success_no_images`` if there are none.
    """

    images: list[WorkerComfyUIImage] = []
    errors: list[str] | None = None
    status: Literal["success_no_images"] | None = None

    @property
    def failures(self) -> list[str]:
        """The errors that mean that the workflow failed: all but those of single files."""
        return [line for line in self.errors or [] if not _OF_ONE_FILE.match(line)]


def node_in(line: str) -> dict[str, JsonValue]:
    """``node_id`` and ``node_class``, if an error's line names a node."""
    found = _EXECUTION_ERROR.search(line)
    if found is None:
        return {}
    return {"node_id": found["id"], "node_class": found["type"]}
