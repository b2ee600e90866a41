"""What a target says against a prompt, in the form in which ComfyUI refuses one.

A page has words of its own for the kinds of errors that it knows, and they speak of the ComfyUI
that it belongs to: "a node type is missing", with a search for it among the nodes here. Of two
kinds, it shows what the server says: one for a node, one for an input. What a target lacks is sent
as one of these, and names the target.

Source of facts: ``platform/errorCatalog`` of ComfyUI's frontend 1.49.6 and 1.58.1, and
``PromptExecutionError`` of 1.27.10, which shows the words of every error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from ..clean import cleaned_json
from ..errors import ComfyRemoteError, SpendingCap
from ..types import JsonValue, as_list, mapping
from ..workflow.check.values import input_problem
from ..workflow.models import ends_like_a_model
from ..workflow.packs import CORE, NodePack, find_packs, pack_for_people
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .advice import for_page

__all__ = [
    "LACKING",
    "REFUSED_EVENT",
    "at_target",
    "lacks_something",
    "marked_nodes",
    "named",
    "refusal_body",
    "refusal_event",
]

REFUSED_EVENT = "comfy_remote.refused"
"""Our message to the page: newer pages count what is wrong first, and say whose it is later."""

LACKING = frozenset({"missing_model", "missing_node_type"})
"""Codes of a check's problems: what a target lacks can be brought there."""

_MOST_SENTENCES = 3

_E = TypeVar("_E", bound=ComfyRemoteError)

_OF_NODE = "exception_during_validation"
_OF_INPUT = "custom_validation_failed"
# Of the workflow, wherever it runs: here, the page's own words and marks are the better ones.
_OF_WORKFLOW = frozenset({"required_input_missing", "dependency_cycle", "bad_linked_input"})
_MISSING_NODE = "missing_node_type"
_LACKS = "comfy_remote_lacks"  # in what the page knows of a node's error


def refusal_body(error: ComfyRemoteError, target: str | None = None) -> dict[str, JsonValue]:
    """The body of a 400 to ``/prompt``: ``{"error", "node_errors"}``.

    Args:
        target: Whose refusal it is; ``None`` where several or none may be.
    """
    node_errors = error.details.get("node_errors")
    theirs = error.details.get("error")
    if not isinstance(theirs, dict) or "message" not in theirs:
        advice = for_page(error.advice)
        # Newer pages show the message alone.
        theirs = {
            "type": error.code,
            "message": named(target, f"{error.message} {advice}".rstrip()),
            "details": "",
            "extra_info": {},
        }
    return cleaned_json(
        {"error": theirs, "node_errors": node_errors if isinstance(node_errors, dict) else {}}
    )


def refusal_event(error: ComfyRemoteError, target: str) -> dict[str, JsonValue]:
    """What `REFUSED_EVENT` carries: why a target does not run the prompt.

    Returns:
        ``{"target", "message", "lacks"}``, and of a cap on spending ``"cap"``, as `SpendingCap` has
        it; of a part of a graph that lacks nodes, those as ``"nodes"``.
    """
    sentences = dict.fromkeys(_sentences(mapping(error.details.get("node_errors"))))
    message = " ".join([*filter(None, sentences)][:_MOST_SENTENCES])
    message = message or f"{error.message} {for_page(error.advice)}".rstrip()
    said: dict[str, JsonValue] = {
        "target": target,
        "message": message,
        "lacks": lacks_something(error),
    }
    if error.details.get("lacking"):
        said["nodes"] = [*mapping(error.details.get("node_errors"))]
    if isinstance(error, SpendingCap):
        said["cap"] = dict(error.details)
    return cleaned_json(said)


def lacks_something(error: ComfyRemoteError | None) -> bool:
    """Whether a target refused a prompt for want of a model or a node."""
    if error is None:
        return False
    if error.details.get("missing_models") or error.details.get("lacking"):
        return True
    if mapping(error.details.get("error")).get("type") == _MISSING_NODE:
        return True
    return any(
        mapping(mapping(one).get("extra_info")).get(_LACKS) is True
        or (mapping(one).get("type") == "value_not_in_list" and _names_a_model(mapping(one)))
        for node in mapping(error.details.get("node_errors")).values()
        for one in as_list(mapping(node).get("errors"))
    )


def _names_a_model(error: Mapping[str, JsonValue]) -> bool:
    value = mapping(error.get("extra_info")).get("received_value")
    return isinstance(value, str) and ends_like_a_model(value)


def named(target: str | None, text: str) -> str:
    """A sentence about a job, with its target's name."""
    return text if target is None or target in text else f"On {target}: {text}"


def at_target(
    error: _E,
    target: str,
    prompt: Prompt,
    workflow: Mapping[str, JsonValue] | None,
    schemas: Schemas | None,
) -> _E:
    """The same error, with the nodes marked that it is about.

    Args:
        workflow: The prompt in UI format, which may name the packs of nodes.
        schemas: The target's, if known.
    """
    theirs = mapping(error.details.get("error"))
    node_errors = mapping(error.details.get("node_errors"))
    of_node = error.details.get("node_id")
    if theirs.get("type") == _MISSING_NODE:
        found = _missing_nodes(target, prompt, workflow, schemas, mapping(theirs.get("extra_info")))
    elif node_errors:
        found = marked_nodes(node_errors, target, prompt, schemas)
    elif isinstance(of_node, str) and of_node in prompt:
        words = named(target, f"{error.message} {for_page(error.advice)}".rstrip())
        problem = _error(words, error.details.get("input"))
        found = {of_node: _node(prompt[of_node]["class_type"], [problem])}
    else:
        return error
    if found:
        refused: dict[str, JsonValue] = {
            "type": error.code,
            "message": f"{target} cannot run this workflow",
            "details": "",
            "extra_info": {},
        }
        error.details = {**error.details, "error": refused, "node_errors": found}
    return error


def marked_nodes(
    node_errors: Mapping[str, JsonValue], target: str, prompt: Prompt, schemas: Schemas | None
) -> dict[str, JsonValue]:
    """ComfyUI's ``node_errors`` by the schemas of a target, in words that name it."""
    return {
        node_id: {
            **mapping(node),
            "errors": [
                _of_target(mapping(one), target, node_id, prompt, schemas)
                for one in as_list(mapping(node).get("errors"))
            ],
        }
        for node_id, node in node_errors.items()
    }


def _of_target(
    error: Mapping[str, JsonValue],
    target: str,
    node_id: str,
    prompt: Prompt,
    schemas: Schemas | None,
) -> JsonValue:
    if str(error.get("type")) in _OF_WORKFLOW:
        return dict(error)
    facts = mapping(error.get("extra_info"))
    if error.get("type") == "value_not_in_list" and _names_a_model(error):
        facts = {**facts, _LACKS: True}
    if error.get("type") == "value_not_in_list" and schemas is not None and node_id in prompt:
        problem = input_problem(prompt, node_id, dict(error), schemas)
        words = f"{problem.message} {for_page(problem.advice)}"
    else:
        words = ": ".join(str(error[k]) for k in ("message", "details") if error.get(k))
    return _error(named(target, words.strip()), facts.get("input_name"), facts)


def _missing_nodes(
    target: str,
    prompt: Prompt,
    workflow: Mapping[str, JsonValue] | None,
    schemas: Schemas | None,
    first: Mapping[str, JsonValue],
) -> dict[str, JsonValue]:
    """The nodes whose class the target does not have: all of them, if its schemas are known."""
    if schemas is None:
        lacking = [str(first.get("node_id"))]
    else:
        lacking = [n for n, node in prompt.items() if node["class_type"] not in schemas]
    packs = find_packs(prompt, schemas=schemas or Schemas.bundled(), workflow=workflow)
    by_class = {class_type: pack for pack in packs for class_type in pack.classes}
    found: dict[str, JsonValue] = {}
    for node_id in lacking:
        if node_id in prompt:
            class_type = prompt[node_id]["class_type"]
            how = _how_to_get(by_class.get(class_type), target)
            words = f"{target} does not have the node {class_type}. {how}"
            problem = _error(words, facts={_LACKS: True})
            found[node_id] = _node(class_type, [problem])
    return found


def _how_to_get(pack: NodePack | None, target: str) -> str:
    if pack is None or pack.name is None:
        return f"Install its node pack on {target}, or choose another target."
    if pack.name == CORE:
        return f"It is one of ComfyUI's own: update ComfyUI on {target}, or choose another target."
    version = f" (the workflow was saved with {pack.version})" if pack.version else ""
    return f"Install {pack_for_people(pack.name)} on {target}{version}, or choose another target."


def _node(class_type: str, errors: list[JsonValue]) -> JsonValue:
    return {"class_type": class_type, "errors": errors, "dependent_outputs": []}


def _error(
    words: str, input_name: JsonValue = None, facts: Mapping[str, JsonValue] | None = None
) -> JsonValue:
    of_input = isinstance(input_name, str) and bool(input_name)
    return {
        "type": _OF_INPUT if of_input else _OF_NODE,
        "message": "Not on the target",
        "details": words,
        "extra_info": {**(facts or {}), **({"input_name": input_name} if of_input else {})},
    }


def _sentences(node_errors: Mapping[str, JsonValue]) -> Iterator[str]:
    for node in node_errors.values():
        for one in as_list(mapping(node).get("errors")):
            yield str(mapping(one).get("details") or "")
