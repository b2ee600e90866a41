"""What a workflow takes and gives when it is called: its Remote Input and Remote Output nodes.

A prompt with such nodes is like a function: `Interface.of` is its signature, and `with_values`
fills in the arguments. Values that JSON cannot hold travel as value files (see `media.values`),
which a Remote Input names like a Load Image names its picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from ..data_class import dataclass
from ..errors import WorkflowInvalid
from ..types import JsonValue
from .change.values import did_you_mean, input_schema_of
from .prompt import Node, Place, Prompt, is_link, with_inputs
from .schema import Schemas

if TYPE_CHECKING:
    from ..media.remote_values import ContentHash
    from ..media.values import ImageFormat

__all__ = [
    "ANY",
    "CONTENT_HASH",
    "MOST_PART_VALUES",
    "REMOTE_INPUT",
    "REMOTE_OUTPUT",
    "REMOTE_PART",
    "REMOTE_SHOWN",
    "Argument",
    "Interface",
    "InterfaceInput",
    "InterfaceOutput",
    "ValueFileName",
    "content_hash_in",
    "key_of",
]

REMOTE_INPUT = "ComfyRemoteInput"
REMOTE_OUTPUT = "ComfyRemoteOutput"
REMOTE_PART = "ComfyRemotePart"
"""Stands for nodes of a prompt that run elsewhere: see `workflow.cut`."""
MOST_PART_VALUES = 64
"""Values that may go into a part, and that may come out: a node class has a fixed number. After
those that come out, there is one more output: what the part's nodes show, for `REMOTE_SHOWN`."""
REMOTE_SHOWN = "ComfyRemoteShown"
"""Stands for an output node within a part, and shows what that node shows there."""
CONTENT_HASH = "content_hash"
"""What a Remote Output names its file by, where a caller sets it (see `ContentHash`). The node does
not declare it, so the page shows no such widget, and an older version ignores it."""
ANY = "*"
"""ComfyUI's name for the type that is any type."""

_DEFAULT_KEYS = {REMOTE_INPUT: "payload", REMOTE_OUTPUT: "result"}
_LONGEST_CHAIN = 1000


@dataclass(frozen=True, slots=True)
class ValueFileName:
    """The name of a value file in the target's input folder."""

    name: str


Argument: TypeAlias = "ValueFileName | JsonValue"
"""The value of a key: a value file, or a plain JSON value."""


@dataclass(frozen=True, slots=True)
class InterfaceInput:
    """Where one value of the caller enters.

    Attributes:
        type: ComfyUI's type, as the nodes linked to it want it (``IMAGE``, ``INT``, several
            joined by commas); ``*`` if unknown.
        required: Whether the node has no value of its own.
    """

    key: str
    node_id: str
    type: str
    required: bool


@dataclass(frozen=True, slots=True)
class InterfaceOutput:
    """Where one result leaves."""

    key: str
    node_id: str
    type: str


@dataclass(frozen=True, slots=True)
class Interface:
    """The keys of a prompt, in the order of its nodes."""

    inputs: tuple[InterfaceInput, ...]
    outputs: tuple[InterfaceOutput, ...]

    @classmethod
    def of(cls, prompt: Prompt, schemas: Schemas | None = None) -> Interface:
        """Find the Remote Input and Remote Output nodes; without schemas, all types are ``*``.

        Raises:
            WorkflowInvalid: A key is empty, not a text, or used twice on one side.
        """
        _check_keys(prompt)
        inputs = [
            InterfaceInput(
                key=key_of(node),
                node_id=node_id,
                type=_type_wanted(prompt, node_id, schemas),
                required=not _has_own_value(node),
            )
            for node_id, node in prompt.items()
            if node["class_type"] == REMOTE_INPUT
        ]
        outputs = [
            InterfaceOutput(
                key=key_of(node),
                node_id=node_id,
                type=_type_of(prompt, node["inputs"].get("value"), schemas),
            )
            for node_id, node in prompt.items()
            if node["class_type"] == REMOTE_OUTPUT
        ]
        return cls(tuple(inputs), tuple(outputs))

    def input(self, key: str) -> InterfaceInput:
        """The input of that key; raises `WorkflowInvalid` if there is none."""
        for entry in self.inputs:
            if entry.key == key:
                return entry
        keys = [entry.key for entry in self.inputs]
        raise WorkflowInvalid(
            f"The workflow has no Remote Input with the key {key!r}.{did_you_mean(key, keys)}",
            advice=f"It takes {', '.join(keys)}." if keys else "It takes no inputs.",
            details={"key": key, "keys": [*keys]},
        )

    def with_values(
        self,
        prompt: Prompt,
        values: Mapping[str, Argument],
        *,
        results: bool = True,
        images: ImageFormat = "exact",
        content_hash: ContentHash = "sha256",
    ) -> Prompt:
        """The prompt to run for a call.

        Each Remote Input gets its value; its fallback is unlinked, so that it need not run. Each
        Remote Output is set to send its value.

        Args:
            prompt: Of this interface; not changed.
            values: By key. A plain value becomes one item of the list that Remote Input gives.
            results: Whether there must be one; a workflow that only saves files has none.
            images: How pictures come back; see `media.values.encode`.
            content_hash: What names the files that come back.

        Raises:
            WorkflowInvalid: A key is unknown, or required and missing; a plain value does not fit
                the type; there is no Remote Output.
        """
        if results and not self.outputs:
            raise WorkflowInvalid(
                "The workflow has no Remote Output, so it returns nothing.",
                advice="Connect a Remote Output node (utils/remote) to each result.",
            )
        missing = [entry.key for entry in self.inputs if entry.required and entry.key not in values]
        if missing:
            raise WorkflowInvalid(
                f"The workflow needs a value for {', '.join(missing)}.",
                advice="Give it, or connect a fallback to the Remote Input.",
                details={"missing": [*missing]},
            )
        places: dict[Place, JsonValue] = {}
        entries = [self.input(key) for key in values]
        for entry, value in zip(entries, values.values(), strict=True):
            if isinstance(value, ValueFileName):
                text, file = "", value.name
            else:
                text, file = _json_text(entry, value), ""
            places |= {(entry.node_id, "value"): text, (entry.node_id, "file"): file}
        for output in self.outputs:
            places[output.node_id, "send"] = True
            if images != "exact":
                places[output.node_id, "images"] = images
            if content_hash != "sha256":
                places[output.node_id, CONTENT_HASH] = content_hash
        changed = with_inputs(prompt, places)
        for entry in entries:
            changed[entry.node_id]["inputs"].pop("fallback", None)
        return changed


def _check_keys(prompt: Prompt) -> None:
    seen: dict[tuple[str, str], str] = {}
    for node_id, node in prompt.items():
        kind = node["class_type"]
        if kind not in _DEFAULT_KEYS:
            continue
        key = node["inputs"].get("key", _DEFAULT_KEYS[kind])
        what = "Remote Input" if kind == REMOTE_INPUT else "Remote Output"
        if not isinstance(key, str) or not key.strip():
            raise WorkflowInvalid(
                f"The key of {what} (node {node_id}) is "
                f"{'not a text' if not isinstance(key, str) else 'empty'}.",
                advice="Type a name into its field key, and connect nothing there.",
                details={"node_id": node_id, "input": "key"},
            )
        other = seen.setdefault((kind, key), node_id)
        if other != node_id:
            raise WorkflowInvalid(
                f"Two {what} nodes ({other} and {node_id}) have the key {key!r}.",
                advice="Give each a key of its own.",
                details={"node_id": node_id, "input": "key", "key": key},
            )


def content_hash_in(inputs: Mapping[str, object]) -> ContentHash:
    """What a Remote Output names its file by, as its inputs in a prompt say."""
    return "blake3" if inputs.get(CONTENT_HASH) == "blake3" else "sha256"


def key_of(node: Node) -> str:
    """The key of a Remote Input or Remote Output node."""
    return str(node["inputs"].get("key", _DEFAULT_KEYS[node["class_type"]]))


def _has_own_value(node: Node) -> bool:
    return any(node["inputs"].get(name) not in (None, "") for name in ("fallback", "value", "file"))


def _json_text(entry: InterfaceInput, value: JsonValue) -> str:
    try:
        return json.dumps(_fitting(entry, value), ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise _does_not_fit(entry, value, "only numbers that JSON has") from None


def _fitting(entry: InterfaceInput, value: JsonValue) -> JsonValue:
    """The plain value, checked where the type is one that JSON has."""
    types = set(entry.type.split(","))
    plain = types & {"INT", "FLOAT", "STRING", "BOOLEAN"}
    if not plain or plain != types:
        return value  # the nodes linked to it check that
    if isinstance(value, bool):
        if "BOOLEAN" in types:
            return value
    elif isinstance(value, int | float):
        if "FLOAT" in types and "INT" not in types and math.isfinite(value):
            return float(value)
        whole = isinstance(value, int) or value.is_integer()
        if "INT" in types and whole:
            return int(value)
        if "FLOAT" in types:
            return value
    elif isinstance(value, str) and "STRING" in types:
        return value
    raise _does_not_fit(entry, value, f"a value of type {entry.type}")


def _does_not_fit(entry: InterfaceInput, value: JsonValue, wanted: str) -> WorkflowInvalid:
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    return WorkflowInvalid(
        f"{shown} does not fit the input {entry.key}, which takes {wanted}.",
        details={"key": entry.key, "node_id": entry.node_id},
    )


def _type_wanted(prompt: Prompt, node_id: str, schemas: Schemas | None) -> str:
    """The type of a Remote Input: of the inputs linked to it, else of its fallback."""
    wanted = _type_behind(prompt, node_id, schemas)
    if wanted != ANY:
        return wanted
    return _type_of(prompt, prompt[node_id]["inputs"].get("fallback"), schemas)


def _type_behind(prompt: Prompt, node_id: str, schemas: Schemas | None) -> str:
    """The type of the first input, linked to a node, whose type is known."""
    for other in prompt.values():
        for name, value in other["inputs"].items():
            if not is_link(value) or value[0] != node_id:
                continue
            schema = input_schema_of(other, name, schemas)
            if schema is not None and _says_something(schema.type):
                return schema.type
    return ANY


def _type_of(prompt: Prompt, link: JsonValue, schemas: Schemas | None) -> str:
    """The type of what a link brings, through Remote nodes that only pass it on."""
    for _ in range(_LONGEST_CHAIN):
        if schemas is None or not is_link(link):
            return ANY
        node = prompt.get(str(link[0]))
        if node is None:
            return ANY
        if node["class_type"] == REMOTE_OUTPUT:
            link = node["inputs"].get("value")
            continue
        if node["class_type"] == REMOTE_INPUT:
            wanted = _type_behind(prompt, str(link[0]), schemas)
            if wanted != ANY:
                return wanted
            link = node["inputs"].get("fallback")
            continue
        schema = schemas.get(node["class_type"])
        index = int(str(link[1])) if schema is not None else 0
        if schema is None or not 0 <= index < len(schema.outputs):
            return ANY
        found = schema.outputs[index]
        return found if _says_something(found) else ANY
    return ANY


def _says_something(type_name: str) -> bool:
    # ComfyUI's types that stand for others: COMFY_MATCHTYPE_V3, COMFY_AUTOGROW_V3 …
    return type_name not in (ANY, "UNKNOWN", "") and not type_name.startswith("COMFY_")
