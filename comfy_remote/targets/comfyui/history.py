"""What ComfyUI's ``/history`` says of a prompt, as a `Finished` event. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urlencode

from ...advice import Hint
from ...errors import (
    ComfyRemoteError,
    ExecutionFailed,
    JobCancelled,
    OutOfMemory,
    WorkflowInvalid,
)
from ...events import Finished, JobState, ShownValues
from ...media.files import subfolder_of
from ...media.remote_values import VALUES_KEY, blake3_in_name, sha256_in_name
from ...outputs import (
    TEXT_KEYS,
    OutputProblem,
    OutputSource,
    RemoteOutput,
    kind_of,
    media_type_of,
)
from ...types import JsonValue
from ...workflow.change.file_names import below_output, is_absolute
from ...workflow.output_nodes import OUTPUT_NODES
from ...workflow.prompt import Prompt

__all__ = [
    "began_at",
    "execution_error",
    "finished_from_history",
    "named_file",
    "outputs_of_node",
    "shown_by_node",
    "silent_savers",
]

_SILENT_SAVERS = {name for name, node in OUTPUT_NODES.items() if not node.lists_files}
_SAVED_TEXTS = frozenset({".csv", ".json", ".md", ".txt"})  # as `SaveText` writes them
_LONGEST_TRACEBACK = 8000
_FILE_KEYS = {"filename", "subfolder", "type"}


def finished_from_history(entry: dict[str, JsonValue], prompt: Prompt) -> Finished:
    """The end of a job, from its history entry (present only once the prompt has ended)."""
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = list(_messages(status.get("messages")))
    outputs, shown = tuple(_outputs(entry, prompt)), _shown(entry)
    cached = [data.get("nodes") for name, data in messages if name == "execution_cached"]
    details: dict[str, JsonValue] = {"cached_nodes": cached[0]} if cached and cached[0] else {}
    error: ComfyRemoteError | None = None
    if status.get("status_str") == "error":
        error = ExecutionFailed(
            "ComfyUI failed the job and gave no reason.", advice="Look at ComfyUI's own log."
        )
    for name, data in messages:
        if name == "execution_interrupted":
            error = JobCancelled("The job was interrupted on the target.", details=_where(data))
            return Finished(JobState.CANCELLED, error)
        if name == "execution_error":
            error = execution_error(data)
            break
    state = JobState.SUCCEEDED if error is None else JobState.FAILED
    return Finished(state, error, outputs, details, shown=shown)


def began_at(entry: dict[str, JsonValue]) -> float | None:
    """When a prompt began, in seconds since the epoch by the clock of the target."""
    status = entry.get("status")
    messages = status.get("messages") if isinstance(status, dict) else None
    for name, data in _messages(messages):
        moment = data.get("timestamp")
        if name == "execution_start" and isinstance(moment, int | float):
            return moment / 1000
    return None


def silent_savers(prompt: Prompt, outputs: Iterable[RemoteOutput]) -> list[OutputProblem]:
    """The nodes that save files without listing them: ComfyUI's API does not give these out."""
    known = {output.drawn_node for output in outputs}
    return [
        OutputProblem(
            node_id,
            node["class_type"],
            None,
            "it does not list the files that it saved; they are in ComfyUI's output folder",
        )
        for node_id, node in prompt.items()
        if node["class_type"] in _SILENT_SAVERS and node_id not in known
    ]


def execution_error(data: dict[str, JsonValue]) -> ComfyRemoteError:
    """The error behind an ``execution_error`` message."""
    where = _where(data)
    node = f"{where['node_class'] or 'A node'} (node {where['node_id'] or 'not named'})"
    kind = str(data.get("exception_type", ""))
    said = str(data.get("exception_message", "")).strip() or kind or "no reason given"
    trace = data.get("traceback")
    lines = trace if isinstance(trace, list) else [trace or ""]
    details = {
        **where,
        "exception_type": kind,
        "traceback": "".join(map(str, lines))[-_LONGEST_TRACEBACK:],
    }
    # torch.cuda.OutOfMemoryError until torch 2.5, torch.OutOfMemoryError since; Python's own
    # is MemoryError; "Allocation on device" is what torch says on AMD and DirectML.
    memory = kind.endswith(("OutOfMemoryError", "MemoryError")) or "Allocation on device" in said
    if memory:
        return OutOfMemory(
            f"{node} ran out of memory: {said}",
            advice="Use a smaller size or batch, a smaller (quantised) model, or a target with "
            "more memory.",
            details=details,
        )
    return ExecutionFailed(f"{node} failed: {said}", advice=Hint.NODE_FAILED(), details=details)


def outputs_of_node(node_id: str, ui: JsonValue) -> Iterator[RemoteOutput]:
    """The outputs in one node's ``ui`` dictionary, in its own order.

    Files are taken from any list of ``{filename, subfolder, type}``, whatever its key
    (``images``, ``gifs``, ``audio``, ``3d`` …): custom nodes choose their own. The same file
    under two keys is listed once. Texts are lists of strings under ``text``, and a model that
    is shown in 3D is a path under ``result``. A text that the node has saved is its file alone
    (``SaveText`` lists both).
    """
    if not isinstance(ui, dict):
        return
    seen: set[tuple[str, str, str]] = set()
    for key, values in ui.items():
        if not isinstance(values, list) or (key == "text" and _are_saved(values, ui.get("files"))):
            continue
        for index, value in enumerate(values):
            file = _named_file(key, value)
            if file is not None:
                output = _file(node_id, key, file)
                identity = (output.folder, output.subfolder, output.filename)
                if identity not in seen:
                    seen.add(identity)
                    yield output
            elif key in TEXT_KEYS and isinstance(value, str):
                yield RemoteOutput(
                    node_id=node_id,
                    kind="text",
                    filename=f"{node_id}_{key}_{index}.txt",
                    media_type="text/plain",
                    size=len(value.encode("utf-8", "replace")),
                    text=value,
                    key=key,
                )


def _are_saved(texts: list[JsonValue], files: JsonValue) -> bool:
    """Whether a node has saved the texts that it shows: there are as many files of text."""
    named = [_named_file("files", file) for file in files] if isinstance(files, list) else []
    saved = [
        file
        for file in named
        if file is not None
        and PurePosixPath(str(file["filename"])).suffix.lower() in _SAVED_TEXTS
        and file.get("type") == "output"
    ]
    return bool(saved) and len(saved) == len(texts)


def shown_by_node(ui: JsonValue) -> ShownValues:
    """What one node's ``ui`` dictionary has besides its outputs; empty if that is nothing."""
    if not isinstance(ui, dict):
        return {}
    listed = Counter(output.key for output in outputs_of_node("", ui))
    shown: dict[str, JsonValue] = {
        key: None if key == VALUES_KEY or _is_listed(values, listed[key]) else values
        for key, values in ui.items()
    }
    return shown if any(values is not None for values in shown.values()) else {}


def _is_listed(values: JsonValue, outputs: int) -> bool:
    """Whether a key's values are its outputs and nothing else."""
    if not isinstance(values, list) or not values or len(values) != outputs:
        return False
    return all(
        isinstance(value, str) or (isinstance(value, dict) and value.keys() == _FILE_KEYS)
        for value in values
    )


def named_file(key: str, value: JsonValue) -> tuple[object, ...] | None:
    """The file that a value under a key of a node's ``ui`` names, as `RemoteOutput.file` does."""
    file = _named_file(key, value)
    return None if file is None else _file("", key, file).file


def _named_file(key: str, value: JsonValue) -> dict[str, JsonValue] | None:
    """``{filename, subfolder?, type?}``, if the value names a file."""
    if isinstance(value, dict):
        return value if isinstance(value.get("filename"), str) else None
    if key == "result" and isinstance(value, str) and kind_of(value) == "3d":
        # Preview3D's way: the path below the output folder.
        path = PurePosixPath(value.replace("\\", "/"))
        return {"filename": path.name, "subfolder": subfolder_of(path)}
    return None


def _file(node_id: str, key: str, value: dict[str, JsonValue]) -> RemoteOutput:
    filename = str(value["filename"])
    subfolder = str(value.get("subfolder") or "")
    folder = str(value.get("type") or "output")
    # A value file is named by its content: what arrives can be checked.
    by_content = filename if key == VALUES_KEY else ""
    query = urlencode({"filename": filename, "subfolder": subfolder, "type": folder})
    return RemoteOutput(
        node_id=node_id,
        kind=kind_of(filename),
        filename=filename,
        subfolder=_below_folder(subfolder),
        folder=folder,
        media_type=media_type_of(filename),
        sha256=sha256_in_name(by_content),
        blake3=blake3_in_name(by_content),
        source=OutputSource(path=f"view?{query}"),
        key=key,
    )


def _below_folder(subfolder: str) -> str:
    """The subfolder with ``/``, relative also where the prompt named a whole path."""
    text = subfolder.replace("\\", "/")  # a ComfyUI on Windows
    if not is_absolute(text):
        return text
    try:
        return below_output(text).removeprefix(".")
    except WorkflowInvalid:  # its output folder is elsewhere
        return PurePosixPath(text).name


def _outputs(entry: dict[str, JsonValue], prompt: Prompt) -> Iterator[RemoteOutput]:
    outputs = entry.get("outputs")
    outputs = outputs if isinstance(outputs, dict) else {}
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    order = {node_id: index for index, node_id in enumerate(prompt)}

    def drawn(node_id: str) -> str:
        # A node that another expanded into stands where the drawn one stands.
        node = meta.get(node_id)
        shown = node.get("display_node") if isinstance(node, dict) else None
        return shown if isinstance(shown, str) else node_id

    for node_id in sorted(outputs, key=lambda n: order.get(drawn(n), len(order))):
        yield from outputs_of_node(node_id, outputs[node_id])


def _shown(entry: dict[str, JsonValue]) -> dict[str, ShownValues]:
    outputs = entry.get("outputs")
    by_node = outputs if isinstance(outputs, dict) else {}
    shown = {node_id: shown_by_node(ui) for node_id, ui in by_node.items()}
    return {node_id: values for node_id, values in shown.items() if values}


def _messages(messages: JsonValue) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    for message in messages if isinstance(messages, list) else []:
        match message:
            case [str(name), dict(data)]:
                yield name, data


def _where(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"node_id": data.get("node_id"), "node_class": data.get("node_type")}
