"""What an answer looks like in each dialect, and which outputs each has a place for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import JsonValue

from ..errors import ComfyRemoteError, ExecutionFailed, OutputLost, node_problems
from ..events import ShownValues
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..secrets import redact
from ..wire.answer import Answer, AnswerOutput, AnswerProblem
from ..wire.images_b64 import ImageB64, ImagesB64Answer
from ..wire.plain import PlainAnswer, PlainError, plain_error_type
from ..wire.request import COMFY_REMOTE_1, PLAIN, WORKER_COMFYUI, AnswerFormat
from ..wire.runpod import error_to_runpod
from ..wire.worker_comfyui import WorkerComfyUIAnswer, WorkerComfyUIImage
from .collect import CollectedOutput
from .storage import StoredFile

__all__ = ["AnswerFacts", "Content", "failure_answer", "place_for", "render", "wanted_outputs"]

Content: TypeAlias = Callable[[Received], str]
"""What to write for a file: its base64, or nothing while sizes are being counted."""

_NO_OUTPUT = "The workflow ran and made no output."
_ADD_A_NODE = "Add a Save Image node (or another that saves) to it."
_LOG_LINES = 10


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer tells beside the outputs; see `Answer` and `PlainAnswer`."""

    timings: dict[str, float]
    engine: str | None = None
    worker: str | None = None
    prompt_id: str = ""
    seconds: float = 0.0
    kept_inputs: Sequence[str] = ()
    problems: Sequence[OutputProblem] = ()
    shown: Mapping[str, ShownValues] = field(default_factory=dict)


def wanted_outputs(
    outputs: Sequence[RemoteOutput], dialect: AnswerFormat, *, shows_values: bool = False
) -> tuple[RemoteOutput, ...]:
    """Those that the dialect has a place for, in the same order.

    Args:
        shows_values: Whether a node shows something else in ComfyUI's page, which only
            ``comfy-remote/1`` has a place for.

    Raises:
        OutputLost: There is none, for ``comfy-remote/1``.
        ExecutionFailed: There is none, for one of the others. (``worker-comfyui`` says
            ``success_no_images`` where there are outputs, and no file that is saved.)
    """
    found = place_for(outputs, dialect)
    if found or (dialect == WORKER_COMFYUI and outputs):
        return found
    if dialect == COMFY_REMOTE_1 and shows_values:
        return ()
    kind = OutputLost if dialect == COMFY_REMOTE_1 else ExecutionFailed
    raise kind(_NO_OUTPUT, advice=_ADD_A_NODE)


def place_for(outputs: Sequence[RemoteOutput], dialect: AnswerFormat) -> tuple[RemoteOutput, ...]:
    """Like `wanted_outputs`; empty if there is none.

    ``comfy-remote/1`` has a place for all. The others return files only: those that are saved,
    of whatever kind; and where nothing is saved, ``plain`` and ``images-b64`` return previews.
    """
    if dialect == COMFY_REMOTE_1:
        return tuple(outputs)
    files = [one for one in outputs if one.text is None]
    saved = [one for one in files if one.folder == "output"]
    return tuple(saved if saved or dialect == WORKER_COMFYUI else files)


def render(
    dialect: AnswerFormat,
    collected: Sequence[CollectedOutput],
    facts: AnswerFacts,
    stored: Mapping[int, StoredFile],
    warnings: Sequence[str],
    content: Content,
) -> dict[str, JsonValue]:
    """The answer as JSON.

    Args:
        stored: Where the files are that are not part of the answer, by their number.
        warnings: What went wrong without failing the job.
    """
    match dialect:
        case "comfy-remote/1":
            return _comfy_remote(collected, facts, stored, warnings, content)
        case "worker-comfyui":
            return _worker_comfyui(collected, stored, warnings, content)
        case "plain":
            return PlainAnswer(
                images=[content(one.file) for one in collected if one.file],
                filenames=_names(collected),
                execution_time_seconds=facts.seconds,
                prompt_id=facts.prompt_id,
            ).model_dump(mode="json")
        case "images-b64":
            files = [one.file for one in collected if one.file]
            return ImagesB64Answer(
                images=[
                    ImageB64(b64=content(file), name=name)
                    for file, name in zip(files, _names(collected), strict=True)
                ]
            ).model_dump(mode="json")


def _comfy_remote(
    collected: Sequence[CollectedOutput],
    facts: AnswerFacts,
    stored: Mapping[int, StoredFile],
    warnings: Sequence[str],
    content: Content,
) -> dict[str, JsonValue]:
    def described(number: int, one: CollectedOutput) -> AnswerOutput:
        output, file, place = one.output, one.file, stored.get(number)
        return AnswerOutput(
            node_id=output.node_id,
            kind=output.kind,
            filename=output.filename,
            subfolder=output.subfolder,
            folder=output.folder,
            media_type=output.media_type,
            size=file.size if file else None,
            sha256=file.sha256 if file else None,
            text=output.text,
            key=output.key,
            url=place.url if place else None,
            delete_url=place.delete_url if place else None,
            kept=place.kept if place else None,
            data=content(file) if file and place is None else None,
        )

    return Answer(
        outputs=[described(number, one) for number, one in enumerate(collected)],
        timings=facts.timings,
        engine=facts.engine,
        worker=facts.worker,
        warnings=list(warnings),
        problems=[AnswerProblem.of(problem) for problem in facts.problems] or None,
        shown={node_id: dict(values) for node_id, values in facts.shown.items()},
        kept_inputs=list(facts.kept_inputs) or None,
    ).model_dump(mode="json", exclude_none=True)


def _worker_comfyui(
    collected: Sequence[CollectedOutput],
    stored: Mapping[int, StoredFile],
    warnings: Sequence[str],
    content: Content,
) -> dict[str, JsonValue]:
    names = iter(_names(collected))
    images: list[WorkerComfyUIImage] = []
    for number, one in enumerate(collected):
        if one.file is None:
            continue
        place = stored.get(number)
        images.append(
            WorkerComfyUIImage(filename=next(names), type="s3_url", data=place.url)
            if place and place.url
            else WorkerComfyUIImage(filename=next(names), type="base64", data=content(one.file))
        )
    return WorkerComfyUIAnswer(
        images=images,
        errors=list(warnings) or None,
        status=None if collected else "success_no_images",
    ).model_dump(mode="json", exclude_none=True)


def _names(collected: Sequence[CollectedOutput]) -> list[str]:
    """ComfyUI's names; with the subfolder before those that would be the same."""
    files = [one.output for one in collected if one.file]
    often = Counter(output.filename for output in files)
    return [
        f"{output.subfolder}/{output.filename}"
        if often[output.filename] > 1 and output.subfolder
        else output.filename
        for output in files
    ]


def failure_answer(
    error: ComfyRemoteError,
    dialect: AnswerFormat,
    *,
    environ: Mapping[str, str],
    seconds: float = 0.0,
    saved: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """``{"error": …}``, from which the SDK makes a failed job, with what it had saved before.

    ``worker-comfyui`` has no failed job with pictures: there, ``errors`` says that it failed.

    Args:
        dialect: ``comfy-remote/1`` gets the whole error. Others get the form of ``plain``, of
            which the SDK moves ``error`` out of the job's output: a request that is refused may
            lack the very key that tells its dialect. All but ``plain`` also get ``details``, a
            list of lines, as worker-comfyui has it.
        environ: Whose secrets are taken out.
        seconds: Since the job arrived.
        saved: The answer with these outputs, in the same dialect; ``None`` if there are none.
    """
    if dialect == COMFY_REMOTE_1:
        failed: dict[str, JsonValue] = {**saved, "status": "error"} if saved else {}
        return {**failed, "error": redact(error_to_runpod(error), environ)}
    if dialect == WORKER_COMFYUI and saved:
        warnings = saved.get("errors")
        said: list[JsonValue] = [redact(f"The job failed: {error}", environ)]
        return {**saved, "errors": [*said, *(warnings if isinstance(warnings, list) else [])]}
    plain = PlainError(
        error_type=plain_error_type(error),
        error=redact(str(error), environ),
        execution_time_seconds=seconds,
    ).model_dump(mode="json")
    plain = {**(saved or {}), **plain}
    if dialect == PLAIN:
        return plain
    return {**plain, "details": [redact(line, environ) for line in _lines(error)]}


def _lines(error: ComfyRemoteError) -> Iterator[str]:
    for node_id, _, words in node_problems(error):
        yield f"Node {node_id}: {words}"
    log = error.details.get("engine_log")
    if isinstance(log, str):
        yield from log.splitlines()[-_LOG_LINES:]
