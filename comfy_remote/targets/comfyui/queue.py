"""ComfyUI's ``/queue``, and its refusals of a prompt. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice

from ...data_class import dataclass
from ...errors import WorkflowInvalid
from ...json_text import parse_json
from ...outputs import OutputProblem
from ...types import JsonValue, mapping
from ...workflow.graph import needed_nodes
from ...workflow.load import parse_prompt
from ...workflow.output_nodes import ADD_AN_OUTPUT, NO_OUTPUT
from ...workflow.prompt import Prompt

__all__ = [
    "QueueItem",
    "prompt_in",
    "queue_items",
    "refusal",
    "refusal_of",
    "skipped_in",
    "skipped_nodes",
    "skipped_note",
]

_SKIPPED = "skipped"
_MOST_NODES = 1000  # of an answer


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One prompt in the queue.

    Attributes:
        number: Its position: lower ones run first.
        outputs: The output nodes it was asked for.
    """

    number: float
    prompt_id: str
    outputs: tuple[str, ...]


def queue_items(items: JsonValue) -> list[QueueItem]:
    """The items of ``queue_running`` or ``queue_pending``.

    Each is ``[number, prompt_id, prompt, extra_data, outputs_to_execute, …]``.
    """
    found = []
    for item in items if isinstance(items, list) else []:
        match item:
            case [int() | float() as number, str(prompt_id), _, _, list(outputs), *_]:
                found.append(QueueItem(number, prompt_id, tuple(map(str, outputs))))
    return found


def prompt_in(item: JsonValue, prompt_id: str) -> Prompt | None:
    """The prompt of an item of ``/queue``, or of an entry's ``prompt`` in ``/history``.

    ``None`` if it is another's.
    """
    match item:
        case [_, str(found), dict(prompt), *_] if found == prompt_id:
            return parse_prompt(prompt, "The prompt on the target", check_links=False)
        case _:
            return None


def refusal(body: bytes, status: int = 400) -> WorkflowInvalid:
    """The error behind a 400 to ``/prompt``, with its ``node_errors`` as lines."""
    try:
        answer = parse_json(body)
    except ValueError:
        answer = None
    return refusal_of(answer, status)


def refusal_of(answer: JsonValue, status: int = 400) -> WorkflowInvalid:
    """The error behind such an answer, ``{"error", "node_errors"}``."""
    answer = answer if isinstance(answer, dict) else {}
    error = answer.get("error")
    error = error if isinstance(error, dict) else {"message": str(error or "no reason given")}
    node_errors = _node_errors(answer.get("node_errors"))
    lines = [
        f"node {node_id} ({node['class_type']}): {_sentence(problem)}"
        for node_id, node in node_errors.items()
        for problem in _problems(node)
    ] or [_missing_class(error) or _sentence(error)]
    details: dict[str, JsonValue] = {
        "error": _trimmed(error),
        "node_errors": dict(node_errors),
        "http_status": status,
    }
    if error.get("type") == "prompt_no_outputs":
        return WorkflowInvalid(
            f"{NO_OUTPUT}: ComfyUI refused to run it.", advice=ADD_AN_OUTPUT, details=details
        )
    missing_node = error.get("type") == "missing_node_type" or "does not exist" in lines[0]
    return WorkflowInvalid(
        "ComfyUI refused the workflow: " + "; ".join(lines) + ".",
        advice=(
            "On the target, install the node pack that has it, or choose another target."
            if missing_node
            else "Correct these inputs, or install the models that they name on the target."
        ),
        details=details,
    )


def skipped_nodes(node_errors: JsonValue, prompt: Prompt) -> list[OutputProblem]:
    """The nodes that ComfyUI leaves out of a prompt that it accepted, and why.

    From ``node_errors`` in its answer: it runs the outputs that are valid, and not the others.
    """

    @cache
    def needed_by(output: str) -> set[str]:
        return set(needed_nodes(prompt, [output]))

    return [
        OutputProblem(
            node_id,
            str(node["class_type"]) if node["class_type"] else None,
            None,
            "it does not run: "
            + "; ".join(map(_sentence, _problems(node)))
            + _outputs_without(node_id, mapping(mapping(node_errors).get(node_id)), needed_by),
        )
        for node_id, node in _node_errors(node_errors).items()
    ]


def skipped_note(skipped: Sequence[OutputProblem]) -> dict[str, str]:
    """`skipped_nodes` as an entry of `RemoteRef.details`, where a job resumed later finds it."""
    if not skipped:
        return {}
    return {_SKIPPED: json.dumps([problem.to_json() for problem in skipped])}


def skipped_in(details: Mapping[str, str]) -> list[OutputProblem]:
    """The inverse of `skipped_note`."""
    return [OutputProblem(**problem) for problem in json.loads(details.get(_SKIPPED, "[]"))]


def _outputs_without(
    node_id: str, node: Mapping[str, JsonValue], needed_by: Callable[[str], set[str]]
) -> str:
    """Which output nodes wait for this one, where that is another node.

    ComfyUI lists every output that fails after it, also those that it does not feed.
    """
    listed = node.get("dependent_outputs")
    others = [str(one) for one in listed if one != node_id] if isinstance(listed, list) else []
    others = [output for output in others if node_id in needed_by(output)]
    return f". So there is no output of node {', '.join(others)}" if others else ""


def _sentence(error: dict[str, JsonValue]) -> str:
    message = str(error.get("message") or error.get("type") or "invalid").rstrip(".")
    details = str(error.get("details") or "").strip()
    return f"{message}: {details[:300]}" if details and details not in message else message


def _missing_class(error: dict[str, JsonValue]) -> str:
    """The sentence for a node whose class is not there; ``""`` for another error.

    ComfyUI's own names the node by its title alone, which people change.
    """
    extra = error.get("extra_info")
    if error.get("type") != "missing_node_type" or not isinstance(extra, dict):
        return ""
    kind, title = extra.get("class_type"), extra.get("node_title")
    if not isinstance(kind, str):
        return ""
    titled = f', called "{title}" in the workflow' if title and title != kind else ""
    return f"it has no node class {kind} (node {extra.get('node_id')}{titled})"


def _node_errors(value: JsonValue) -> dict[str, dict[str, JsonValue]]:
    nodes: dict[str, dict[str, JsonValue]] = {}
    if isinstance(value, dict):
        for node_id, node in islice(value.items(), _MOST_NODES):
            errors = node.get("errors") if isinstance(node, dict) else None
            if isinstance(node, dict) and isinstance(errors, list):
                kept: list[JsonValue] = [_trimmed(e) for e in errors if isinstance(e, dict)]
                nodes[node_id] = {"class_type": node.get("class_type"), "errors": kept}
    return nodes


def _problems(node: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    errors = node["errors"]
    return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []


def _trimmed(error: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Without the schema that ComfyUI repeats in every error: thousands of model names."""
    extra = error.get("extra_info")
    kept = (
        {k: v for k, v in extra.items() if k != "input_config"} if isinstance(extra, dict) else {}
    )
    return {**error, "details": str(error.get("details") or "")[:1000], "extra_info": kept}
