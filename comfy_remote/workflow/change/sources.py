"""Where the value of a linked input comes from: through primitives, reroutes and switches."""

from __future__ import annotations

from ...data_class import dataclass
from ...types import JsonValue
from ..graph import linked_node
from ..prompt import Node, Place, Prompt

__all__ = ["Sources", "only_way_back"]


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """Values of one kind, and what the nodes that only give one call it."""

    names: frozenset[str]
    types: tuple[type, ...]


# Of ComfyUI's primitives, and of those of the packs.
_NUMBER = _Kind(
    frozenset({"value", "int", "number", "seed", "noise_seed", "width", "height"}), (int, float)
)
_TEXT = _Kind(frozenset({"value", "text", "string", "prompt"}), (str,))

# ComfyUI's StringReplace and RegexReplace: a template is filled in by a chain of them.
_REPLACES = frozenset({"string", "replace"})
_LONGEST_CHAIN = 12


class Sources:
    """The values behind the links of a prompt that does not change. Each path is followed once."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._found: dict[tuple[_Kind, Place], Place | None] = {}
        self._users: dict[str, set[str]] | None = None
        self._depth = 0

    def number(
        self, place: Place, *, unless_it_feeds: frozenset[str] = frozenset()
    ) -> Place | None:
        """The input that holds the number which arrives at ``place`` (itself if it has no link).

        ``None`` if the number is computed, or also feeds an input that must not change: then put
        the new one into ``place`` instead of the link.
        """
        found = self._behind(place, _NUMBER)
        if found is None or found == place or not unless_it_feeds:
            return found
        return None if self._fed_by(found[0]) & unless_it_feeds else found

    def number_at(self, place: Place) -> int | float | None:
        """The number itself that arrives at ``place``; ``None`` if it is computed."""
        found = self._behind(place, _NUMBER)
        value = self._prompt[found[0]]["inputs"].get(found[1]) if found is not None else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(self, place: Place) -> Place | None:
        """The input that holds the text which arrives at ``place``; ``None`` if several make it.

        For a template that one text is filled into, that text.
        """
        return self._behind(place, _TEXT)

    def _fed_by(self, node_id: str) -> set[str]:
        """The names of all inputs that are linked to a node."""
        if self._users is None:
            self._users = {}
            for node in self._prompt.values():
                for name, value in node["inputs"].items():
                    if (link := linked_node(self._prompt, value)) is not None:
                        self._users.setdefault(link[0], set()).add(name)
        return self._users.get(node_id, set())

    def _behind(self, start: Place, kind: _Kind) -> Place | None:
        if self._link(start) is None:
            return start
        place: Place | None = start
        walked: dict[Place, None] = {}
        while place is not None and place not in walked and (kind, place) not in self._found:
            walked[place] = None
            link = self._link(place)
            if link is None:
                found = place if self._gives(place, kind) else None
                break
            place = self._before(place, link, kind)
        else:  # it is computed, is in a cycle, or has been found before
            found = self._found.get((kind, place)) if place is not None else None
        self._found.update(dict.fromkeys([(kind, one) for one in walked], found))
        return found

    def _before(self, place: Place, link: tuple[str, int], kind: _Kind) -> Place | None:
        """The input of the linked node that its value comes from."""
        node = self._prompt[link[0]]
        if kind is _TEXT and node["inputs"].keys() >= _REPLACES:
            return self._filled_in(link[0])
        named = [key for key in node["inputs"] if key.casefold() in kind.names]
        if len(named) > 1 and place[1] in named:
            named = [place[1]]
        if len(named) == 1:
            return link[0], named[0]
        onward = None if named else only_way_back(self._prompt, node)
        way = next((key for key, value in node["inputs"].items() if value is onward), None)
        computes = any(_is(value, (int, float, str)) for value in node["inputs"].values())
        return None if onward is None or way is None or computes else (link[0], way)

    def _filled_in(self, node_id: str) -> Place | None:
        """The one text that a chain of replacements fills into its template, or works on."""
        if self._depth >= _LONGEST_CHAIN:
            return None
        self._depth += 1
        try:
            texts: set[Place | None] = set()
            for _ in range(_LONGEST_CHAIN):
                if self._link((node_id, "replace")) is not None:
                    texts.add(self._behind((node_id, "replace"), _TEXT))
                link = self._link((node_id, "string"))
                if link is None:
                    return _only(texts) if texts else (node_id, "string")
                if not self._prompt[link[0]]["inputs"].keys() >= _REPLACES:
                    return _only({*texts, self._behind((node_id, "string"), _TEXT)})
                node_id = link[0]
            return None
        finally:
            self._depth -= 1

    def _gives(self, place: Place, kind: _Kind) -> bool:
        """Whether a node passes the value of its input on as it is.

        A text may also be one to work with (a language model's prompt), but not one that other
        nodes cut or join.
        """
        inputs = self._prompt[place[0]]["inputs"]
        as_it_is = kind is _TEXT and place[1].casefold() != "string"
        computes = not as_it_is and any(linked_node(self._prompt, v) for v in inputs.values())
        return _is(inputs.get(place[1]), kind.types) and not computes

    def _link(self, place: Place) -> tuple[str, int] | None:
        return linked_node(self._prompt, self._prompt[place[0]]["inputs"].get(place[1]))


def only_way_back(prompt: Prompt, node: Node) -> JsonValue:
    """The link through a node that passes one value on (reroute, switch); else ``None``."""
    inputs = node["inputs"]
    if "on_true" in inputs or "on_false" in inputs:  # ComfyUI's switch
        chosen = _setting(prompt, inputs.get("switch"))
        return None if chosen is None else inputs.get("on_true" if chosen else "on_false")
    links = [value for value in inputs.values() if linked_node(prompt, value)]
    return links[0] if len(links) == 1 else None


def _setting(prompt: Prompt, value: JsonValue) -> bool | None:
    """What a switch is set to: by itself, or by a primitive."""
    for _ in range(_LONGEST_CHAIN):
        link = linked_node(prompt, value)
        if link is None:
            break
        value = prompt[link[0]]["inputs"].get("value")
    return value if isinstance(value, bool) else None


def _only(texts: set[Place | None]) -> Place | None:
    """The one text there is, besides numbers and the like (``None``)."""
    found = [text for text in texts if text is not None]
    return found[0] if len(found) == 1 else None


def _is(value: JsonValue, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
