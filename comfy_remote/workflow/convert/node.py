"""A node as the editor has it after loading a file: its slots, its widgets and their values.

`Node.restore` follows the editor's order of events, since each changes what the next one sees:
slots of the class, slots of the file, links (which grow lists of inputs), then values (each of
which may bring in the inputs of a dynamic combo's option).

Source of facts: ComfyUI's frontend 1.49.6 (node registration, `configure`, dynamic widgets).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import starmap

from ...errors import WorkflowInvalid
from ...types import JsonValue, as_list, mapping
from ..schema import AUTOGROW, DYNAMIC_COMBO, MATCH_TYPE, InputSchema, NodeSchema, input_schema
from .autogrow import Autogrow
from .document import BYPASSED, MUTED, Port, SavedNode, Slot
from .doubts import NodeDoubts, invalid
from .pack_scripts import COMPUTED, as_saved_today, brought_inputs, is_menu, pack_widgets
from .widgets import UNSET, Unset, Widget, exchanged, fits, is_widget, widgets_of

__all__ = ["Node"]

_MAX_INPUTS = 1_000  # of one node; far above any real one
_TOO_MANY = f"it has more than {_MAX_INPUTS} inputs"


@dataclass(slots=True)
class _Growth:
    """What a node's inputs and widgets follow from, where they come and go; by their names.

    Attributes:
        kinds: Of all its widgets.
        options: What each option of a dynamic combo brings along.
        brought: What each choice of a list brings along; ``brought_now`` is there.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    groups: dict[str, Autogrow] = field(default_factory=dict)
    options: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    brought: dict[str, Mapping[str, list[InputSchema]]] = field(default_factory=dict)
    brought_now: dict[str, list[str]] = field(default_factory=dict)

    def copy(self) -> _Growth:
        """The same, to be changed by itself."""
        return _Growth(
            self.kinds.copy(),
            self.groups.copy(),
            self.options.copy(),
            self.brought.copy(),
            self.brought_now.copy(),
        )


@dataclass(frozen=True, slots=True)
class _NewNode:
    """What the editor gives a new node of a class; the same objects for all, not to be changed.

    Attributes:
        inputs: Their names, types and widgets.
        saved: The widgets that have a place in the saved list of values.
        grows: Whether inputs or widgets come and go; if not, its nodes share the lists of them.
        has_forced: Whether an input asks for a link where its type has a widget.
    """

    inputs: tuple[tuple[str, str, str | None], ...]
    names: frozenset[str]
    widgets: list[Widget]
    saved: list[Widget]
    values: dict[str, JsonValue | Unset]
    growth: _Growth
    grows: bool
    has_forced: bool


class Node:
    """A node of a graph.

    Attributes:
        virtual: Whether it exists in the editor only, and never in a prompt.
        active: Whether it is neither muted nor bypassed.
        runs: Whether it is in the prompt itself.
        values: What its widgets hold, by name.
    """

    def __init__(self, saved: SavedNode, schema: NodeSchema | None, *, virtual: bool) -> None:
        self.id = saved.id
        self.type = saved.type
        self.mode = saved.mode
        self.properties = saved.properties
        self.title = saved.title or (schema.title if schema else saved.type)
        self.schema = schema
        self.saved = saved
        self.virtual = virtual
        self.inputs: list[Slot] = []
        self.outputs: list[Port] = saved.outputs
        self.widgets: list[Widget] = []
        self.values: dict[str, JsonValue | Unset] = {}
        self.active = saved.mode not in (MUTED, BYPASSED)
        self.runs = self.active and not virtual
        self._pack_widgets: frozenset[str] = frozenset()
        self._moved_from: int | None = None
        self._doubts: NodeDoubts | None = None

    @property
    def doubts(self) -> NodeDoubts:
        """Saved values that do not fit its widgets."""
        if self._doubts is None:
            self._doubts = NodeDoubts()
        return self._doubts

    @property
    def is_doubtful(self) -> bool:
        return self._doubts is not None

    def widget(self, name: str | None) -> Widget | None:
        return next((w for w in self.widgets if w.name == name), None)

    def restore(self) -> None:
        """Bring a node of a known class into the state that its file describes."""
        schema, saved = self.schema, self.saved
        if len(saved.inputs) > _MAX_INPUTS:
            raise invalid(self, _TOO_MANY)
        if schema is None:
            self.inputs = saved.inputs
            return
        self._pack_widgets = pack_widgets(schema, saved)
        try:
            new = _new_node(schema, self._pack_widgets)
        except WorkflowInvalid:
            raise invalid(self, _TOO_MANY) from None
        self.values = new.values.copy()
        self.widgets = new.widgets.copy() if new.grows else new.widgets
        self._growth = new.growth.copy() if new.grows else new.growth
        self._restore_inputs(new)
        self._restore_outputs(schema)
        if new.growth.groups:
            self._grow_for_links()
        self._restore_values(schema, new)
        if new.grows or len(self.inputs) > len(new.inputs):
            self._drop_stale_inputs()

    def moved_inputs(self) -> Iterator[tuple[int, Slot]]:
        """The inputs that moved while the file was restored, with their places.

        The editor updates their links at once; all others keep the file's places until everything
        is loaded.
        """
        if self._moved_from is not None:
            for index in range(self._moved_from, len(self.inputs)):
                yield index, self.inputs[index]

    def set_value(self, widget: Widget, value: JsonValue | Unset) -> None:
        """Give a widget its value, with what follows from it."""
        self.values[widget.name] = "" if value is None and _is_multiline(widget) else value
        if widget.kind == DYNAMIC_COMBO:
            self._switch(widget, value)
        elif widget.name in self._growth.brought:
            self._bring(widget, value)
        elif widget.kind == "option" and value and self.widgets[-1] is widget:
            self._add_option()

    # What the class gives.

    def begin_as_class(self, schema: NodeSchema, pack_widgets: frozenset[str]) -> _NewNode:
        """Bring a node without a file into the state of a new one."""
        self._growth = _Growth()
        self._pack_widgets = pack_widgets
        for spec in schema.inputs:
            self._add_socket(spec)
        for spec in schema.inputs:
            self._add_widget(spec)
        self._add_extra_widgets(schema)
        growth = self._growth
        return _NewNode(
            tuple((slot.name, slot.type, slot.widget) for slot in self.inputs),
            frozenset(slot.name for slot in self.inputs),
            self.widgets,
            [widget for widget in self.widgets if widget.saved],
            self.values,
            growth,
            grows=bool(growth.groups or growth.options or growth.brought)
            or any(widget.kind == "option" for widget in self.widgets),
            has_forced=any(spec.socket_only for spec in schema.inputs),
        )

    def _is_edited(self, spec: InputSchema) -> bool:
        return is_widget(spec) or spec.name in self._pack_widgets

    def _add_socket(self, spec: InputSchema) -> None:
        if self._is_edited(spec):
            return
        if spec.type == AUTOGROW:
            self._add_group(spec)
        elif spec.type == MATCH_TYPE:
            template = mapping(spec.options.get("template"))
            allowed = template.get("allowed_types")
            kind = allowed if isinstance(allowed, str) else "*"
            self._add_input(InputSchema(spec.name, kind, spec.options, spec.optional))
        else:
            self._append_slot(Slot(spec.name, spec.type))

    def _add_widget(self, spec: InputSchema) -> None:
        if not self._is_edited(spec):
            return
        for widget in widgets_of(spec):
            self._register(widget)
        if spec.widget_type == DYNAMIC_COMBO:
            self._add_dynamic_combo(spec)
        elif brought := brought_inputs(spec):
            self._growth.brought[spec.name] = brought
            own = next(w for w in self.widgets if w.name == spec.name)
            self._bring(own, self.values[spec.name])
        if not spec.options.get("socketless"):
            self._append_slot(Slot(spec.name, spec.type, widget=spec.name))

    def _add_input(self, spec: InputSchema) -> None:
        self._add_socket(spec)
        self._add_widget(spec)

    def _append_slot(self, slot: Slot) -> None:
        if len(self.inputs) > _MAX_INPUTS:
            raise invalid(self, _TOO_MANY)
        self.inputs.append(slot)

    def _register(self, widget: Widget) -> None:
        """Add a widget; one of a known name and kind shares the value that is there."""
        if self._growth.kinds.get(widget.name) != widget.kind:
            self.values[widget.name] = widget.default
            self._growth.kinds[widget.name] = widget.kind
        self.widgets.append(widget)

    def _add_extra_widgets(self, schema: NodeSchema) -> None:
        """Widgets that the editor's own extensions add to some classes."""
        if schema.name == "CustomCombo":
            self._register(Widget("index", "index"))
            self._add_option()
        elif any(_is_upload(spec) for spec in schema.inputs if not spec.optional):
            self._register(Widget("upload", "button", sent=False))

    def _add_option(self) -> None:
        self._register(Widget(f"option{len(self.widgets) - 1}", "option", ""))

    def _restore_outputs(self, schema: NodeSchema) -> None:
        saved = self.saved.outputs
        for index, kind in enumerate(schema.outputs):
            kind = "*" if kind == MATCH_TYPE else kind
            if index < len(saved):
                saved[index].type = kind
            else:
                saved.append(Port(kind, kind))

    # Dynamic combos: the chosen option decides which further inputs there are.

    def _add_dynamic_combo(self, spec: InputSchema) -> None:
        options: dict[str, JsonValue] = {}
        for option in map(mapping, as_list(spec.options.get("options"))):
            options[str(option.get("key"))] = option.get("inputs")
        self._growth.options[spec.name] = options
        widget = Widget(spec.name, DYNAMIC_COMBO, next(iter(options), UNSET), schema=spec)
        self._register(widget)
        self._switch(widget, self.values[widget.name])

    def _switch(self, widget: Widget, value: JsonValue | Unset) -> None:
        """Replace the inputs and widgets of one option by those of another."""
        prefix = f"{widget.name}."
        removed = [slot for slot in self.inputs if slot.name.startswith(prefix)]
        self.inputs = [slot for slot in self.inputs if not slot.name.startswith(prefix)]
        for old in [w for w in self.widgets if w.name.startswith(prefix)]:
            self.values.pop(old.name, None)
            self._growth.kinds.pop(old.name, None)
        self.widgets[:] = [w for w in self.widgets if not w.name.startswith(prefix)]
        chosen = self._growth.options[widget.name].get(value) if isinstance(value, str) else None
        if not chosen:
            return
        widget_count, slot_count = len(self.widgets), len(self.inputs)
        place = self.widgets.index(widget) + 1
        for group, optional in (("required", False), ("optional", True)):
            for key, spec in mapping(mapping(chosen).get(group)).items():
                self._add_input(input_schema(f"{prefix}{key}", spec, optional=optional))
        added = self.widgets[widget_count:]
        del self.widgets[widget_count:]
        self.widgets[place:place] = added
        own = next((i for i, s in enumerate(self.inputs) if s.name == widget.name), None)
        if own is None:
            return
        slots = self.inputs[slot_count:]
        del self.inputs[slot_count:]
        self.inputs[own + 1 : own + 1] = slots
        self._moved(own + 1)
        for old_slot in removed:
            index = next((i for i, s in enumerate(self.inputs) if s.name == old_slot.name), None)
            if index is not None:
                self.inputs[index].link = old_slot.link
                if old_slot.link is not None:
                    self._linked(index)

    # Lists whose chosen value brings along further inputs, right after it.

    def _bring(self, widget: Widget, value: JsonValue | Unset) -> None:
        """Replace the inputs that the last choice brought along by those of another."""
        specs = self._growth.brought[widget.name].get(value, []) if isinstance(value, str) else []
        gone = self._growth.brought_now.get(widget.name, [])
        for name in gone:
            self.values.pop(name, None)
            self._growth.kinds.pop(name, None)
        self.widgets[:] = [w for w in self.widgets if w.name not in gone]
        count, place = len(self.widgets), self.widgets.index(widget) + 1
        known = {slot.name for slot in self.inputs}
        for spec in specs:
            for added in widgets_of(spec):
                self._register(added)
            if spec.name not in known:
                self._append_slot(Slot(spec.name, spec.type, widget=spec.name))
        added_widgets = self.widgets[count:]
        del self.widgets[count:]
        self.widgets[place:place] = added_widgets
        self._growth.brought_now[widget.name] = [w.name for w in added_widgets]

    # Lists of inputs that grow: one more than are linked.

    def _add_group(self, spec: InputSchema) -> None:
        self._growth.groups[spec.name] = group = Autogrow.of(spec)
        for ordinal in range(min(max(1, group.least + 1), _MAX_INPUTS)):
            self._grow(spec.name, ordinal)

    def _grow(self, name: str, ordinal: int) -> None:
        group = self._growth.groups[name]
        if ordinal >= group.most or not group.inputs:
            return
        added: list[Slot] = []
        for inner in group.inputs:
            full = group.member(ordinal, inner.name)
            self._add_input(
                InputSchema(full, inner.type, inner.options, inner.optional, inner.choices)
            )
            slot = self.inputs.pop()
            if len(group.inputs) != 1 and self.widget(slot.name) is None:
                self.widgets.append(Widget(slot.name, "shim", saved=False, sent=False))
                slot.widget = slot.name
            added.append(slot)
        for slot in added:
            for same in [s for s in self.inputs if s.name == slot.name]:
                slot.link = slot.link if slot.link is not None else same.link
            self.inputs = [s for s in self.inputs if s.name != slot.name]
        before = group.member(ordinal - 1, group.inputs[-1].name)
        last = [i for i, s in enumerate(self.inputs) if s.name.startswith(before)]
        place = last[-1] + 1 if last else len(self.inputs)
        self.inputs[place:place] = added
        self._moved(place)

    def _moved(self, index: int) -> None:
        self._moved_from = index if self._moved_from is None else min(index, self._moved_from)

    def _linked(self, index: int) -> None:
        """A slot has a link: the list it belongs to grows by one."""
        slot = self.inputs[index]
        name = slot.name.rpartition(".")[0]
        group = self._growth.groups.get(name)
        if group is None:
            return
        if slot.widget is not None and self.widget(slot.widget) is None:
            self.widgets.append(Widget(slot.widget, "shim", saved=False, sent=False))
        ordinal = group.ordinal(slot.name)
        if ordinal is not None:
            self._grow(name, ordinal + 1)

    # What the file gives.

    def _restore_inputs(self, new: _NewNode) -> None:
        links = {slot.name: slot.link for slot in self.saved.inputs}
        self.inputs = [
            Slot(name, kind, links.get(name), widget) for name, kind, widget in new.inputs
        ]
        if not new.names.issuperset(links):
            self.inputs += [slot for slot in self.saved.inputs if slot.name not in new.names]

    def _grow_for_links(self) -> None:
        index = 0
        while index < len(self.inputs):  # the list grows on the way
            if self.inputs[index].link is not None:
                self._linked(index)
            index += 1

    def _restore_values(self, schema: NodeSchema, new: _NewNode) -> None:
        if self.type in COMPUTED:
            self.doubts.computed(COMPUTED[self.type])
        values = as_saved_today(self.type, self.id, self.saved.values)
        if isinstance(values, dict):
            self._restore_named(values)
        elif values:
            if new.has_forced:
                values = _without_forced(schema, self.widgets, values)
            self._restore_listed(values, new)
        for widget in self.widgets:
            if widget.kind != "COMBO" or widget.schema is None or not widget.schema.choices:
                continue
            if self.values.get(widget.name) is None or is_menu(self.type, widget.name):
                self.values[widget.name] = widget.schema.choices[0]

    def _restore_named(self, values: dict[str, JsonValue]) -> None:
        index = 0
        while index < len(self.widgets):
            widget = self.widgets[index]
            index += 1
            if widget.saved and widget.name in values:
                self.set_value(widget, values[widget.name])
        placed = {w.name: values[w.name] for w in self.widgets if w.name in values}
        self.doubts.find([(self._needed(name), value) for name, value in placed.items()])
        self.doubts.left_by_name({k: v for k, v in values.items() if k not in placed})

    def _needed(self, name: str) -> Widget:
        return next(widget for widget in self.widgets if widget.name == name)

    def _restore_listed(self, values: list[JsonValue], new: _NewNode) -> None:
        if new.grows:
            placed = self._place_in_turn(values)
        else:
            placed = list(zip(new.saved, values, strict=False))
            for widget, value in placed:
                self.values[widget.name] = "" if value is None and _is_multiline(widget) else value
        if not all(starmap(fits, placed)):
            moved = list(exchanged(placed, self._pack_widgets))
            for widget, value in moved:
                self.set_value(widget, value)
            self.doubts.moved(moved)
            self.doubts.find(placed)
        if self.saved.named_values:
            self.doubts.shifted(placed, self.saved.named_values)
        if placed and len(placed) < len(values):  # else what the node showed
            self.doubts.left_in_list(values[len(placed) :])

    def _place_in_turn(self, values: list[JsonValue]) -> list[tuple[Widget, JsonValue]]:
        """Give the values to the widgets, each of which may bring along further ones."""
        placed: list[tuple[Widget, JsonValue]] = []
        missing: set[str] = set()
        position = index = 0
        while index < len(self.widgets) and position < len(values):
            widget = self.widgets[index]
            index += 1
            if not widget.saved or widget.name in missing:
                continue
            self.set_value(widget, values[position])
            placed.append((widget, values[position]))
            position += 1
            missing |= self._not_saved(widget, index, len(values) - position)
        return placed

    def _not_saved(self, widget: Widget, index: int, left: int) -> set[str]:
        """Which of the inputs that a choice brought along have no value in the file.

        The last values belong to the widgets after them: the file is older than these inputs,
        which then have their defaults.
        """
        brought = self._growth.brought_now.get(widget.name)
        if not brought:
            return set()
        after = sum(other.saved for other in self.widgets[index + len(brought) :])
        return set(brought[max(0, left - after) :])

    def _drop_stale_inputs(self) -> None:
        """Inputs that were made from widgets which the class no longer has."""
        names = {widget.name for widget in self.widgets}
        self.inputs = [s for s in self.inputs if s.widget is None or s.widget in names]


@lru_cache(maxsize=1000)
def _new_node(schema: NodeSchema, pack_widgets: frozenset[str]) -> _NewNode:
    saved = SavedNode("", schema.name, None, 0, [], [], None, None, {})
    return Node(saved, schema, virtual=False).begin_as_class(schema, pack_widgets)


def _without_forced(
    schema: NodeSchema, widgets: Sequence[Widget], values: list[JsonValue]
) -> list[JsonValue]:
    """The values without those of inputs that once had a widget and no longer do."""
    names = {widget.name for widget in widgets}
    forced: list[bool] = []
    for spec in schema.inputs:
        if spec.name in names or spec.socket_only:
            forced.append(spec.socket_only)
            if spec.options.get("control_after_generate"):
                forced.append(False)
    if len(forced) != len(values):
        return values
    return [value for value, drop in zip(values, forced, strict=True) if not drop]


def _is_upload(spec: InputSchema) -> bool:
    options = spec.options
    media = ("image_upload", "video_upload", "animated_image_upload")
    if any(options.get(option) is True for option in media):
        return spec.type == "COMBO"
    return spec.name == "audio" and options.get("audio_upload") is True


def _is_multiline(widget: Widget) -> bool:
    """Whether it shows no value as an empty text."""
    if widget.schema is None or widget.kind not in ("STRING", "MARKDOWN"):
        return False
    return widget.kind == "MARKDOWN" or widget.schema.options.get("multiline") is True
