"""Changing a prompt's inputs by name: ``NODE.input=value``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...advice import Hint
from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..prompt import Node, Place, Prompt, with_inputs
from ..schema import Schemas
from .values import check_value, did_you_mean, input_schema_of, value_from_text

__all__ = ["apply_overrides", "apply_settings", "find_input", "find_node", "put"]


def apply_settings(
    prompt: Prompt,
    settings: Iterable[str] | Mapping[str, JsonValue],
    schemas: Schemas | None = None,
) -> Prompt:
    """The prompt with ``NODE.input=value`` settings applied, or with ``{"NODE.input": value}``.

    NODE is a node's id, its title, or its class if only one node has it. `value_from_text` reads
    the value. With schemas, inputs that the node may have but lacks can also be set.

    Raises:
        WorkflowInvalid: The setting is malformed, its node or input does not exist (with the
            nearest name), or the value does not fit.
    """
    if isinstance(settings, Mapping):
        for path, value in settings.items():
            place = find_input(prompt, path, schemas)
            check_value(prompt, *place, value, schemas)
            prompt = with_inputs(prompt, {place: value})
        return prompt
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise _malformed(setting)
        place = find_input(prompt, path, schemas, setting)
        value = value_from_text(prompt, *place, text, schemas)
        prompt = with_inputs(prompt, {place: value})
    return prompt


def find_input(
    prompt: Prompt, path: str, schemas: Schemas | None = None, setting: str | None = None
) -> Place:
    """Node and input of ``NODE.input``, which the node has, or may have.

    Args:
        setting: What was typed, for messages.

    Raises:
        WorkflowInvalid: There is none.
    """
    node_id, key = _find_input(prompt, path, path if setting is None else setting, schemas)
    if input_schema_of(prompt[node_id], key, schemas) is None:
        _check_input(node_id, prompt[node_id], key)
    return node_id, key


def put(
    prompt: Prompt, places: Iterable[Place], value: JsonValue, schemas: Schemas | None = None
) -> Prompt:
    """The prompt with one value in several inputs, after `check_value`."""
    values = dict.fromkeys(places, value)
    for node_id, key in values:
        check_value(prompt, node_id, key, value, schemas)
    return with_inputs(prompt, values)


def apply_overrides(prompt: Prompt, overrides: Mapping[str, Mapping[str, JsonValue]]) -> Prompt:
    """The prompt with ``{node id: {input: value}}`` set, unchecked but for the inputs' names."""
    values: dict[Place, JsonValue] = {}
    for node_id, inputs in overrides.items():
        if node_id not in prompt:
            raise _no_node(prompt, node_id)
        for key, value in inputs.items():
            _check_input(node_id, prompt[node_id], key)
            values[node_id, key] = value
    return with_inputs(prompt, values)


def find_node(prompt: Prompt, name: str) -> str:
    """The id of the node with that id, title, or class.

    Raises:
        WorkflowInvalid: There is none, or there are several.
    """
    if name in prompt:
        return name
    for called in (_title, _class):
        found = [node_id for node_id, node in prompt.items() if called(node) == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise WorkflowInvalid(
                f"{len(found)} nodes are called {name!r}: {', '.join(found)}.",
                advice="Use the id of the one you mean.",
            )
    raise _no_node(prompt, name)


def _find_input(prompt: Prompt, path: str, setting: str, schemas: Schemas | None) -> Place:
    """Node and input of ``NODE.input``; a title may have dots in it, and so may an input."""
    parts = path.split(".")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
    splits = [(name, key) for name, key in splits if name and key]
    if not splits:
        raise _malformed(setting)
    for name, key in splits:
        for node_id, node in prompt.items():
            if name in (node_id, _title(node), _class(node)) and (
                key in node["inputs"] or input_schema_of(node, key, schemas) is not None
            ):
                return find_node(prompt, name), key
    name, key = splits[-1]
    return find_node(prompt, name), key


def _malformed(setting: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"{setting!r} is not of the form NODE.input=value.",
        advice=Hint.EXAMPLE_SETTING(),
    )


def _title(node: Node) -> str | None:
    return node.get("_meta", {}).get("title")


def _class(node: Node) -> str:
    return node["class_type"]


def _no_node(prompt: Prompt, name: str) -> WorkflowInvalid:
    names = {
        *prompt,
        *(_class(n) for n in prompt.values()),
        *filter(None, map(_title, prompt.values())),
    }
    return WorkflowInvalid(
        f"The workflow has no node {name!r}.{did_you_mean(name, names)}",
        advice="Use a node's id, its title, or its class where only one has it.",
    )


def _check_input(node_id: str, node: Node, key: str) -> None:
    if key in node["inputs"]:
        return
    raise WorkflowInvalid(
        f"Node {node_id} ({node['class_type']}) has no input {key!r}."
        f"{did_you_mean(key, node['inputs'])}",
        advice=f"It has: {', '.join(node['inputs']) or 'none'}.",
    )
