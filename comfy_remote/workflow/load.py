"""Reading a workflow file: what it is, and a clear word when it is something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import WorkflowInvalid
from .prompt import Node, Prompt, is_link

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["load_prompt", "parse_prompt", "refuse_constant"]


def load_prompt(path: Path) -> Prompt:
    """Read an API-format prompt from a JSON file.

    Raises:
        WorkflowInvalid: There is no such file, it is not JSON, it is a workflow in UI format,
            or its structure is wrong. Names the node and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise WorkflowInvalid(f"There is no file {path}.", advice="Check the path.") from None
    except UnicodeDecodeError:
        raise WorkflowInvalid(
            f"{path} is not a text file.",
            advice="Export the workflow from ComfyUI: Workflow > Export (API).",
        ) from None
    except OSError as error:
        raise WorkflowInvalid(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        # Python's reader takes NaN and Infinity, which JSON and every other reader refuse.
        document = json.loads(text, parse_constant=refuse_constant)
    except ValueError as error:
        raise WorkflowInvalid(
            f"{path} is not valid JSON: {error}.",
            advice="Export the workflow again from ComfyUI: Workflow > Export (API).",
        ) from None
    except RecursionError:
        raise WorkflowInvalid(f"{path} is nested too deeply to be a workflow.") from None
    return parse_prompt(document, str(path))


def parse_prompt(document: JsonValue, name: str = "The workflow") -> Prompt:
    """Check that a document is an API-format prompt, and give it its type.

    A document ``{"prompt": {…}}`` (what is posted to ComfyUI) is taken as its prompt.

    Raises:
        WorkflowInvalid: It is not; ``name`` begins the message.
    """
    if not isinstance(document, dict):
        raise WorkflowInvalid(
            f"{name} is JSON, but not a workflow: it is {_kind(document)}, not an object.",
            advice="Export the workflow from ComfyUI: Workflow > Export (API).",
        )
    if isinstance(document.get("nodes"), list):
        raise WorkflowInvalid(
            f"{name} is a workflow in UI format (what Save writes), which cannot run as it is.",
            advice="Export it from ComfyUI with Workflow > Export (API), in older versions "
            "Save (API Format).",
            details={"format": "ui"},
        )
    inner = document.get("prompt")
    if isinstance(inner, dict) and "class_type" not in document and "inputs" not in inner:
        document = inner
    if not document:
        raise WorkflowInvalid(
            f"{name} is empty: it has no nodes.",
            advice="Export the workflow from ComfyUI: Workflow > Export (API).",
        )
    prompt = {node_id: _node(name, node_id, node) for node_id, node in document.items()}
    _check_links(name, prompt)
    return prompt


def _node(name: str, node_id: str, value: JsonValue) -> Node:
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        raise WorkflowInvalid(
            f"{name} is not an API-format workflow: {node_id!r} is not a node with a class_type.",
            advice="Export the workflow from ComfyUI: Workflow > Export (API).",
            details={"node_id": node_id},
        )
    inputs = value.get("inputs", {})
    if not isinstance(inputs, dict):
        raise WorkflowInvalid(
            f"{name}: the inputs of node {node_id} ({value['class_type']}) are "
            f"{_kind(inputs)}, not an object.",
            details={"node_id": node_id},
        )
    try:
        json.dumps(inputs, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WorkflowInvalid(
            f"{name}: the inputs of node {node_id} ({value['class_type']}) cannot be written as "
            f"JSON: {error}.",
            details={"node_id": node_id},
        ) from None
    node: Node = {"class_type": str(value["class_type"]), "inputs": dict(inputs)}
    meta = value.get("_meta")
    if isinstance(meta, dict) and isinstance(meta.get("title"), str):
        node["_meta"] = {"title": str(meta["title"])}
    return node


def _check_links(name: str, prompt: Prompt) -> None:
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if is_link(value) and isinstance(value, list) and value[0] not in prompt:
                raise WorkflowInvalid(
                    f"{name}: input {key} of node {node_id} ({node['class_type']}) is linked to "
                    f"node {value[0]}, which is not there.",
                    advice="Connect it again in ComfyUI and export the workflow anew.",
                    details={"node_id": node_id, "input": key},
                )


def refuse_constant(constant: str) -> JsonValue:
    """For `json.loads`: no ``NaN`` and no ``Infinity``, which JSON does not have."""
    raise ValueError(f"{constant} is not JSON")


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case list():
            return "a list"
        case str():
            return "a text"
        case dict():
            return "an object"
        case _:
            return "a number"
