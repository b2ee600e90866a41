"""Changing a prompt's inputs by name: ``NODE.input=value``."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import WorkflowInvalid
from .load import refuse_constant
from .prompt import Node, Prompt, is_link

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["apply_overrides", "apply_settings", "find_node"]

_INFINITE = (math.inf, -math.inf)  # what Python reads 1e999 as


def apply_settings(prompt: Prompt, settings: Iterable[str]) -> Prompt:
    """The prompt with ``NODE.input=value`` settings applied.

    NODE is a node's id, its title, or its class where only one node has it. The value takes
    the type of the one it replaces; where there was none (or a link), it is read as JSON, and
    as text if it is not JSON.

    Raises:
        WorkflowInvalid: The setting is malformed, its node or input does not exist, or the
            value does not fit; with the nearest name there is.
    """
    changed = _copy(prompt)
    for setting in settings:
        left, equals, text = setting.partition("=")
        if not equals:
            raise _malformed(setting)
        node_id, key = _find_input(changed, left, setting)
        node = changed[node_id]
        _check_input(node_id, node, key)
        node["inputs"][key] = _value(node_id, key, node["inputs"][key], text)
    return changed


def apply_overrides(prompt: Prompt, overrides: Mapping[str, Mapping[str, JsonValue]]) -> Prompt:
    """The prompt with ``{node id: {input: value}}`` set. Values are taken as they are.

    Raises:
        WorkflowInvalid: A node or an input does not exist.
    """
    changed = _copy(prompt)
    for node_id, inputs in overrides.items():
        if node_id not in changed:
            raise _no_node(prompt, node_id)
        for key, value in inputs.items():
            _check_input(node_id, changed[node_id], key)
            changed[node_id]["inputs"][key] = value
    return changed


def find_node(prompt: Prompt, name: str) -> str:
    """The id of the node that ``name`` means: its id, its title, or its class.

    Raises:
        WorkflowInvalid: No node is called that, or several are.
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


def _find_input(prompt: Prompt, path: str, setting: str) -> tuple[str, str]:
    """Node and input of ``NODE.input``; a title may have dots in it, and so may an input."""
    parts = path.split(".")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
    splits = [(name, key) for name, key in splits if name and key]
    if not splits:
        raise _malformed(setting)
    for name, key in splits:
        for node_id, node in prompt.items():
            if name in (node_id, _title(node), _class(node)) and key in node["inputs"]:
                return find_node(prompt, name), key
    name, key = splits[-1]
    return find_node(prompt, name), key


def _malformed(setting: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"{setting!r} is not of the form NODE.input=value.",
        advice="For example: --set 3.seed=42, or --set KSampler.steps=20.",
    )


def _copy(prompt: Prompt) -> Prompt:
    return {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in prompt.items()}


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
        f"The workflow has no node {name!r}.{_did_you_mean(name, names)}",
        advice="Use a node's id, its title, or its class where only one has it.",
    )


def _check_input(node_id: str, node: Node, key: str) -> None:
    if key in node["inputs"]:
        return
    raise WorkflowInvalid(
        f"Node {node_id} ({node['class_type']}) has no input {key!r}."
        f"{_did_you_mean(key, node['inputs'])}",
        advice=f"It has: {', '.join(node['inputs']) or 'none'}.",
    )


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _value(node_id: str, key: str, old: JsonValue, text: str) -> JsonValue:
    if isinstance(old, str):
        return text
    try:
        value: JsonValue = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        value = text
    if old is None or is_link(old) or isinstance(old, list | dict):
        return value
    if isinstance(old, bool):
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool):
            raise _does_not_fit(node_id, key, text, "true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value in _INFINITE:
        raise _does_not_fit(node_id, key, text, "a number")
    return value


def _does_not_fit(node_id: str, key: str, text: str, wanted: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"{text!r} does not fit input {key} of node {node_id}, which takes {wanted}.",
        details={"node_id": node_id, "input": key},
    )
