"""Reading a workflow from any file that holds one; anything else is refused with its reason.

JSON in API format or UI format; or a picture, video, sound or model that ComfyUI saved, which
holds the prompt that made it and the workflow that it came from.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ..advice import Hint
from ..data_class import dataclass
from ..errors import LocalStorageError, WorkflowInvalid
from ..json_text import has_more_values
from ..types import JsonValue
from ..units import size_text
from .change.variables import fill_in, variables_in
from .interface import REMOTE_INPUT, REMOTE_OUTPUT, REMOTE_PART, REMOTE_SHOWN
from .json_document import (
    EXPORT,
    MOST_VALUES,
    decode,
    in_ui_format,
    is_ui_format,
    parse_json,
)
from .prompt import Node, Prompt, is_link

if TYPE_CHECKING:
    from .metadata import Metadata

__all__ = [
    "LoadedWorkflow",
    "filled_workflow",
    "is_packed",
    "load_workflow",
    "parse_prompt",
    "parse_workflow",
    "read_workflow",
]

_MAX_JSON_BYTES = 64 * 1024 * 1024
_SIGNATURE_BYTES = 16
_PACKED_SIGNATURE = b"PK\x03\x04"
_JSON_STARTS = (b"{", b"[", b" ", b"\n", b"\r", b"\t")
_SPOOL_BYTES = 8 * 1024 * 1024
_BLOCK = 1024 * 1024
_BY_FILE = "Save it to a file with enough space, and name that."
_API, _UI = "workflow in API format", "workflow in UI format"
_PACKED = "packed workflow"
_REQUEST = "request to a RunPod endpoint"


@dataclass(frozen=True, slots=True)
class LoadedWorkflow:
    """What was found: at least one of `prompt` and `workflow`.

    Attributes:
        source: The file's path, or "standard input".
        found: What it is, for people: "workflow in UI format", "PNG picture".
        prompt: API format: what ran, or is to run. It takes precedence over `workflow`.
        workflow: UI format: what the editor shows; embedded in the outputs of a run.
        variables: The names that were filled in.
        left_out: Other keys of the request that held the workflow.
    """

    source: str
    found: str
    prompt: Prompt | None
    workflow: dict[str, JsonValue] | None
    variables: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()

    def describe(self) -> str:
        """A sentence for people: what was found, and what is in it."""
        if self.found in (_API, _UI, _PACKED):
            return f"{self.source} is a {self.found}."
        if self.found == _REQUEST:
            others = f" Not taken from it: {', '.join(self.left_out)}." if self.left_out else ""
            return f"{self.source} is a {self.found}; its workflow is taken.{others}"
        if self.prompt is None:
            held = "with its workflow, but not the prompt that ran"
        elif self.workflow is None:
            held = "with the prompt that made it"
        else:
            held = "with the prompt that made it, and its workflow"
        article = "an" if self.found.startswith(("AV", "MP", "Ogg", "SVG")) else "a"
        return f"{self.source} is {article} {self.found} {held}."


def load_workflow(
    path: Path | str,
    *,
    variables: Mapping[str, str] | None = None,
    largest_stream: int = 2**30,
) -> LoadedWorkflow:
    """Read what is in a file; ``-`` is standard input.

    Args:
        path: A JSON file in API or UI format, or a PNG, WebP, JPEG, AVIF, SVG, MP4, MOV, WebM,
            MKV, FLAC, MP3, Ogg, Opus, GLB or latent file that ComfyUI saved with its metadata; or a
            packed workflow, of which the input files are left in it (`jobs.unpacked` has them).
        variables: What to fill in for ``${NAME}`` in a JSON file; ``None`` leaves the file as
            it is. Texts in pictures and other outputs are never changed.
        largest_stream: Bytes that are read of a pipe, which may have no end.

    Raises:
        LocalStorageError: There is no room for what a pipe holds.
        WorkflowInvalid: There is no such file, it is not one of these, it is cut off, it has no
            workflow in it, or its structure is wrong. Says which.
    """
    if str(path) == "-":
        return _spooled(sys.stdin.buffer, "standard input", variables, largest_stream)
    try:
        with Path(path).open("rb") as file:
            if not file.seekable():
                return _spooled(file, str(path), variables, largest_stream)
            return read_workflow(file, str(path), variables=variables)
    except FileNotFoundError:
        advice = "Check the path."
        if str(path).startswith(("http:", "https:")):  # a Path has one of the two slashes
            advice = Hint.DOWNLOAD_WORKFLOW()
        raise WorkflowInvalid(f"There is no file {path}.", advice=advice) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if Path(path).is_dir():  # "Permission denied" on Windows
            raise WorkflowInvalid(
                f"{path} is a folder, not a workflow.", advice="Name a file in it."
            ) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WorkflowInvalid(f"{path} cannot be read: {reason}.") from error


def read_workflow(
    file: BinaryIO, name: str, *, variables: Mapping[str, str] | None = None
) -> LoadedWorkflow:
    """`load_workflow` for an open file, seekable and at its start; ``name`` begins messages."""
    if file.read(len(_PACKED_SIGNATURE)) == _PACKED_SIGNATURE:
        return _from_packed(file, name, variables)
    file.seek(0)
    if (metadata := _metadata(file, name)) is not None:
        return _from_metadata(metadata, name)
    data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise WorkflowInvalid(f"{name} is too large to be a workflow.", advice=EXPORT)
    text = decode(data, name)
    if variables is None:
        return parse_workflow(parse_json(text, name), name)
    return filled_workflow(text, variables, name)


def filled_workflow(text: str, variables: Mapping[str, str], name: str) -> LoadedWorkflow:
    """The workflow in a JSON text, with what ``${NAME}`` in it stands for.

    Raises:
        WorkflowInvalid: A variable has no value, or there is no workflow in it.
    """
    loaded = parse_workflow(parse_json(fill_in(text, variables, name), name), name)
    return replace(loaded, variables=frozenset(variables_in(text)))


def parse_workflow(document: JsonValue, name: str = "The workflow") -> LoadedWorkflow:
    """The workflow in a document, in API format or UI format.

    Also in what is posted to ComfyUI, ``{"prompt": {…}, "extra_data": {…}}``, and in a request to
    a RunPod endpoint, ``{"input": {"workflow": {…}}}``.

    Raises:
        WorkflowInvalid: There is none; ``name`` begins the message.
    """
    if is_ui_format(document):
        return LoadedWorkflow(name, _UI, None, document)
    if (request := _request(document)) is not None:
        inner = parse_workflow(request["workflow"], name)
        others = tuple(key for key, value in request.items() if value and key != "workflow")
        return replace(inner, found=_REQUEST, left_out=others)
    prompt = parse_prompt(document, name)
    posted = document
    for key in ("extra_data", "extra_pnginfo", "workflow"):
        posted = posted.get(key) if isinstance(posted, dict) else None
    return LoadedWorkflow(name, _API, prompt, posted if is_ui_format(posted) else None)


def parse_prompt(
    document: JsonValue, name: str = "The workflow", *, check_links: bool = True
) -> Prompt:
    """Check that a document is an API-format prompt, or ``{"prompt": {…}}`` with one.

    A link to a missing node is refused, unless ``check_links`` is off.

    Raises:
        WorkflowInvalid: It is not; ``name`` begins the message.
    """
    if not isinstance(document, dict):
        raise WorkflowInvalid(
            f"{name} is JSON, but not a workflow: it is {_kind(document)}, not an object.",
            advice=EXPORT,
        )
    if is_ui_format(document):
        raise in_ui_format(name)
    inner = document.get("prompt")
    if isinstance(inner, dict) and "class_type" not in document and "inputs" not in inner:
        document = inner
    if not document:
        raise WorkflowInvalid(f"{name} is empty: it has no nodes.", advice=EXPORT)
    prompt = {node_id: _node(name, node_id, node) for node_id, node in document.items()}
    if check_links:
        _check_links(name, prompt)
    return prompt


def _request(document: JsonValue) -> dict[str, JsonValue] | None:
    """The input of a request to a RunPod endpoint; ``None`` for anything else."""
    request = document.get("input") if isinstance(document, dict) else None
    if isinstance(request, dict) and isinstance(request.get("workflow"), dict):
        return None if "class_type" in request else request
    return None


def is_packed(path: Path) -> bool:
    """Whether a file is a zip, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PACKED_SIGNATURE)) == _PACKED_SIGNATURE
    except (OSError, ValueError):
        return False


def _from_packed(file: BinaryIO, name: str, variables: Mapping[str, str] | None) -> LoadedWorkflow:
    """The workflow alone, without addresses that nobody has trusted."""
    from .packed import packed_files, without_addresses  # here: few workflows are packed

    text = decode(packed_files(file, name).workflow, name)
    text = json.dumps(without_addresses(parse_json(text, name)), ensure_ascii=False)
    if variables is not None:
        return replace(filled_workflow(text, variables, name), found=_PACKED)
    return replace(parse_workflow(parse_json(text, name), name), found=_PACKED)


def _spooled(
    file: BinaryIO, name: str, variables: Mapping[str, str] | None, largest: int
) -> LoadedWorkflow:
    """Read from a pipe, by way of a temporary file if it is large."""
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
        size = 0
        while block := file.read(_BLOCK):
            size += len(block)
            if size > largest:  # what never ends would fill the disk
                raise WorkflowInvalid(
                    f"{name} is larger than {size_text(largest)}.", advice=_BY_FILE
                )
            try:
                spool.write(block)
            except OSError as error:
                raise LocalStorageError(
                    f"There is no room for {name} in {tempfile.gettempdir()}: {error.strerror}.",
                    advice=_BY_FILE,
                ) from error
        spool.seek(0)
        return read_workflow(cast("BinaryIO", spool), name, variables=variables)


def _metadata(file: BinaryIO, name: str) -> Metadata | None:
    """The texts in a file, at its start, of a known format; ``None`` for anything else (JSON)."""
    start = file.read(_SIGNATURE_BYTES)
    file.seek(0)
    if start[:1] in _JSON_STARTS and b"\0" not in start:
        return None
    from ..media.formats import Malformed, format_of  # here: JSON needs none of it
    from .metadata import read_metadata

    known = format_of(start)
    if known is None:
        return None
    try:
        return read_metadata(file, known)
    except Malformed as error:
        raise WorkflowInvalid(
            f"{name} ({known.kind}) cannot be read: {error}.",
            advice="Fetch or save the file again.",
            details={"kind": known.kind},
        ) from error


def _from_metadata(metadata: Metadata, name: str) -> LoadedWorkflow:
    prompt_text, workflow_text = metadata.texts.get("prompt"), metadata.texts.get("workflow")
    # NaN is what ComfyUI writes for a node that always runs again.
    workflow = _embedded(workflow_text, nan_to_null=True)
    document = _embedded(prompt_text)
    if is_ui_format(document) and workflow is None:  # some savers mix them up
        workflow, document = document, None
    found = workflow if is_ui_format(workflow) else None
    if isinstance(document, dict) and document:
        try:
            prompt = parse_prompt(document, f"The prompt in {name}")
        except WorkflowInvalid:
            if found is None or any(
                isinstance(n, dict) and "class_type" in n for n in document.values()
            ):
                raise
            prompt = None  # a saver that means something else by "prompt"
        if found is not None and prompt is not None and _is_piece(prompt):
            prompt = None  # only the local part of a prompt whose parts ran elsewhere
        return LoadedWorkflow(name, metadata.kind, prompt, found)
    if found is None:
        raise _no_workflow(metadata, name)
    return LoadedWorkflow(name, metadata.kind, None, found)


def _is_piece(prompt: Prompt) -> bool:
    """Whether nodes of it stand for what ran elsewhere: see `workflow.cut`."""
    return any(
        node["class_type"] in (REMOTE_PART, REMOTE_SHOWN)
        or (
            node["class_type"] in (REMOTE_INPUT, REMOTE_OUTPUT)
            and node_id.startswith(("remote_input_", "remote_output_"))
        )
        for node_id, node in prompt.items()
    )


def _embedded(text: str | None, *, nan_to_null: bool = False) -> JsonValue:
    """The document in a text of a file; ``None`` if it is not JSON (a prompt in words)."""
    if text is None or has_more_values(text, MOST_VALUES):
        return None
    try:
        if nan_to_null:
            return cast("JsonValue", json.loads(text, parse_constant=lambda _: None))
        return cast("JsonValue", json.loads(text))
    except (ValueError, RecursionError):
        return None


def _no_workflow(metadata: Metadata, name: str) -> WorkflowInvalid:
    if "parameters" in metadata.texts:
        return WorkflowInvalid(
            f"{name} ({metadata.kind}) was made by AUTOMATIC1111's web UI or one like it: it holds "
            "parameters, not a ComfyUI workflow.",
            advice="Build the workflow in ComfyUI (its editor can open such a picture) and "
            "save it.",
            details={"kind": metadata.kind},
        )
    if metadata.texts.keys() & {"prompt", "workflow"}:
        return WorkflowInvalid(
            f"{name} ({metadata.kind}) holds a prompt or workflow, but not one of ComfyUI's: it "
            "is not JSON, or not of that shape.",
            advice="Take a file that ComfyUI saved, or a workflow in JSON.",
            details={"kind": metadata.kind},
        )
    return WorkflowInvalid(
        f"{name} ({metadata.kind}) has no workflow in it.",
        advice="Programs that edit or send pictures often remove it. Take the file as ComfyUI "
        "saved it (without --disable-metadata), or the workflow in JSON.",
        details={"kind": metadata.kind},
    )


def _node(name: str, node_id: str, value: JsonValue) -> Node:
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        raise WorkflowInvalid(
            f"{name} is not an API-format workflow: {node_id!r} is not a node with a class_type.",
            advice=EXPORT,
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
            if is_link(value) and value[0] not in prompt:
                raise WorkflowInvalid(
                    f"{name}: input {key} of node {node_id} ({node['class_type']}) is linked to "
                    f"node {value[0]}, which is not there.",
                    advice="Connect it again in ComfyUI and export the workflow again.",
                    details={"node_id": node_id, "input": key},
                )


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
