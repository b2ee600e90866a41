"""Checking a prompt before it is queued: ComfyUI's rules over the sandbox's own nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from pydantic import JsonValue

from ..workflow.check.rules import NodeRules
from ..workflow.check.validation import Validated
from ..workflow.check.validation import validate_prompt as validate
from ..workflow.prompt import Prompt
from .folders import Folders
from .nodes import NODES
from .nodes.base import Node

__all__ = ["validate_prompt"]


def validate_prompt(
    prompt: Prompt, folders: Folders, only_outputs: Collection[str] | None = None
) -> Validated:
    """`workflow.check.validate_prompt` for the sandbox's nodes and the files in ``folders``."""

    def rules(class_type: str) -> NodeRules | None:
        node = NODES.get(class_type)
        if node is None:
            return None
        declared = node.schema.to_json(folders)["input"]
        return NodeRules(
            inputs=declared if isinstance(declared, dict) else {},
            outputs=node.schema.output_types,
            output_node=node.schema.output_node,
            judges=lambda name, _spec, _value: name in node.own_checks,
            complaints=partial(_complaints, node, folders),
        )

    return validate(prompt, rules, only_outputs)


def _complaints(
    node: type[Node], folders: Folders, given: Mapping[str, JsonValue]
) -> Mapping[str, str]:
    """What the node's own check says, under the name of each input it judges."""
    if any(isinstance(given.get(name), list) for name in node.own_checks):
        return {}  # linked: the value is not known before the run
    names = sorted(node.own_checks & given.keys())
    complaint = node.check(folders, given) if names else None
    return dict.fromkeys(names, complaint) if complaint else {}
