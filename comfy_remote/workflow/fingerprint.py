"""A stable hash of what a prompt means: the same for two prompts that give the same outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ..errors import WorkflowInvalid
from ..types import JsonValue
from .files import file_uses, with_names
from .graph import execution_order, output_nodes
from .prompt import Prompt, is_link
from .schema import Schemas

__all__ = ["fingerprint"]

# Hashed along, so that a change of the rules below changes every fingerprint.
_RULES = "comfy-remote fingerprint 1"


def fingerprint(
    prompt: Prompt,
    *,
    file_hashes: Mapping[str, str] | None = None,
    schemas: Schemas | None = None,
) -> str:
    """The SHA-256 of a prompt's meaning, 64 lower-case hex digits.

    Ignored: node ids, the order of nodes and of inputs, ``_meta`` (titles), and nodes that feed
    no output. Included: classes, every input's name and value, which output of which node is
    linked to it, and how many outputs of a kind there are. The prefixes of file names are
    included, since they change the names of the outputs.

    - Numbers are equal as in JSON: ``1`` is ``1.0``, which ComfyUI's editor cannot distinguish
      either. ``true`` is not ``1``, and ``"1"`` is not ``1``.
    - ``{"__value__": [...]}`` is the list inside, as for ComfyUI.
    - A node that is used twice is the same as two equal nodes used once each.
    - Models count by name: a file replaced under the same name is not noticed.

    Args:
        file_hashes: SHA-256 of files that the prompt loads, by the name in `FileUse`. These count
            by their content, all others by their name.
        schemas: Say which nodes are outputs: see `graph.output_nodes`. Without them, a branch
            that ends in a node which is not an output (a decode nobody saves) counts as well.

    Raises:
        WorkflowInvalid: No node is an output, the links form a cycle or lead nowhere,
            or a number is not finite.
    """
    outputs = output_nodes(prompt, schemas)
    if not outputs:
        execution_order(prompt, list(prompt))  # a cycle is the better explanation
        raise WorkflowInvalid(
            "No node of the workflow is an output.",
            advice="Add one, for example Save Image, and export the workflow again.",
        )
    contents = _contents(prompt, file_hashes or {}, schemas)
    digests: dict[str, str] = {}
    for node_id in execution_order(prompt, outputs):
        node = prompt[node_id]
        inputs: dict[str, JsonValue] = {
            name: contents.get((node_id, name)) or _meaning(node_id, value, digests)
            for name, value in node["inputs"].items()
        }
        digests[node_id] = _sha256(node_id, [node["class_type"], inputs])
    made: list[JsonValue] = [*sorted(digests[node_id] for node_id in outputs)]
    return _sha256("", [_RULES, made])


def _contents(
    prompt: Prompt, file_hashes: Mapping[str, str], schemas: Schemas | None
) -> dict[tuple[str, str], dict[str, JsonValue]]:
    """What stands for the inputs that name a file of known content."""
    known = {
        use: file_hashes[use.name] for use in file_uses(prompt, schemas) if use.name in file_hashes
    }
    hashed = with_names(prompt, known)
    contents: dict[tuple[str, str], dict[str, JsonValue]] = {}
    for use, digest in known.items():
        one = prompt[use.node_id]["inputs"][use.input] == use.value
        # If there are several names in a list or an object, the rest of it also counts.
        several = _literal(use.node_id, hashed[use.node_id]["inputs"][use.input])
        contents[use.node_id, use.input] = {"file": digest} if one else {"files": several}
    return contents


def _meaning(node_id: str, value: JsonValue, digests: Mapping[str, str]) -> dict[str, JsonValue]:
    """What stands for an input: tagged, so that no text can pass for a link or a file."""
    if is_link(value):
        return {"link": digests[str(value[0])], "output": _literal(node_id, value[1])}
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    return {"value": _literal(node_id, value)}


def _literal(node_id: str, value: JsonValue) -> JsonValue:
    """The value with numbers as they are compared; it is written by `_sha256`."""
    try:
        return _with_whole_numbers(value)
    except RecursionError:
        raise WorkflowInvalid(
            f"A value of node {node_id} is nested too deeply.", details={"node_id": node_id}
        ) from None


def _with_whole_numbers(value: JsonValue) -> JsonValue:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(one) for one in value]
        case dict():
            return {name: _with_whole_numbers(one) for name, one in value.items()}
        case _:
            return value


def _sha256(node_id: str, document: JsonValue) -> str:
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(
            f"A value of node {node_id} cannot be written as JSON: {error}.",
            details={"node_id": node_id},
        ) from None
    return hashlib.sha256(text.encode("ascii")).hexdigest()
