"""The graphs of a workflow to a prompt.

Source of facts: ComfyUI's frontend 1.49.6 (`graphToPrompt`).
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..change.file_names import as_text, fill_in, has_placeholders
from ..output_nodes import OUTPUT_NODES
from ..packs import pack_for_people, said_pack
from ..prompt import Node as PromptNode
from ..prompt import Place, Prompt
from ..schema import Schemas
from .document import read_document, renumber
from .doubts import Doubt, invalid
from .dynamic_prompts import resolve_choices
from .graph import Graph, Host
from .loading import load_graph
from .node import Node
from .pack_scripts import DRAWS_SEED
from .primitives import apply_primitives
from .resolve import Given, Origin, Resolver, Scope
from .unknown_classes import LORA_LISTS, lora_list, named_values, nameless_values
from .virtual import PRIMITIVE, REFUSED
from .widgets import UNSET, Unset, Widget

__all__ = ["Converted", "convert", "convert_workflow"]

_MAX_NODES = 100_000
_EXACT = 2**53
"""Up to here, JavaScript's numbers hold every whole number."""
_ALIAS = "Node name for S&R"
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_LIVE = {
    "LOAD_3D": "a view of a 3D scene that only the editor can render",
    "LOAD_3D_ANIMATION": "a view of a 3D scene that only the editor can render",
    "WEBCAM": "a picture that only the editor can take from a camera",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """A prompt, and the saved values in it that may belong to other inputs.

    Attributes:
        names: Node ids by what placeholders (``%Name.input%``) call the nodes.
        primitives: Where the values of ``%Name.value%`` stand, for names of primitive nodes.
    """

    prompt: Prompt
    doubts: tuple[Doubt, ...]
    names: Mapping[str, str]
    primitives: Mapping[str, Place]


def convert_workflow(
    workflow: Mapping[str, JsonValue],
    schemas: Schemas,
    *,
    rng: random.Random | None = None,
    now: datetime | None = None,
    keep_unknown: bool | None = None,
) -> Prompt:
    """The prompt of `convert`, whatever is doubtful in it."""
    return _converted(workflow, schemas, rng, now, keep_unknown, fill_names=True)[1]


def convert(
    workflow: Mapping[str, JsonValue],
    schemas: Schemas,
    *,
    rng: random.Random | None = None,
    now: datetime | None = None,
    keep_unknown: bool | None = None,
    fill_names: bool = True,
) -> Converted:
    """Convert a workflow in UI format (schema 0.4 or 1.0) to a prompt.

    Muted nodes and nodes that exist in the editor only are omitted, bypassed ones are passed
    through, subgraphs are expanded (ids like ``12:5``), and texts are completed as on queueing:
    one of the choices of ``{a|b}``, and ``%date:…%`` and ``%Node.widget%`` in file names.

    A node of an unknown class is converted if the file names all its values, as newer files do;
    if not, ``keep_unknown`` decides.

    Args:
        schemas: The node classes of the ComfyUI it is for, or `Schemas.bundled`.
        rng: Makes the choices.
        now: The local time for ``%date:…%``; the present by default.
        keep_unknown: Whether a node of an unknown class whose values have no names is kept, as the
            editor does, with its links and with values named ``UNKNOWN``, or refused. By default
            it is refused only with the bundled snapshot, which does not know the target's nodes.
        fill_names: Whether the placeholders in file names are filled in.

    Raises:
        WorkflowInvalid: It is not a workflow, or something in it cannot be converted exactly;
            names the node, and says why and what to do.
    """
    conversion, prompt = _converted(
        workflow, schemas, rng, now, keep_unknown, fill_names=fill_names
    )
    return Converted(prompt, tuple(conversion.doubts), conversion.names(), conversion.primitives())


def _converted(
    workflow: Mapping[str, JsonValue],
    schemas: Schemas,
    rng: random.Random | None,
    now: datetime | None,
    keep_unknown: bool | None,
    *,
    fill_names: bool,
) -> tuple[_Conversion, Prompt]:
    try:
        document = read_document(workflow)
        if schemas.has_dynamic_inputs:  # then its editor is of the generation that renumbers
            renumber(document)
        root = load_graph(document, schemas)
        keep = not schemas.is_snapshot if keep_unknown is None else keep_unknown
        conversion = _Conversion(root, schemas, rng, now, keep_unknown=keep, fill_names=fill_names)
        return conversion, conversion.prompt()
    except RecursionError:
        raise WorkflowInvalid(
            "The workflow is nested, or linked in a chain, too deeply to be converted."
        ) from None


class _Conversion:
    """One conversion: the graphs, and what the texts in them need."""

    def __init__(
        self,
        root: Graph,
        schemas: Schemas,
        rng: random.Random | None,
        now: datetime | None,
        *,
        keep_unknown: bool,
        fill_names: bool,
    ) -> None:
        self._root = root
        self._resolver = Resolver()
        self._keep_unknown = keep_unknown
        self._fill_names = fill_names
        self._ids: dict[int, str] = {}
        self._schemas = schemas
        self._given_rng = rng
        self._given_now = now
        self._aliases: dict[str, Node] | None = None
        self.doubts: list[Doubt] = []

    @cached_property
    def _rng(self) -> random.Random:
        return self._given_rng or random.Random()

    @cached_property
    def _now(self) -> datetime:
        return self._given_now or datetime.now().astimezone()

    def prompt(self) -> Prompt:
        for graph in self._graphs():
            apply_primitives(graph, self._replace)
        prompt: Prompt = {}
        for scope, node in self._executable():
            node_id = scope.node_id(node)
            prompt[node_id] = self._convert(scope, node)
            self._ids.setdefault(id(node), node_id)
            if len(prompt) > _MAX_NODES:
                raise WorkflowInvalid(f"The workflow expands to more than {_MAX_NODES} nodes.")
        for converted in prompt.values():
            inputs = converted["inputs"]
            dangling = [k for k, v in inputs.items() if isinstance(v, list) and v[0] not in prompt]
            for name in dangling:
                del inputs[name]
        return {node_id: prompt[node_id] for node_id in _in_file_order(prompt)}

    def _graphs(self) -> Iterator[Graph]:
        """The root graph and every definition in use, each once."""
        waiting, seen = [self._root], {id(self._root)}
        while waiting:
            graph = waiting.pop()
            yield graph
            for node in graph.nodes.values():
                if isinstance(node, Host) and id(node.definition) not in seen:
                    seen.add(id(node.definition))
                    waiting.append(node.definition)

    def _executable(self) -> Iterator[tuple[Scope, Node]]:
        root = Scope(self._root)
        for node in self._root.in_order():
            if node.runs:
                yield root, node
            elif isinstance(node, Host) and node.active:
                yield from self._expand(root, node, [0])

    def _expand(self, scope: Scope, host: Host, count: list[int]) -> Iterator[tuple[Scope, Node]]:
        # Inside a subgraph the editor expands an instance whatever its mode: muting one mutes
        # what is in it.
        count[0] += len(host.definition.nodes)
        if count[0] > _MAX_NODES:
            raise WorkflowInvalid(f"The workflow expands to more than {_MAX_NODES} nodes.")
        self._note(scope, host, {})
        inside = scope.inside(host)
        for node in host.definition.nodes.values():
            if node.runs:
                yield inside, node
            elif isinstance(node, Host):
                yield from self._expand(inside, node, count)

    def _convert(self, scope: Scope, node: Node) -> PromptNode:
        if node.type in REFUSED:
            raise invalid(node, REFUSED[node.type])
        if node.type in LORA_LISTS:
            inputs = lora_list(node.saved)
        elif node.schema is None:
            inputs = self._unknown_inputs(node)
        else:
            inputs = {}
            for widget in node.widgets:
                value = self._sent(node, widget)
                if not isinstance(value, Unset):
                    inputs[widget.name] = value
        for index, slot in enumerate(node.inputs):
            if slot.link is None:
                continue
            source = self._resolver.input(scope, node, index)
            if isinstance(source, Origin):
                inputs[slot.name] = [source.node_id, source.slot]
            elif isinstance(source, Given):
                if isinstance(source.value, Unset):
                    inputs.pop(slot.name, None)
                else:
                    inputs[slot.name] = _wrapped(source.value)
        for widget in node.widgets:
            if widget.kind in _LIVE and not _is_link(inputs.get(widget.name)):
                raise invalid(node, f"its input {widget.name!r} is {_LIVE[widget.kind]}")
        self._note(scope, node, inputs)
        if not all(_is_finite(v) for v in inputs.values() if isinstance(v, (float, dict))):
            raise invalid(node, "a number in it is too large for JSON")
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title}}

    def _note(self, scope: Scope, node: Node, inputs: Mapping[str, JsonValue]) -> None:
        if not node.is_doubtful:
            return
        for name, message in node.doubts.sentences:
            if name is None or not _is_link(inputs.get(name)):
                self.doubts.append(Doubt(scope.node_id(node), node.type, name, f"{message}."))

    def _unknown_inputs(self, node: Node) -> dict[str, JsonValue]:
        values = named_values(node.saved)
        if values is None and node.saved.only_lists_models:
            values = {"text": node.saved.first_text}
        if values is None and self._keep_unknown:
            values = nameless_values(node.saved)
        if values is None:
            pack = said_pack(node.saved.properties)
            of_pack = f", of {pack_for_people(pack[0])}," if pack else ""
            raise invalid(
                node,
                f"its class{of_pack} is unknown here, and the file does not say which value "
                "belongs to which input",
                self._schemas.unknown(node.type),
            )
        return {name: _wrapped(value) for name, value in values.items()}

    def _sent(self, node: Node, widget: Widget) -> JsonValue | Unset:
        if not widget.sent:
            return UNSET
        value = node.values.get(widget.name, UNSET)
        if widget.kind == "index":
            options = [node.values.get(w.name) for w in node.widgets[2:]]
            chosen = node.values.get("choice")
            return options.index(chosen) if chosen in options else -1
        if widget.kind == "AUDIO_RECORD":
            return ""  # what was recorded is in the editor only, until it is queued
        if isinstance(value, str):
            if widget.dynamic:
                return resolve_choices(value, self._rng)
            if "%" in value and self._fill_names and has_placeholders(node.type, widget.name):
                return self._replace(value)
        if _is_any_seed(node, widget, value):
            return self._rng.randrange(2**48)
        return value if isinstance(value, Unset) else _wrapped(value)

    def _replace(self, text: str) -> str:
        return fill_in(text, self._lookup, self._now) if "%" in text else text

    def _lookup(self, name: str, widget_name: str) -> str | None:
        """The value of a node's widget; the node is named by its alias, else by its title."""
        node = self._named().get(name)
        if node is not None and node.type == PRIMITIVE and widget_name == "value":
            node, widget_name = self._written().get(name, (None, ""))
        widget = node.widget(widget_name) if node is not None else None
        if node is None or widget is None:
            return None
        value = node.values.get(widget.name)
        return "" if isinstance(value, Unset) else as_text(value)

    def names(self) -> dict[str, str]:
        """The ids of nodes in the prompt, by alias or title."""
        return {
            name: self._ids[id(node)]
            for name, node in self._named().items()
            if id(node) in self._ids
        }

    def primitives(self) -> dict[str, Place]:
        """The inputs that primitive nodes write to, by the node's alias or title."""
        return {
            name: (self._ids[id(node)], key)
            for name, (node, key) in self._written().items()
            if id(node) in self._ids
        }

    def _written(self) -> dict[str, tuple[Node, str]]:
        """The node and the widget that a primitive writes to first, by the primitive's name."""
        names = {id(n): name for name, n in self._named().items() if n.type == PRIMITIVE}
        found: dict[str, tuple[Node, str]] = {}
        for graph in self._graphs() if names else ():
            for node in graph.nodes.values():
                links = node.outputs[0].links if id(node) in names and node.outputs else []
                for target in map(graph.target, links):
                    if target is not None and target[1].widget is not None:
                        found.setdefault(names[id(node)], (target[0], target[1].widget))
        return found

    def _named(self) -> dict[str, Node]:
        if self._aliases is None:
            nodes = [node for graph in self._graphs() for node in graph.nodes.values()]
            titles = {node.title: node for node in reversed(nodes)}
            aliases = {alias: n for n in reversed(nodes) if (alias := _alias(n)) is not None}
            self._aliases = {**titles, **aliases}
        return self._aliases


def _is_any_seed(node: Node, widget: Widget, value: JsonValue | Unset) -> bool:
    """Whether a seed is -1 on a node whose script then draws one on queueing."""
    return node.type in DRAWS_SEED and widget.name in ("seed", "noise_seed") and value == -1


def _alias(node: Node) -> str | None:
    alias = node.properties.get(_ALIAS)
    if isinstance(alias, str):
        return alias
    # The page gives a node its class as an alias, unless it fills in placeholders in its names.
    known = OUTPUT_NODES.get(node.type)
    named = node.schema is not None and not (known is not None and known.placeholders)
    return node.type if named else None


def _in_file_order(prompt: Prompt) -> list[str]:
    """Ids as the editor's files have them: JavaScript puts keys that are whole numbers first."""
    numbers = [key for key in prompt if _WHOLE_NUMBER.fullmatch(key)]
    known = set(numbers)
    return [*sorted(numbers, key=int), *(key for key in prompt if key not in known)]


def _wrapped(value: JsonValue) -> JsonValue:
    """A value of the prompt's own. A list is wrapped, since by itself it would be a link."""
    if isinstance(value, list):
        return {"__value__": copy.deepcopy(value)}
    if isinstance(value, int) and not -_EXACT <= value <= _EXACT:
        return _as_javascript_reads(value)
    return copy.deepcopy(value) if isinstance(value, dict) else value


def _as_javascript_reads(value: int) -> JsonValue:
    """A whole number with the digits that are left of it in the editor: 2⁶³ ends in 6000."""
    try:
        number = float(value)
    except OverflowError:
        return math.inf  # and is refused
    return int(Decimal(repr(number))) if abs(number) < 1e21 else number


def _is_finite(value: JsonValue) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, dict) or all(map(_is_finite, value.values()))


def _is_link(value: JsonValue) -> bool:
    return isinstance(value, list)
