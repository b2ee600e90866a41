"""The result of workers that return names and bytes of files, but not which node made them.

Above all of the public worker-comfyui; see `worker_comfyui` for what it cannot return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from ...errors import ComfyRemoteError, OutputLost
from ...outputs import OutputSource, RemoteOutput, kind_of, media_type_of
from ...wire.runpod import error_from_runpod
from ...wire.worker_comfyui import WorkerComfyUIAnswer
from ...workflow.prompt import Prompt
from .worker_comfyui import nodes_of_files, not_returned

__all__ = ["Result", "not_returned_before", "unplaced_outputs", "worker_comfyui_result"]

_WHAT_IT_RETURNS = "The public worker-comfyui returns only saved files that a node lists as images"
_USE_OURS = (
    "Run it on an endpoint with Comfy Remote's own worker (docs/worker.md), on a pod or on another "
    "ComfyUI: these return outputs of every kind."
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker answered to a job.

    Attributes:
        warnings: For people, a sentence or two each.
        failure: Why the workflow failed, though something came back.
        ours: Whether it is the answer of Comfy Remote's own worker.
    """

    outputs: tuple[RemoteOutput, ...]
    warnings: Sequence[str] = ()
    details: dict[str, JsonValue] = field(default_factory=dict)
    failure: ComfyRemoteError | None = None
    ours: bool = False


def worker_comfyui_result(output: JsonValue, prompt: Prompt) -> Result | None:
    """The public worker-comfyui's answer; ``None`` if this is no such answer.

    Raises:
        ValidationError: It is not quite one.
        OutputLost: The workflow ran, and nothing of what it made was returned.
    """
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
        raise _nothing_returned(prompt)
    outputs = unplaced_outputs(prompt, files)
    of_files = [line for line in answer.errors or [] if line not in answer.failures]
    warnings = [f"The worker says: {line}" for line in of_files]
    warnings += _where_unknown(outputs)
    if failure is None and (missing := not_returned_sentence(prompt, outputs)):
        warnings.append(missing)
    details: dict[str, JsonValue] = {"errors": [*answer.errors]} if answer.errors else {}
    if warnings:
        details["warnings"] = [*warnings]
    return Result(outputs, warnings, details, failure)


def unplaced_outputs(
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


def not_returned_sentence(prompt: Prompt, outputs: Sequence[RemoteOutput] | None = None) -> str:
    """Which nodes' outputs the public worker-comfyui does not return; ``""`` if it returns all.

    Args:
        outputs: What it returned, once it has.
    """
    here = {output.node_id for output in outputs or ()}
    nodes = [node for node in not_returned(prompt) if node.node_id not in here]
    never = [str(node) for node in nodes if node.what is not None]
    perhaps = [str(node) for node in nodes if node.what is None]
    did_not, may_not = "does not return", "may not return"
    if outputs is not None:
        did_not, may_not = "did not return", "may not have returned"
    parts = [f"it {did_not} the outputs of {_nodes(never)}"] if never else []
    if perhaps:
        outputs_of = "those of" if never else "the outputs of"
        parts.append(f"it {may_not} {outputs_of} {_nodes(perhaps)}")
    return f"{_WHAT_IT_RETURNS}: {', and '.join(parts)}." if parts else ""


def not_returned_before(prompt: Prompt, *, known: bool) -> str:
    """`not_returned_sentence` before the prompt is sent, with what to do.

    Args:
        known: Whether the endpoint is known to run that worker. Where it is not, nothing is said
            of previews alone.
    """
    sentence = not_returned_sentence(prompt)
    if not sentence or known:
        return f"{sentence} {_USE_OURS}" if sentence else ""
    if all(node.what in ("previews", None) for node in not_returned(prompt)):
        return ""
    return (
        "Which worker the endpoint runs is not known yet. "
        f"{sentence} Comfy Remote's own worker returns outputs of every kind."
    )


def _nodes(nodes: Sequence[str]) -> str:
    return f"node{'s' * (len(nodes) != 1)} {', '.join(nodes)}"


def _where_unknown(outputs: Sequence[RemoteOutput]) -> list[str]:
    names = [output.filename for output in outputs if output.node_id is None]
    if not names:
        return []
    return [
        "This worker does not say which node a file came from, and the names of these do not show "
        f"it either: {', '.join(names)}. They are shown on no node. Use file name prefixes that "
        "differ in their last part."
    ]


def _nothing_returned(prompt: Prompt) -> OutputLost:
    missing = not_returned_sentence(prompt, ())
    if not missing:
        return OutputLost(
            "The workflow ran, and the worker returned no file.",
            advice=f"{_WHAT_IT_RETURNS}: add a Save Image node, or look at the worker's log.",
        )
    return OutputLost(
        f"The workflow ran, but nothing of what it made came back. {missing}", advice=_USE_OURS
    )
