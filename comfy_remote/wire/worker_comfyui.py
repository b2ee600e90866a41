"""``worker-comfyui``: the answers of the public RunPod worker (its README, 5.0 and later)."""

from __future__ import annotations

import ast
import re
from typing import Literal

from pydantic import BaseModel, JsonValue, TypeAdapter

from ..json_text import parse_json

__all__ = ["WorkerComfyUIAnswer", "WorkerComfyUIImage", "node_in", "refusal_in"]

# An output that the workflow made and the worker could not return.
_OF_ONE_FILE = re.compile(
    r"(Error (uploading|encoding) .+|Failed to fetch image data .+|Skipping image in node .+)",
    re.DOTALL,
)
# A line for each key of what ComfyUI says of a node, its value as Python writes it.
_OF_A_NODE = re.compile(r"^• Node (?P<id>[^\s(]+) \((?P<key>\w+)\): (?P<value>.+)$", re.MULTILINE)
_RAW = re.compile(r"\. Raw response: (?P<answer>\{.*\})\s*$", re.DOTALL)
_LONGEST_VALUE = 64 * 1024  # characters
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
        message: Then, why there are none; the public worker says nothing.
    """

    images: list[WorkerComfyUIImage] = []
    errors: list[str] | None = None
    status: Literal["success_no_images"] | None = None
    message: str | None = None

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


def refusal_in(words: str) -> dict[str, JsonValue] | None:
    """ComfyUI's answer ``{"error", "node_errors"}``, if the worker's error has its refusal in it.

    The worker (5.8, `queue_workflow` of its ``handler.py``) writes it as text: a line for each key
    of each node, or the whole answer where that names no node.
    """
    nodes: dict[str, dict[str, JsonValue]] = {}
    for line in _OF_A_NODE.finditer(words):
        node = nodes.setdefault(line["id"], {})
        node[line["key"]] = _value(line["value"]) if line["key"] == "errors" else line["value"]
    if nodes:
        return {"error": {"message": words.partition(":\n")[0]}, "node_errors": {**nodes}}
    raw = _RAW.search(words)
    if raw is None:
        return None
    try:
        answer = parse_json(raw["answer"])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _value(written: str) -> JsonValue:
    """A value of JSON as Python writes it; ``None`` of anything else."""
    if len(written) > _LONGEST_VALUE:
        return None
    try:
        value: JsonValue = ast.literal_eval(written)
        return TypeAdapter[JsonValue](JsonValue).validate_python(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
