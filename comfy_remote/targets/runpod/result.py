"""What a worker answered, in any dialect: its outputs, or the error that it calls a result.

A new dialect is a function here, in `_READERS`. Dialects other than ours give names and bytes of
files, but not which node made them; see `worker_comfyui` for what the public one cannot return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import JsonValue, TypeAdapter, ValidationError
from yarl import URL

from ...errors import ComfyRemoteError, OutputLost, node_problems
from ...events import ShownValues
from ...outputs import OutputProblem, OutputSource, RemoteOutput, kind_of, media_type_of
from ...wire.answer import Answer, AnswerOutput, AnswerProblem
from ...wire.plain import ImagesB64Answer, PlainAnswer
from ...wire.request import COMFY_REMOTE_1
from ...wire.runpod import RUN_RESULT_LIMIT, STORE_LARGE_OUTPUTS, error_from_runpod
from ...wire.worker_comfyui import WorkerComfyUIAnswer, refusal_in
from ...workflow.prompt import Prompt
from ..comfyui.queue import refusal_of
from .worker_comfyui import nodes_of_files, not_returned_sentence, nothing_returned

__all__ = ["Result", "error_in", "output_problems", "read_result", "worker_error"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker answered to a job.

    Attributes:
        warnings: For people, a sentence or two each.
        failure: Why the workflow failed, though something came back.
        ours: Whether it is the answer of Comfy Remote's own worker.
        shown: By node, what it shows besides its outputs; ``None`` where the worker does not say.
    """

    outputs: tuple[RemoteOutput, ...]
    warnings: Sequence[str] = ()
    details: dict[str, JsonValue] = field(default_factory=dict)
    failure: ComfyRemoteError | None = None
    ours: bool = False
    shown: Mapping[str, ShownValues] | None = None


def read_result(output: JsonValue, prompt: Prompt) -> Result:
    """A result in any dialect.

    Raises:
        OutputLost: It is missing, or not in a dialect that we know.
    """
    if output is None:
        raise OutputLost(
            "The endpoint says the job is complete, but sent no result.",
            advice=f"It was probably over RunPod's limit of {RUN_RESULT_LIMIT / 1e6:.0f} MB, which "
            f"only the worker's log says. {STORE_LARGE_OUTPUTS}",
        )
    for read in _READERS:
        try:
            found = read(output, prompt)
        except ValidationError:
            continue
        if found is not None:
            return found
    raise OutputLost(
        "The worker's result has a form that this program does not know.",
        advice="Use Comfy Remote's worker or the public worker-comfyui (5.0 or later).",
    )


def error_in(output: JsonValue) -> ComfyRemoteError | None:
    """The error of a worker that returns one as its result: the SDK calls that completed."""
    if not isinstance(output, dict) or "format" in output or output.get("images"):
        return None
    said = output.get("error")
    return worker_error(said, output) if said else None


def worker_error(said: JsonValue, output: JsonValue = None) -> ComfyRemoteError:
    """The error behind a failed job's ``error``: see `wire.runpod.error_from_runpod`.

    A workflow that the public worker-comfyui's ComfyUI refused is as any ComfyUI refuses it.
    """
    answer = refusal_in(said) if isinstance(said, str) else None
    if answer is None:
        return error_from_runpod(said, output)
    error = refusal_of(answer)
    for node_id, node_class, _ in node_problems(error):
        error.details.update(node_id=node_id, node_class=node_class)
        break
    return error


def output_problems(output: JsonValue) -> tuple[OutputProblem, ...]:
    """Which outputs our worker says are missing or damaged."""
    listed = output.get("problems") if isinstance(output, dict) else None
    try:
        read = TypeAdapter(list[AnswerProblem]).validate_python(listed or [])
    except ValidationError:
        return ()
    return tuple(one.problem() for one in read)


def _comfy_remote_1(output: JsonValue, prompt: Prompt) -> Result | None:
    del prompt  # it says which node made what
    if not isinstance(output, dict) or output.get("format") != COMFY_REMOTE_1:
        return None
    try:
        answer = Answer.model_validate(output)
    except ValidationError as error:
        raise OutputLost(
            f"The worker's answer is not valid: {error.errors()[0]['msg']}.",
            advice="Update the worker, or this program.",
        ) from error
    warnings = _said(answer.warnings)
    outputs = tuple(_ours(item) for item in answer.outputs)
    details = {**answer.facts(), **_noted(warnings)}
    return Result(outputs, warnings, details, ours=True, shown=answer.shown)


def _ours(item: AnswerOutput) -> RemoteOutput:
    source = None
    if item.data is not None:
        source = OutputSource(data=item.data)
    elif item.url is not None:
        source = _stored(item.url, item.delete_url)
    elif item.kept is not None:
        source = OutputSource(kept=item.kept)
    return RemoteOutput(
        node_id=item.node_id,
        kind=item.kind,
        filename=item.filename,
        subfolder=item.subfolder,
        folder=item.folder,
        media_type=item.media_type,
        size=item.size,
        sha256=item.sha256,
        text=item.text,
        source=source,
        key=item.key,
    )


def _stored(address: str, delete_url: str | None) -> OutputSource | None:
    try:
        url = URL(address)
    except ValueError:
        return None
    if not url.absolute:
        return OutputSource(path=str(url))
    return OutputSource(url=address, delete_url=delete_url)


def _plain(output: JsonValue, prompt: Prompt) -> Result | None:
    if not isinstance(output, dict) or "filenames" not in output:
        return None
    answer = PlainAnswer.model_validate(output)
    sources = [OutputSource(data=data) for data in answer.images]
    outputs = _unplaced(prompt, list(zip(answer.filenames, sources, strict=False)))
    warnings = _said(answer.warnings)
    details: dict[str, JsonValue] = {"worker_seconds": answer.execution_time_seconds}
    return Result(outputs, warnings, {**details, **_noted(warnings)})


def _images_b64(output: JsonValue, prompt: Prompt) -> Result | None:
    if not isinstance(output, dict) or "images" not in output or not output["images"]:
        return None
    answer = ImagesB64Answer.model_validate(output)
    files = [
        (image.name or f"image_{number:05}.png", OutputSource(data=image.b64))
        for number, image in enumerate(answer.images, 1)
    ]
    warnings = _said(answer.warnings)
    return Result(_unplaced(prompt, files), warnings, _noted(warnings))


def _worker_comfyui(output: JsonValue, prompt: Prompt) -> Result | None:
    """Raises `OutputLost` if the workflow ran, and nothing of what it made was returned."""
    if not isinstance(output, dict) or not output.keys() & {"images", "status"}:
        return None
    answer = WorkerComfyUIAnswer.model_validate(output)
    files = [
        (
            image.filename,
            OutputSource(data=image.data)
            if image.type == "base64"
            else OutputSource(url=image.data),
        )
        for image in answer.images
    ]
    failure = None
    if answer.failures:
        failure = error_from_runpod("\n  ".join(answer.failures))
    elif not files:
        raise nothing_returned(prompt)
    outputs = _unplaced(prompt, files)
    of_files = [line for line in answer.errors or [] if line not in answer.failures]
    warnings = _said(of_files)
    warnings += _where_unknown(outputs)
    if failure is None and (missing := not_returned_sentence(prompt, outputs)):
        warnings.append(missing)
    details: dict[str, JsonValue] = {"errors": [*answer.errors]} if answer.errors else {}
    return Result(outputs, warnings, {**details, **_noted(warnings)}, failure)


def _said(warnings: Sequence[str] | None) -> list[str]:
    return [f"The worker says: {warning}" for warning in warnings or ()]


def _noted(warnings: Sequence[str]) -> dict[str, JsonValue]:
    """As `Finished.details` has them, for faces that show what matters after the end."""
    return {"warnings": [*warnings]} if warnings else {}


def _unplaced(
    prompt: Prompt, files: Sequence[tuple[str, OutputSource]]
) -> tuple[RemoteOutput, ...]:
    """Outputs of a worker that gives names and bytes: each with its node, where that is certain."""
    nodes = nodes_of_files(prompt, [name for name, _ in files])
    found = []
    for number, ((name, source), node_id) in enumerate(zip(files, nodes, strict=True)):
        subfolder, _, filename = name.rpartition("/")
        found.append(
            RemoteOutput(
                node_id=node_id,
                kind=kind_of(filename),
                filename=filename,
                subfolder=subfolder,
                media_type=media_type_of(filename),
                source=source,
                number=number,
            )
        )
    return tuple(found)


def _where_unknown(outputs: Sequence[RemoteOutput]) -> list[str]:
    names = [output.filename for output in outputs if output.node_id is None]
    if not names:
        return []
    return [
        "This worker does not say which node a file came from, and the names of these do not show "
        f"it either: {', '.join(names)}. They are shown on no node. Use file name prefixes that "
        "differ in their last part."
    ]


_Reader: TypeAlias = Callable[[JsonValue, Prompt], "Result | None"]
# Each gives `None`, or raises a `ValidationError`, for another dialect. The first that fits counts.
_READERS: tuple[_Reader, ...] = (_comfy_remote_1, _plain, _images_b64, _worker_comfyui)
