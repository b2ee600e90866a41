"""Problems of single inputs: ComfyUI's errors in words for people, missing models by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import cast

from ...advice import Hint
from ...types import JsonValue, mapping, mappings
from ..change.values import did_you_mean, listed, quoted, range_text
from ..live_inputs import live_inputs
from ..models import model_uses, names_a_file
from ..prompt import Prompt
from ..schema import DYNAMIC_COMBO, Schemas, input_schema
from .report import Problem, ProblemCode
from .rules import NodeError

__all__ = ["EXCEPTIONS", "chosen_inputs", "each_error", "input_problem", "node_error_problems"]

EXCEPTIONS = frozenset({"exception_during_validation", "exception_during_inner_validation"})
"""What ComfyUI says if its check itself fails, mostly because of a broken link."""

_REPORTED_ELSEWHERE = EXCEPTIONS | {"dependency_cycle"}


def node_error_problems(
    prompt: Prompt, node_errors: Mapping[str, JsonValue], schemas: Schemas
) -> Iterator[Problem]:
    """ComfyUI's errors of nodes, but for cycles and broken links, which `structure` tells."""
    for node_id, error in each_error(node_errors):
        if error.get("type") not in _REPORTED_ELSEWHERE:
            yield input_problem(prompt, node_id, error, schemas)


def each_error(node_errors: Mapping[str, JsonValue]) -> Iterator[tuple[str, NodeError]]:
    """Every error in ComfyUI's ``node_errors``, with the id of its node."""
    for node_id, node_error in node_errors.items():
        for error in mappings(mapping(node_error).get("errors")):
            yield node_id, error


def input_problem(prompt: Prompt, node_id: str, error: NodeError, schemas: Schemas) -> Problem:
    """One of ComfyUI's errors as a problem."""
    node = prompt[node_id]
    facts = mapping(error.get("extra_info"))
    named = facts.get("input_name")
    name = named if isinstance(named, str) else None
    value = facts.get("received_value")
    config = facts.get("input_config")
    options = mapping(config[1]) if isinstance(config, list) else {}
    kind = config[0] if isinstance(config, list) else "?"
    code, advice = str(error["type"]), ""
    details: dict[str, JsonValue] = {}
    match code:
        case "required_input_missing":
            message = "This required input has no value and no link."
            advice = Hint.CONNECT_OR_SET(input=f"{node_id}.{name}")
        case "return_type_mismatch":
            link = cast("list[JsonValue]", facts["linked_node"])
            source, received = prompt[str(link[0])]["class_type"], facts.get("received_type")
            gives = "a choice" if isinstance(received, list) else received
            wanted = "one of its choices" if isinstance(kind, list) else kind
            message = (
                f"It is linked to output {link[1]} of node {link[0]} ({source}), which gives "
                f"{gives}; it takes {wanted}."
            )
        case "value_smaller_than_min" | "value_bigger_than_max":
            low, high = options.get("min"), options.get("max")
            message = f"{value} is out of range: it takes {range_text(low, high)}."
            details = {"value": value, "min": low, "max": high}
        case "value_not_in_list" if name is not None:
            return _not_in_list(prompt, node_id, name, value, schemas)
        case "invalid_input_type":
            message = f"{quoted(value)} is not of type {kind}."
        case "bad_linked_input":
            message = f"{quoted(value)} is not a link: a link is [node id, output index]."
            advice = 'A list as a value is written {"__value__": […]}.'
        case "custom_validation_failed":
            message = str(error["details"])
        case _:
            code = "invalid_node"
            message = f"{error['message']}: {error['details']}."
    return Problem(
        cast("ProblemCode", code),
        message,
        node_id,
        node["class_type"],
        name,
        advice,
        details=details,
    )


def chosen_inputs(prompt: Prompt, schemas: Schemas, live: list[str]) -> Iterator[Problem]:
    """Choices that decide on further inputs. ComfyUI does not check them before the run."""
    for node_id in live:
        node = prompt[node_id]
        needed = mapping(schemas.declared(node["class_type"]).get("required"))
        for name, spec in needed.items():
            if not isinstance(spec, list) or not spec or spec[0] != DYNAMIC_COMBO:
                continue
            if name not in node["inputs"]:
                yield Problem(
                    "required_input_missing",
                    "This required input has no value.",
                    node_id,
                    node["class_type"],
                    name,
                    Hint.SET_INPUT(input=f"{node_id}.{name}"),
                )
                continue
            value, keys = node["inputs"][name], input_schema(name, spec).selectable
            if keys and not isinstance(value, list) and value not in keys:
                yield Problem(
                    "value_not_in_list",
                    f"{quoted(value)} is not among its choices."
                    f"{did_you_mean(str(value), map(str, keys))}",
                    node_id,
                    node["class_type"],
                    name,
                    f"It has {listed(keys)}.",
                )


def _not_in_list(
    prompt: Prompt, node_id: str, name: str, value: JsonValue, schemas: Schemas
) -> Problem:
    node = prompt[node_id]
    live = live_inputs(schemas.declared(node["class_type"]), node["inputs"]).all()
    choices = [str(one) for one in input_schema(name, live.get(name)).choices]
    uses = [use for use in model_uses({node_id: node}) if use.input == name]
    if not uses or uses[0].folder == "embeddings":
        return Problem(
            "value_not_in_list",
            f"{quoted(value)} is not among its choices.{did_you_mean(str(value), choices)}",
            node_id,
            node["class_type"],
            name,
            f"It has {listed(choices)}." if choices else "The list there is empty.",
            details={"value": value},
        )
    use = uses[0]
    where = f"models/{use.folder} of " if use.folder else ""
    files = [choice for choice in choices if names_a_file(choice)]
    near = _same_file(use.name, files) or did_you_mean(use.name, files)
    return Problem(
        "missing_model",
        f"The model {use.name!r} is not in {where}{schemas.source}.{near}",
        node_id,
        node["class_type"],
        name,
        f"Put it there, or choose one that is there: {listed(files)}."
        if files
        else "Put it there: the folder is empty.",
        details={"model": use.name, "folder": use.folder, "available": [*choices]},
    )


def _same_file(name: str, choices: list[str]) -> str:
    """The same file in another folder: nearer than any other name."""
    file = PurePosixPath(name.replace("\\", "/")).name.casefold()
    for choice in choices:
        if PurePosixPath(choice.replace("\\", "/")).name.casefold() == file:
            return f" Did you mean {choice!r}?"
    return ""
