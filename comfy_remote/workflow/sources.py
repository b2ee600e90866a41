"""Where the value of a linked input comes from: through primitives, reroutes and switches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .edit import Place
from .prompt import Node, Prompt, is_link

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["linked_node", "number_place", "only_way_back", "text_place", "uses_of"]

# What the nodes that only give a value call it: ComfyUI's primitives, and those of the packs.
_NUMBER_NAMES = frozenset({"value", "int", "number", "seed", "noise_seed", "width", "height"})
_TEXT_NAMES = frozenset({"value", "text", "string", "prompt"})


def number_place(prompt: Prompt, place: Place, *, unless_it_feeds: frozenset[str]) -> Place | None:
    """The input that holds the number which arrives at ``place``.

    Args:
        prompt: Where to look.
        place: An input; if it holds no link, it is the answer itself.
        unless_it_feeds: Names of inputs that must not change with it.

    Returns:
        ``None`` when the number is computed, or is shared with one that must not change: put
        the new one into ``place`` itself, instead of the link.
    """
    found = _place(prompt, place, _NUMBER_NAMES, (int, float))
    if found is None or found == place:
        return found
    shared = {key for _, key in uses_of(prompt, found[0])}
    return None if shared & unless_it_feeds else found


def text_place(prompt: Prompt, place: Place) -> Place | None:
    """The input that holds the text which arrives at ``place``; ``None`` if it is put together."""
    return _place(prompt, place, _TEXT_NAMES, (str,))


def linked_node(prompt: Prompt, value: JsonValue) -> tuple[str, int] | None:
    """Node and output of a link; ``None`` if it is no link, or leads nowhere."""
    if not is_link(value) or not isinstance(value, list) or value[0] not in prompt:
        return None
    return str(value[0]), int(value[1]) if isinstance(value[1], int | float) else 0


def only_way_back(prompt: Prompt, node: Node) -> JsonValue:
    """The link through a node that passes one value on (reroute, switch); else ``None``."""
    inputs = node["inputs"]
    if "on_true" in inputs or "on_false" in inputs:  # ComfyUI's switch
        chosen = inputs.get("switch")
        for _ in range(len(prompt)):
            link = linked_node(prompt, chosen)
            if link is None:
                break
            chosen = prompt[link[0]]["inputs"].get("value")
        if not isinstance(chosen, bool):
            return None
        return inputs.get("on_true" if chosen else "on_false")
    links = [value for value in inputs.values() if linked_node(prompt, value)]
    return links[0] if len(links) == 1 else None


def uses_of(prompt: Prompt, node_id: str) -> Iterator[Place]:
    """Every input that is linked to a node."""
    for user, node in prompt.items():
        for key, value in node["inputs"].items():
            link = linked_node(prompt, value)
            if link is not None and link[0] == node_id:
                yield user, key


def _place(
    prompt: Prompt, start: Place, names: frozenset[str], kinds: tuple[type, ...]
) -> Place | None:
    place = start
    for _ in range(len(prompt) + 1):
        link = linked_node(prompt, prompt[place[0]]["inputs"].get(place[1]))
        if link is None:
            return place if place == start or _gives(prompt, place, kinds) else None
        node = prompt[link[0]]
        named = [key for key in node["inputs"] if key.casefold() in names]
        if len(named) > 1 and place[1] in named:
            named = [place[1]]
        if len(named) == 1:
            place = (link[0], named[0])
            continue
        onward = None if named else only_way_back(prompt, node)
        way = next((key for key, value in node["inputs"].items() if value is onward), None)
        if (
            onward is None
            or way is None
            or any(_is(v, (int, float, str)) for v in node["inputs"].values())
        ):
            return None  # it has values of its own: it computes
        place = (link[0], way)
    return None  # a cycle


def _gives(prompt: Prompt, place: Place, kinds: tuple[type, ...]) -> bool:
    """Whether a node gives the value of its input on as it is (or as one to work with: texts)."""
    inputs = prompt[place[0]]["inputs"]
    computes = str not in kinds and any(linked_node(prompt, value) for value in inputs.values())
    return _is(inputs.get(place[1]), kinds) and not computes


def _is(value: JsonValue, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
