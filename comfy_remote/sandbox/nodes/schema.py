"""How a node declares its inputs and outputs, and how ComfyUI's API describes them.

ComfyUI has two ways to write a node ("V1" and "V3"), and ``/object_info`` and error bodies show
which one was used: a choice is ``[[...options], {}]`` in V1 and
``["COMBO", {"options": [...]}]`` in V3, and a V1 socket has no options at all. Clients must handle
both, so each node here is declared as in ComfyUI 0.33.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from ..folders import Folders

__all__ = [
    "MAX_RESOLUTION",
    "Input",
    "NodeSchema",
    "Output",
    "boolean",
    "choice",
    "floating",
    "integer",
    "socket",
    "string",
]

MAX_RESOLUTION = 16384


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a node.

    Attributes:
        type: ComfyUI's type name; ``COMBO`` for a choice.
        options: What else ``/object_info`` says: default, min, max, step.
        choices: For ``COMBO``: the values allowed, which may depend on the input folder.
    """

    name: str
    type: str
    options: dict[str, JsonValue] = field(default_factory=dict)
    required: bool = True
    choices: Callable[[Folders], Sequence[str]] | None = None


def socket(name: str, type_name: str) -> Input:
    """An input that only takes a link: ``IMAGE``, ``MASK``."""
    return Input(name, type_name)


def integer(
    name: str,
    default: int,
    minimum: int,
    maximum: int,
    *,
    required: bool = True,
    **options: JsonValue,
) -> Input:
    """An ``INT`` within ``minimum..maximum``."""
    limits: dict[str, JsonValue] = {"default": default, "min": minimum, "max": maximum}
    return Input(name, "INT", {**limits, **options}, required)


def floating(name: str, default: float, minimum: float, maximum: float, step: float) -> Input:
    """A ``FLOAT`` within ``minimum..maximum``."""
    limits: dict[str, JsonValue] = {"default": default, "min": minimum, "max": maximum}
    return Input(name, "FLOAT", {**limits, "step": step})


def boolean(name: str, default: bool) -> Input:
    """A ``BOOLEAN``."""
    return Input(name, "BOOLEAN", {"default": default})


def string(name: str, default: str, **options: JsonValue) -> Input:
    """A ``STRING``."""
    return Input(name, "STRING", {"default": default, **options})


def choice(name: str, choices: Sequence[str], **options: JsonValue) -> Input:
    """One of fixed ``choices``."""
    return Input(name, "COMBO", options, choices=lambda _folders: choices)


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a node; the nodes linked to a list run for each of its items."""

    type: str
    name: str = ""
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class NodeSchema:
    """What ``/object_info`` says about a node.

    Attributes:
        name: The ``class_type``.
        category: Where the editor lists it, ``/`` between parts.
        inputs: In the editor's order.
        outputs: In the order of link indices.
        style: How ComfyUI declares the node.
        embeds_prompt: The node gets the prompt and the workflow, to write into its files.
        deprecated: The page does not offer it.
        input_is_list: The node takes each input as a whole list, and runs once.
    """

    name: str
    display_name: str
    category: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    output_node: bool = False
    style: Literal["v1", "v3"] = "v1"
    embeds_prompt: bool = False
    module: str = "nodes"
    deprecated: bool = False
    description: str = ""
    input_is_list: bool = False

    @property
    def output_types(self) -> tuple[str, ...]:
        """The outputs' types."""
        return tuple(output.type for output in self.outputs)

    def _type_and_options(
        self, entry: Input, folders: Folders
    ) -> tuple[JsonValue, dict[str, JsonValue]]:
        """An input as ComfyUI itself holds it."""
        if entry.choices is None:
            return entry.type, entry.options
        choices: list[JsonValue] = list(entry.choices(folders))
        if self.style == "v1":
            return choices, entry.options
        return "COMBO", {**entry.options, "multiselect": False, "options": choices}

    def to_json(self, folders: Folders) -> dict[str, JsonValue]:
        """The node's entry in ``/object_info``."""
        inputs: dict[str, dict[str, JsonValue]] = {}
        for entry in self.inputs:
            type_name, options = self._type_and_options(entry, folders)
            # A V1 socket or choice without options is a list of one.
            bare = self.style == "v1" and not options
            group = inputs.setdefault("required" if entry.required else "optional", {})
            group[entry.name] = [type_name] if bare else [type_name, options]
        if self.embeds_prompt:
            hidden = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
            inputs["hidden"] = {
                name: value if self.style == "v1" else [value] for name, value in hidden.items()
            }
        return {
            "input": {group: dict(entries) for group, entries in inputs.items()},
            "input_order": {group: list(entries) for group, entries in inputs.items()},
            "is_input_list": self.input_is_list,
            "output": [output.type for output in self.outputs],
            "output_is_list": [output.is_list for output in self.outputs],
            "output_name": [output.name or output.type for output in self.outputs],
            "name": self.name,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": self.module,
            "category": self.category,
            "output_node": self.output_node,
            **({"deprecated": True} if self.deprecated else {}),
        }
