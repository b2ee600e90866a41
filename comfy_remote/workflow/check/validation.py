"""Whether ComfyUI would queue a prompt, by its own rules and in its own words.

Clients and ComfyUI's page read the bodies of its refusals, so types, messages and details are
ComfyUI's. One validator for all: over the schemas of a target (`rules`), and over the
sandbox's own nodes.

Source of facts: ``validate_prompt`` and ``validate_inputs`` in ``execution.py`` and
``comfy_execution/validation.py`` of ComfyUI 0.33.0.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from ...types import JsonValue
from ..live_inputs import live_inputs
from .literals import check_literal, type_and_options, types_fit
from .rules import NodeError, NodeRules, Rules, node_error

if TYPE_CHECKING:
    from ..prompt import Prompt

__all__ = ["Validated", "full_type_name", "validate_prompt"]


@dataclass(frozen=True, slots=True)
class Validated:
    """The result of validating a prompt.

    Attributes:
        prompt: A copy in which literal values have the types of their inputs: what runs.
        error: Why nothing can run; ``None`` when at least one output can.
        outputs: The output nodes that will run, in the prompt's order.
        node_errors: ``{node id: {"errors", "dependent_outputs", "class_type"}}``; may be
            filled although ``error`` is ``None``: then those outputs are left out.
    """

    prompt: Prompt
    error: NodeError | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """The body of ComfyUI's 400: ``{"error", "node_errors"}``."""
        return {"error": self.error, "node_errors": self.node_errors}


def validate_prompt(
    prompt: Mapping[str, JsonValue] | Prompt,
    rules: Rules,
    only_outputs: Collection[str] | None = None,
) -> Validated:
    """Validate a JSON object as ComfyUI does on ``POST /prompt``; never raises for its content.

    Args:
        rules: The node classes of the engine.
        only_outputs: The page's ``partial_execution_targets``.
    """
    copied = cast("Prompt", {node_id: _copy(node) for node_id, node in prompt.items()})
    outputs: list[str] = []
    for node_id, node in copied.items():
        if unknown := _unknown_class(node_id, node, rules):
            return Validated(copied, unknown)
        known = rules(node["class_type"])
        wanted = only_outputs is None or node_id in only_outputs
        if wanted and known is not None and known.output_node:
            outputs.append(node_id)
    if not outputs:
        return Validated(copied, node_error("prompt_no_outputs", "Prompt has no outputs", ""))

    check = _Check(copied, rules)
    good: list[str] = []
    node_errors: dict[str, _NodeErrors] = {}
    failures: list[NodeError] = []
    for output in outputs:
        if check.output(output):
            good.append(output)
            continue
        failures += check.errors[output]
        for node_id, errors in check.errors.items():
            # A node that is only invalid because of one before it has no error of its own.
            if errors:
                found = node_errors.setdefault(
                    node_id, _NodeErrors(errors, copied[node_id]["class_type"])
                )
                found.dependent_outputs.append(output)
    reported: dict[str, JsonValue] = {
        node_id: errors.to_json() for node_id, errors in node_errors.items()
    }
    if good:
        return Validated(copied, None, good, reported)
    details = "\n".join(f"{error['message']}: {error['details']}" for error in failures)
    error = node_error(
        "prompt_outputs_failed_validation", "Prompt outputs failed validation", details
    )
    return Validated(copied, error, [], reported)


def full_type_name(kind: type) -> str:
    """A class as ComfyUI names it: with its module, unless it is built in."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True, slots=True)
class _NodeErrors:
    errors: list[NodeError]
    class_type: str
    dependent_outputs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "errors": list(self.errors),
            "dependent_outputs": list(self.dependent_outputs),
            "class_type": self.class_type,
        }


def _copy(node: object) -> object:
    if not isinstance(node, dict):
        return node
    inputs = node.get("inputs")
    return {**node, "inputs": dict(inputs)} if isinstance(inputs, dict) else node


def _unknown_class(node_id: str, node: object, rules: Rules) -> NodeError | None:
    fields: Mapping[str, JsonValue] = node if isinstance(node, dict) else {}
    meta = fields.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    class_type = fields.get("class_type")
    if "class_type" not in fields:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type. "
            "The workflow may be corrupted or a custom node is missing."
        )
    elif not isinstance(class_type, str) or rules(class_type) is None:
        title = title or str(class_type)
        message = f"Node '{title}' not found. The custom node may not be installed."
    else:
        return None
    return node_error(
        "missing_node_type",
        message,
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=class_type,
        node_title=title,
    )


_Steps: TypeAlias = "Generator[str, bool, bool]"
"""The check of one node. It asks for others by id, gets whether they are valid, and returns
whether it is valid itself."""


class _Check:
    """One pass over a prompt.

    Attributes:
        errors: Of each node looked at so far, its own.
    """

    def __init__(self, prompt: Prompt, rules: Rules) -> None:
        self._prompt = prompt
        self._rules = rules
        self._valid: dict[str, bool] = {}
        self._path: list[str] = []
        self.errors: dict[str, list[NodeError]] = {}

    def output(self, node_id: str) -> bool:
        """Check an output node and all before it. Returns whether it can run."""
        try:
            return self._run(node_id)
        # A prompt is anything that JSON can hold; whatever goes wrong is the prompt's error.
        except Exception as error:  # noqa: BLE001
            self._valid[node_id] = False
            self.errors[node_id] = [
                node_error(
                    "exception_during_validation",
                    "Exception when validating node",
                    str(error),
                    exception_type=full_type_name(type(error)),
                    # A traceback of this program would not help.
                    traceback=[],
                )
            ]
            return False

    def _run(self, node_id: str) -> bool:
        """Recursion with a stack of its own: a chain may be longer than Python's."""
        stack = [self._node(node_id)]
        valid: bool | None = None
        raised: Exception | None = None
        while stack:
            try:
                if raised is None:
                    asked = stack[-1].send(cast("bool", valid))
                else:
                    thrown, raised = raised, None
                    asked = stack[-1].throw(thrown)
            except StopIteration as done:
                stack.pop()
                valid = done.value
            except Exception as error:  # noqa: BLE001 (as in `output`: for the node before)
                stack.pop()
                raised = error
            else:
                stack.append(self._node(asked))
                valid = None
        if raised is not None:
            raise raised
        return bool(valid)

    def _node(self, node_id: str) -> _Steps:
        if node_id in self._valid:
            return self._valid[node_id]
        if node_id in self._path:
            self._report_cycle(node_id)
            return False
        given = self._prompt[node_id]["inputs"]
        rules = self._rules_of(node_id)
        live = live_inputs(rules.inputs, given)
        errors: list[NodeError] = []
        valid = True
        for name, spec in live.all().items():
            if name not in given:
                if name in live.required:
                    # ComfyUI's own words: of a dynamic input, only the last part of its name.
                    shown = name.rpartition(".")[2] if live.dynamic else name
                    errors.append(_missing(name, shown))
                continue
            kind, options = type_and_options(spec)
            value = given[name]
            if isinstance(value, list):
                found, ok = yield from self._link(node_id, rules, name, kind, options, value)
                valid = valid and ok
            else:
                found, given[name] = check_literal(rules, name, kind, options, value)
            if found:
                errors.append(found)
        errors += [
            node_error(
                "custom_validation_failed",
                "Custom validation failed for node",
                f"{name} - {words}" if words else name,
                input_name=name,
            )
            for name, words in rules.complaints(given).items()
        ]
        # A cycle through this node has already left its error here.
        before = self.errors.get(node_id, [])
        valid = valid and not errors and self._valid.get(node_id, True)
        self.errors[node_id] = before + [error for error in errors if error not in before]
        self._valid[node_id] = valid
        return valid

    def _link(
        self,
        node_id: str,
        rules: NodeRules,
        name: str,
        kind: JsonValue,
        options: dict[str, JsonValue],
        link: list[JsonValue],
    ) -> Generator[str, bool, tuple[NodeError | None, bool]]:
        """The error of a link itself, and whether what it leads to is valid."""
        config: JsonValue = [kind, options]
        if len(link) != 2:
            return node_error(
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                name,
                input_name=name,
                input_config=config,
                received_value=link,
            ), True
        # Subscripts may raise, like ComfyUI's: no such node, no such output, or no number.
        source = cast("str", link[0])
        self._prompt[source]
        outputs = self._rules_of(source).outputs
        received: JsonValue = "*" if outputs is None else outputs[cast("int", link[1])]
        if not rules.checks_types and not types_fit(received, kind):
            return node_error(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{name}, received_type({received}) mismatch input_type({kind})",
                input_name=name,
                input_config=config,
                received_type=received,
                linked_node=link,
            ), True
        self._path.append(node_id)
        try:
            valid = yield source
        except Exception as error:  # noqa: BLE001 (see `output`)
            self._valid[source] = False
            self.errors[source] = [
                node_error(
                    "exception_during_inner_validation",
                    "Exception when validating inner node",
                    str(error),
                    input_name=name,
                    input_config=config,
                    exception_message=str(error),
                    exception_type=full_type_name(type(error)),
                    traceback=[],
                    linked_node=link,
                )
            ]
            return None, False
        else:
            return None, valid
        finally:
            self._path.pop()

    def _rules_of(self, node_id: str) -> NodeRules:
        # All classes are known by now.
        return cast("NodeRules", self._rules(self._prompt[node_id]["class_type"]))

    def _report_cycle(self, node_id: str) -> None:
        around = [*self._path[self._path.index(node_id) :], node_id]
        members = list(dict.fromkeys(around))
        details = " -> ".join(f"{n} ({self._prompt[n]['class_type']})" for n in around)
        for member in members:
            self._valid[member] = False
            self.errors[member] = [
                node_error(
                    "dependency_cycle",
                    "Dependency cycle detected",
                    details,
                    node_id=member,
                    cycle_nodes=list(members),
                )
            ]


def _missing(name: str, shown: str) -> NodeError:
    return node_error("required_input_missing", "Required input is missing", shown, input_name=name)
