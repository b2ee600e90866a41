"""Checking a prompt before it is queued, with the error bodies of ComfyUI 0.33.0.

Clients and ComfyUI's page read these bodies, so types, messages and details are ComfyUI's.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..workflow.prompt import Prompt
from .folders import Folders
from .nodes.registry import NODES
from .nodes.schema import Input, InputType

__all__ = ["Problem", "Validated", "full_type_name", "validate_prompt"]

Problem = dict[str, JsonValue]
"""``{"type", "message", "details", "extra_info"}``."""

_LONGEST_LIST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Validated:
    """What came of checking a prompt.

    Attributes:
        error: Why nothing can run; ``None`` when at least one output can.
        outputs: The output nodes that will run, in the prompt's order.
        node_errors: ``{node id: {"errors", "dependent_outputs", "class_type"}}``; may be
            filled although ``error`` is ``None``: then those outputs are left out.
    """

    error: Problem | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, JsonValue] = field(default_factory=dict)


def validate_prompt(
    prompt: Prompt, folders: Folders, only_outputs: Collection[str] | None = None
) -> Validated:
    """Check a prompt. Literal values are converted in place to their inputs' types.

    Args:
        prompt: A JSON object, otherwise unchecked.
        only_outputs: The page's ``partial_execution_targets``.
    """
    outputs: list[str] = []
    for node_id, node in prompt.items():
        if unknown := _unknown_class(node_id, node):
            return Validated(unknown)
        if NODES[node["class_type"]].schema.output_node and (
            only_outputs is None or node_id in only_outputs
        ):
            outputs.append(node_id)
    if not outputs:
        return Validated(_problem("prompt_no_outputs", "Prompt has no outputs", ""))

    check = _Check(prompt, folders)
    good: list[str] = []
    node_errors: dict[str, _NodeErrors] = {}
    failures: list[Problem] = []
    for output in outputs:
        if check.output(output):
            good.append(output)
            continue
        failures += check.problems[output]
        for node_id, problems in check.problems.items():
            # A node that is only invalid because of one before it has no problem of its own.
            if problems:
                errors = node_errors.setdefault(
                    node_id, _NodeErrors(problems, prompt[node_id]["class_type"])
                )
                errors.dependent_outputs.append(output)
    reported: dict[str, JsonValue] = {
        node_id: errors.to_json() for node_id, errors in node_errors.items()
    }
    if good:
        return Validated(None, good, reported)
    details = "\n".join(f"{problem['message']}: {problem['details']}" for problem in failures)
    error = _problem(
        "prompt_outputs_failed_validation", "Prompt outputs failed validation", details
    )
    return Validated(error, [], reported)


def full_type_name(kind: type) -> str:
    """A class as ComfyUI names it: with its module, unless it is built in."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True, slots=True)
class _NodeErrors:
    errors: list[Problem]
    class_type: str
    dependent_outputs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "errors": list(self.errors),
            "dependent_outputs": list(self.dependent_outputs),
            "class_type": self.class_type,
        }


def _problem(kind: str, message: str, details: str, **extra_info: JsonValue) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _unknown_class(node_id: str, node: object) -> Problem | None:
    fields: Mapping[str, JsonValue] = node if isinstance(node, dict) else {}
    meta = fields.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    if "class_type" not in fields:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type. "
            "The workflow may be corrupted or a custom node is missing."
        )
    elif str(fields["class_type"]) not in NODES:
        title = title or str(fields["class_type"])
        message = f"Node '{title}' not found. The custom node may not be installed."
    else:
        return None
    return _problem(
        "missing_node_type",
        message,
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=fields.get("class_type"),
        node_title=title,
    )


class _Check:
    """One pass over a prompt.

    Attributes:
        problems: Of each node looked at so far, its own.
    """

    def __init__(self, prompt: Prompt, folders: Folders) -> None:
        self._prompt = prompt
        self._folders = folders
        self._valid: dict[str, bool] = {}
        self._path: list[str] = []
        self.problems: dict[str, list[Problem]] = {}

    def output(self, node_id: str) -> bool:
        """Check an output node and all before it. Returns whether it can run."""
        try:
            return self._node(node_id)
        # A prompt is anything that JSON can hold; whatever goes wrong is the prompt's error.
        except Exception as error:  # noqa: BLE001
            self._valid[node_id] = False
            self.problems[node_id] = [
                _problem(
                    "exception_during_validation",
                    "Exception when validating node",
                    str(error),
                    exception_type=full_type_name(type(error)),
                    traceback=list(traceback.format_tb(error.__traceback__)),
                )
            ]
            return False

    def _node(self, node_id: str) -> bool:
        if node_id in self._valid:
            return self._valid[node_id]
        if node_id in self._path:
            self._report_cycle(node_id)
            return False
        given = self._prompt[node_id]["inputs"]
        node = NODES[self._prompt[node_id]["class_type"]]
        problems: list[Problem] = []
        valid = True
        for entry in node.schema.inputs:
            if entry.name not in given:
                if entry.required:
                    problems.append(
                        _problem(
                            "required_input_missing",
                            "Required input is missing",
                            entry.name,
                            input_name=entry.name,
                        )
                    )
                continue
            kind, options = node.schema.type_and_options(entry, self._folders)
            value = given[entry.name]
            if isinstance(value, list):
                found, ok = self._link(node_id, entry, kind, options, value)
                valid = valid and ok
            else:
                judged = entry.name not in node.own_checks
                found, given[entry.name] = _literal(entry, kind, options, value, judged)
            if found:
                problems.append(found)
        if node.own_checks and not any(isinstance(given.get(n), list) for n in node.own_checks):
            names = sorted(node.own_checks & given.keys())
            if names and (complaint := node.check(self._folders, given)):
                problems += [
                    _problem(
                        "custom_validation_failed",
                        "Custom validation failed for node",
                        f"{name} - {complaint}",
                        input_name=name,
                    )
                    for name in names
                ]
        # A cycle through this node has already left its problem here.
        before = self.problems.get(node_id, [])
        valid = valid and not problems and self._valid.get(node_id, True)
        self.problems[node_id] = before + [p for p in problems if p not in before]
        self._valid[node_id] = valid
        return valid

    def _link(
        self,
        node_id: str,
        entry: Input,
        kind: InputType,
        options: dict[str, JsonValue],
        link: list[JsonValue],
    ) -> tuple[Problem | None, bool]:
        """The problem with a link itself, and whether what it leads to is valid."""
        config: JsonValue = [kind, options]
        if len(link) != 2:
            return _problem(
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                entry.name,
                input_name=entry.name,
                input_config=config,
                received_value=link,
            ), True
        source, index = link
        # Subscripts may raise, like ComfyUI's: no such node, no such output, or no number.
        types = NODES[self._prompt[source]["class_type"]].schema.output_types  # type: ignore[index]
        received = types[index]  # type: ignore[index]
        if received != kind:
            return _problem(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{entry.name}, received_type({received}) mismatch input_type({kind})",
                input_name=entry.name,
                input_config=config,
                received_type=received,
                linked_node=link,
            ), True
        self._path.append(node_id)
        try:
            return None, self._node(str(source))
        except Exception as error:  # noqa: BLE001 (see `output`)
            self._valid[str(source)] = False
            self.problems[str(source)] = [
                _problem(
                    "exception_during_inner_validation",
                    "Exception when validating inner node",
                    str(error),
                    input_name=entry.name,
                    input_config=config,
                    exception_message=str(error),
                    exception_type=full_type_name(type(error)),
                    traceback=list(traceback.format_tb(error.__traceback__)),
                    linked_node=link,
                )
            ]
            return None, False
        finally:
            self._path.pop()

    def _report_cycle(self, node_id: str) -> None:
        around = [*self._path[self._path.index(node_id) :], node_id]
        members = list(dict.fromkeys(around))
        details = " -> ".join(f"{n} ({self._prompt[n]['class_type']})" for n in around)
        for member in members:
            self._valid[member] = False
            self.problems[member] = [
                _problem(
                    "dependency_cycle",
                    "Dependency cycle detected",
                    details,
                    node_id=member,
                    cycle_nodes=list(members),
                )
            ]


def _literal(
    entry: Input,
    kind: InputType,
    options: dict[str, JsonValue],
    value: JsonValue,
    judged: bool,
) -> tuple[Problem | None, JsonValue]:
    """The problem with a literal value, and the value converted to the input's type."""
    config: JsonValue = [kind, options]
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        value = _convert(kind, value)
    except (TypeError, ValueError, OverflowError) as error:
        return _problem(
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{entry.name}, {value}, {error}",
            input_name=entry.name,
            input_config=config,
            received_value=value,
            exception_message=str(error),
        ), value
    if not judged:
        return None, value
    if isinstance(value, (int, float)):
        smallest, largest = options.get("min"), options.get("max")
        if isinstance(smallest, (int, float)) and value < smallest:
            return _problem(
                "value_smaller_than_min",
                f"Value {value} smaller than min of {smallest}",
                entry.name,
                input_name=entry.name,
                input_config=config,
                received_value=value,
            ), value
        if isinstance(largest, (int, float)) and value > largest:
            return _problem(
                "value_bigger_than_max",
                f"Value {value} bigger than max of {largest}",
                entry.name,
                input_name=entry.name,
                input_config=config,
                received_value=value,
            ), value
    if entry.choices is not None:
        choices = kind if isinstance(kind, list) else options["options"]
        if isinstance(choices, list) and value not in choices:
            shown = len(choices) <= _LONGEST_LIST_SHOWN
            listed = str(choices) if shown else f"(list of length {len(choices)})"
            return _problem(
                "value_not_in_list",
                "Value not in list",
                f"{entry.name}: {value!r} not in {listed}",
                input_name=entry.name,
                input_config=config if shown else None,
                received_value=value,
            ), value
    return None, value


def _convert(kind: InputType, value: JsonValue) -> JsonValue:
    match kind:
        case "INT":
            return int(value)  # type: ignore[arg-type]  # it may raise; that is the check
        case "FLOAT":
            return float(value)  # type: ignore[arg-type]
        case "STRING":
            return str(value)
        case "BOOLEAN":
            return bool(value)
        case _:
            return value
