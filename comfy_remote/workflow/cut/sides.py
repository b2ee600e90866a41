"""Where each node runs: on the marked target, here, or on every side that uses what it makes.

A node whose values can travel runs where it is marked to. One that only makes objects (a loader,
a LoRA, a patch, a guider) is copied to each side that uses them. The nodes that remain share
an object that can be neither sent nor made twice: they run on the marked target together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..graph import consumers, find_cycle, links
from ..prompt import Prompt
from ..schema import Schemas
from .crossing import DATA, Values
from .plan import at, impossible, listed

__all__ = ["HERE", "Side", "Sides", "Surroundings", "place"]

Side: TypeAlias = "str | None"
"""The name of a marked target, or `HERE`."""
HERE: Side = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a cut is made in.

    Attributes:
        prompt: Only nodes that an output needs.
        ordered: These nodes, each after those it is linked to.
        known: Their classes, as far as known.
        local: The local classes.
        remote: The classes of each target; ``None`` if unknown.
    """

    prompt: Prompt
    ordered: Sequence[str]
    values: Values
    known: Schemas
    local: Schemas
    remote: Mapping[str, Schemas | None]

    def class_of(self, node_id: str) -> str:
        return self.prompt[node_id]["class_type"]


@dataclass(frozen=True)
class Sides:
    """Where each node runs.

    Attributes:
        home: The side of each node that runs in one place only; the others are copied.
        bundles: These nodes, in order; those that must run in one job are together.
        notes: Decisions that the marks do not say.
    """

    around: Surroundings
    home: Mapping[str, Side]
    bundles: Sequence[tuple[str, ...]] = ()
    notes: list[str] = field(default_factory=list)

    def objects(self, nodes: Iterable[str]) -> dict[str, str]:
        """The nodes to copy for these, each with one that needs it."""
        values = self.around.values
        found: dict[str, str] = {}
        waiting = deque(nodes)
        while waiting:
            user = waiting.popleft()
            for _, source, index in links(self.around.prompt[user]):
                if source in self.home or source in found:
                    continue
                if not values.travels(values.source(source, index)):
                    found[source] = user
                    waiting.append(source)
        return found

    def sources(self, nodes: Iterable[str]) -> set[str]:
        """The nodes whose values these need, themselves or by way of what is copied for them."""
        own = set(nodes)
        own |= self.objects(own).keys()
        needed = {source for n in own for _, source, _ in links(self.around.prompt[n])}
        return needed - own


def place(around: Surroundings, marks: Mapping[str, str]) -> Sides:
    """Decide where each node runs.

    Raises:
        CutImpossible: A target lacks a node, or two targets would have to share an object.
    """
    placing = _Placing(around, marks)
    placing.bind()
    placing.untangle()
    return placing.outcome()


class _Placing:
    def __init__(self, around: Surroundings, marks: Mapping[str, str]) -> None:
        self._around = around
        self._place = {node_id: place for place, node_id in enumerate(around.ordered)}
        self._users = consumers(around.prompt, around.ordered)
        self._notes: list[str] = []
        self._marks = self._with_absent(marks)
        self._copied = {n for n in around.ordered if self._can_be_copied(n)}
        self._bundle = {n: frozenset({n}) for n in around.ordered if n not in self._copied}

    def bind(self) -> None:
        """Merge nodes that share an object which can be neither sent nor made twice."""
        values = self._around.values
        reached: dict[str, set[str]] = {}
        for node_id in self._around.ordered:
            needs: set[str] = set()
            for _, source, index in links(self._around.prompt[node_id]):
                if not values.travels(values.source(source, index)):
                    needs |= reached[source] if source in self._copied else {source}
            if node_id in self._copied:
                reached[node_id] = needs
            elif needs:
                self._merge([node_id, *needs])

    def untangle(self) -> None:
        """Merge bundles that wait for each other, until none does."""
        while cycle := self._cycle():
            self._merge(cycle)

    def outcome(self) -> Sides:
        home = self._homes()
        bundles: dict[tuple[str, ...], None] = {}
        for node_id, side in home.items():
            together = self._bundle[node_id] if side is not HERE else {node_id}
            bundles[tuple(self._sorted(together))] = None
        sides = Sides(self._around, home, [*bundles], self._notes)
        self._refuse_lacking(sides)
        self._note_pulled(sides)
        self._note_idle(sides)
        return sides

    def _with_absent(self, marks: Mapping[str, str]) -> dict[str, str]:
        """The marks; and a node that is not here goes to the one marked target that has it."""
        found = {n: marks[n] for n in self._around.ordered if n in marks}
        names = set(found.values())
        for node_id in self._around.ordered:
            kind = self._around.class_of(node_id)
            if node_id in found or kind in self._around.local:
                continue
            having = [
                name
                for name in names
                if (has := self._around.remote.get(name)) is not None and kind in has
            ]
            if len(having) == 1:
                found[node_id] = having[0]
                self._notes.append(
                    f"{self._listed([node_id])} runs {at(having[0])}: it is not installed here."
                )
        return found

    def _can_be_copied(self, node_id: str) -> bool:
        """Whether it makes objects and nothing else, and may be run on several sides."""
        values, known = self._around.values, self._around.known
        kind = self._around.class_of(node_id)
        schema, document = known.get(kind), known.document(kind) or {}
        if schema is None or schema.output_node or kind not in self._around.local:
            return False
        if document.get("api_node"):  # a paid service is not to be called twice
            return False
        used = {values.source(node_id, index) for _, _, index in self._users.get(node_id, ())}
        if not used or not all(map(values.is_object, used)):
            return False
        # Work on pictures that somebody marked stays where it is marked, whatever it makes (a
        # mesh): it may be what the target was rented for.
        return node_id not in self._marks or not any(
            values.type(values.source(source, index)) in DATA
            for _, source, index in links(self._around.prompt[node_id])
        )

    def _sorted(self, nodes: Iterable[str]) -> list[str]:
        return sorted(nodes, key=self._place.__getitem__)

    def _merge(self, nodes: Iterable[str]) -> None:
        merged: frozenset[str] = frozenset().union(*(self._bundle[n] for n in nodes))
        self._bundle.update(dict.fromkeys(merged, merged))

    def _homes(self) -> dict[str, Side]:
        home: dict[str, Side] = {}
        for node_id in self._around.ordered:
            if node_id not in self._bundle or node_id in home:
                continue
            bundle = self._sorted(self._bundle[node_id])
            marked = {self._marks[n]: n for n in bundle if n in self._marks}
            if len(marked) > 1:
                shown = ", ".join(f"{self._listed([n])} {at(name)}" for name, n in marked.items())
                raise impossible(
                    self._around.prompt,
                    "What passes between nodes that are marked to run on different targets "
                    f"cannot travel: {shown}.",
                    "Mark them to run on the same target.",
                    marked.values(),
                    "It is bound to a node that is marked to run on another target",
                )
            home.update(dict.fromkeys(bundle, next(iter(marked), HERE)))
        return {n: home[n] for n in self._around.ordered if n in home}

    def _cycle(self) -> list[str] | None:
        """Nodes that wait for each other, where a bundle at a target is one; or ``None``."""
        home = self._homes()
        units = {n: frozenset({n}) if side is HERE else self._bundle[n] for n, side in home.items()}
        sides = Sides(self._around, home)
        needs = {unit: {units[n] for n in sides.sources(unit)} - {unit} for unit in units.values()}
        found = find_cycle(needs)
        return [next(iter(unit)) for unit in found] if found else None

    def _refuse_lacking(self, sides: Sides) -> None:
        for name, has in self._around.remote.items():
            nodes = [n for n, side in sides.home.items() if side == name]
            if has is None or not nodes:
                continue
            needed = {**sides.objects(nodes), **dict.fromkeys(nodes, "")}
            missing = {n: u for n, u in needed.items() if self._around.class_of(n) not in has}
            if not missing:
                continue
            users = [n for n in dict.fromkeys(missing.values()) if n and n not in missing]
            needed_by = f", needed by {self._listed(users)}" if users else ""
            raise impossible(
                self._around.prompt,
                f"{has.source} does not have the nodes that would have to run there: "
                f"{self._listed(missing)}{needed_by}.",
                "Install their node packs there, mark other nodes, or take another target.",
                missing,
                f"{has.source} does not have it",
                lacking=name,
            )

    def _note_pulled(self, sides: Sides) -> None:
        for name in dict.fromkeys(self._marks.values()):
            pulled = [n for n, at_ in sides.home.items() if at_ == name and n not in self._marks]
            if pulled:
                self._notes.append(
                    f"Also {at(name)}, though not marked: {self._listed(pulled)}. What passes "
                    "between them and marked nodes cannot travel."
                )

    def _note_idle(self, sides: Sides) -> None:
        for name in dict.fromkeys(self._marks.values()):
            copied = sides.objects(n for n, side in sides.home.items() if side == name)
            idle = [n for n in self._copied if self._marks.get(n) == name and n not in copied]
            if idle:
                self._notes.append(
                    f"Marked, but not needed {at(name)}: {self._listed(self._sorted(idle))}. "
                    "Models and the like are made where they are used."
                )

    def _listed(self, nodes: Iterable[str]) -> str:
        return listed(self._around.prompt, nodes)
