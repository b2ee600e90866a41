"""What a workflow is, in short: what can be set, what it needs, what it makes, how large it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..errors import WorkflowInvalid
from ..outputs import OutputKind
from ..types import JsonValue
from .change.settable import SettableInput, settable_inputs
from .files import file_uses
from .fingerprint import fingerprint
from .graph import execution_order, output_nodes
from .models import Model, find_models
from .output_nodes import OUTPUT_NODES
from .packs import NodePack, find_packs
from .prompt import Node, Prompt
from .repo_list import without_repo_list
from .schema import NodeSchema, Schemas

__all__ = ["LoadedFile", "LocalFile", "MadeOutput", "Summary", "summarize"]

_KIND_OF_TYPE: tuple[tuple[str, OutputKind], ...] = (
    ("VIDEO", "video"),
    ("FILE_3D", "3d"),
    ("MESH", "3d"),
    ("AUDIO", "audio"),
    ("IMAGE", "image"),
    ("MASK", "image"),
    ("STRING", "text"),
)
_WIDGETS = frozenset({"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"})
# What goes around the prompt and the files, when they are sent in one JSON document.
_ENVELOPE = 80
_AROUND_FILE = 120


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine that a prompt loads; ``size`` in bytes."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A file that a node loads; ``file`` is ``None`` where it is not on this machine."""

    node_id: str
    input: str
    name: str
    file: LocalFile | None

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        file = self.file
        return {
            "node_id": self.node_id,
            "input": self.input,
            "name": self.name,
            "path": str(file.path) if file else None,
            "size": file.size if file else None,
            "sha256": file.sha256 if file else None,
        }


@dataclass(frozen=True, slots=True)
class MadeOutput:
    """An output node.

    Attributes:
        kind: Of its outputs; "file" if its class does not tell.
        kept: "saved" in ComfyUI's output folder, or a "preview", which is temporary.
        prefix: How the names of its files begin, if it says so.
    """

    node_id: str
    class_type: str
    title: str
    kind: OutputKind
    kept: Literal["saved", "preview"]
    prefix: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """What `summarize` found.

    Attributes:
        inputs: What can be set.
        models: Those that the nodes that run need.
        files: Those that the nodes that run load from ``input/``.
        nodes: How many there are.
        idle: The ids of nodes that feed no output: they do not run.
        payload: About how many bytes one request has (RunPod's ``/run``), with the prompt, the
            workflow in UI format and the local files in base64.
        fingerprint: ``None`` if `problems` says why there is none.
        problems: What is wrong or unclear, a sentence each.
    """

    inputs: tuple[SettableInput, ...]
    models: tuple[Model, ...]
    files: tuple[LoadedFile, ...]
    packs: tuple[NodePack, ...]
    outputs: tuple[MadeOutput, ...]
    nodes: int
    idle: tuple[str, ...]
    payload: int
    fingerprint: str | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """The whole of it for programs."""
        return {
            "inputs": [one.to_json() for one in self.inputs],
            "models": [one.to_json() for one in self.models],
            "files": [one.to_json() for one in self.files],
            "packs": [one.to_json() for one in self.packs],
            "outputs": [one.to_json() for one in self.outputs],
            "nodes": self.nodes,
            "idle": list(self.idle),
            "payload": self.payload,
            "fingerprint": self.fingerprint,
            "problems": list(self.problems),
        }


def summarize(
    prompt: Prompt,
    *,
    schemas: Schemas,
    workflow: Mapping[str, JsonValue] | None = None,
    files: Mapping[str, LocalFile] | None = None,
) -> Summary:
    """A summary of a prompt.

    Never raises for a prompt that cannot run: the summary says what is wrong with it.

    Args:
        schemas: The target's, or the bundled ones.
        workflow: The same in UI format: it may say where models and nodes come from.
        files: Local files that the prompt loads, by the name in `FileUse`.
    """
    files = files or {}
    sent = without_repo_list(prompt)
    outputs = output_nodes(sent, schemas)
    problems: list[str] = []
    running: Prompt = prompt
    digest = None
    try:
        hashes = {name: file.sha256 for name, file in files.items()}
        digest = fingerprint(prompt, file_hashes=hashes, schemas=schemas)
        needed = set(execution_order(prompt, outputs))
        running = {node_id: node for node_id, node in prompt.items() if node_id in needed}
    except WorkflowInvalid as error:
        problems.append(str(error))
    inputs, unclear = settable_inputs(prompt, schemas)
    loaded = [
        LoadedFile(use.node_id, use.input, use.name, files.get(use.name))
        for use in file_uses(running, schemas)
    ]
    return Summary(
        inputs=tuple(inputs),
        models=tuple(find_models(running, workflow)),
        files=tuple(loaded),
        packs=tuple(find_packs(sent, schemas=schemas, workflow=workflow)),
        outputs=tuple(
            _made(one, prompt[one], schemas.get(prompt[one]["class_type"])) for one in outputs
        ),
        nodes=len(prompt),
        idle=tuple(node_id for node_id in sent if node_id not in running),
        payload=_payload(prompt, workflow, loaded),
        fingerprint=digest,
        problems=(*problems, *unclear),
    )


def _made(node_id: str, node: Node, schema: NodeSchema | None) -> MadeOutput:
    class_type = node["class_type"]
    prefix = node["inputs"].get("filename_prefix")
    saves = "filename_prefix" in node["inputs"] or "save" in class_type.lower()
    # VideoHelperSuite's switch between output/ and temp/.
    saves = saves and "Preview" not in class_type and node["inputs"].get("save_output") is not False
    return MadeOutput(
        node_id=node_id,
        class_type=class_type,
        title=node.get("_meta", {}).get("title") or class_type,
        kind=_kind(class_type, schema),
        kept="saved" if saves else "preview",
        prefix=prefix if isinstance(prefix, str) else None,
    )


def _kind(class_type: str, schema: NodeSchema | None) -> OutputKind:
    known = OUTPUT_NODES.get(class_type)
    if known is not None and known.kind is not None:
        return known.kind
    types: set[str] = set()
    if schema is not None:
        taken = (spec.type for spec in schema.inputs if spec.type not in _WIDGETS)
        types = {one for kinds in (*taken, *schema.outputs) for one in kinds.split(",")}
    for start, kind in _KIND_OF_TYPE:
        if any(one.startswith(start) for one in types):
            return kind
    return "file"


def _payload(
    prompt: Prompt, workflow: Mapping[str, JsonValue] | None, files: list[LoadedFile]
) -> int:
    sent = {one.name: one.file for one in files if one.file is not None}
    in_base64 = sum(4 * ((file.size + 2) // 3) + len(name) for name, file in sent.items())
    documents = len(json.dumps(prompt)) + (len(json.dumps(workflow)) if workflow else 0)
    return _ENVELOPE + documents + in_base64 + _AROUND_FILE * len(sent)
