"""The nodes of each target as jobs: as few as can be, and none that waits for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from typing import TypeAlias

from ..graph import find_cycle
from .plan import at, listed
from .sides import HERE, Side, Sides

__all__ = ["Group", "group"]

Group: TypeAlias = "tuple[str, ...]"
"""Nodes that run as one job, in order."""

_Bundle: TypeAlias = "tuple[str, ...]"


def group(sides: Sides) -> list[Group]:
    """The jobs that run elsewhere.

    Nodes of one target that feed each other, or use the same model, are one job. Where a path
    leads out of it and back in, it is split: what comes before the way out, and what comes after
    the way in. (A chain over two targets can tie jobs together likewise.)
    """
    grouping = _Grouping(sides)
    grouping.untangle()
    return grouping.groups()


class _Grouping:
    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        home = sides.home
        self._bundle = {node_id: bundle for bundle in sides.bundles for node_id in bundle}
        self._needs: dict[_Bundle, set[_Bundle]] = {
            bundle: {self._bundle[n] for n in sides.sources(bundle)} - {bundle}
            for bundle in sides.bundles
        }
        self._name = {bundle: home[bundle[0]] for bundle in sides.bundles}
        self._group = self._connected()
        self._stage = self._stages()

    def untangle(self) -> None:
        """Split groups until none waits for itself.

        By stages, which always ends it: a path that leaves a target goes to a later stage, so
        none comes back to the stage it has left.
        """
        while cycle := find_cycle(self._waits()):
            split = {
                bundle: (*identity, self._stage[bundle])
                for bundle, identity in self._group.items()
                if identity in cycle and len(identity) == 1 and self._name[bundle] is not HERE
            }
            self._note_split(split)
            self._group.update(split)

    def groups(self) -> list[Group]:
        members: dict[tuple[object, ...], list[str]] = {}
        for node_id in self._sides.home:
            bundle = self._bundle[node_id]
            if self._name[bundle] is not HERE:
                members.setdefault(self._group[bundle], []).append(node_id)
        return [*map(tuple, members.values())]

    def _connected(self) -> dict[_Bundle, tuple[object, ...]]:
        """Bundles of one target that are linked, or for which the same is copied."""
        leader = {bundle: bundle for bundle in self._needs}

        def find(bundle: _Bundle) -> _Bundle:
            while leader[bundle] != bundle:
                leader[bundle] = leader[leader[bundle]]
                bundle = leader[bundle]
            return bundle

        first_user: dict[tuple[Side, str], _Bundle] = {}
        for bundle, needs in self._needs.items():
            name = self._name[bundle]
            if name is HERE:
                continue
            for other in needs:
                if self._name[other] == name:
                    leader[find(bundle)] = find(other)
            for copied in self._sides.objects(bundle):
                other = first_user.setdefault((name, copied), bundle)
                leader[find(bundle)] = find(other)
        return {bundle: (find(bundle),) for bundle in self._needs}

    def _stages(self) -> dict[_Bundle, int]:
        """How many times a path to each has left a target, at most."""
        stage: dict[_Bundle, int] = {}
        for bundle in _in_order(self._needs):
            stage[bundle] = max(
                (
                    stage[other]
                    + (self._name[other] is not HERE and self._name[other] != self._name[bundle])
                    for other in self._needs[bundle]
                ),
                default=0,
            )
        return stage

    def _waits(self) -> dict[tuple[object, ...], set[tuple[object, ...]]]:
        waits: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
        for bundle, needs in self._needs.items():
            identity = self._group[bundle]
            waits.setdefault(identity, set()).update(self._group[other] for other in needs)
        return {one: others - {one} for one, others in waits.items()}

    def _note_split(self, split: Mapping[_Bundle, tuple[object, ...]]) -> None:
        around = self._sides.around
        for whole in dict.fromkeys(identity[0] for identity in split.values()):
            pieces: dict[int, list[str]] = {}
            for bundle, identity in split.items():
                if identity[0] == whole:
                    pieces.setdefault(self._stage[bundle], []).extend(bundle)
            if len(pieces) > 1:
                name = next(self._name[b] for b, i in split.items() if i[0] == whole) or ""
                shown = "; ".join(listed(around.prompt, pieces[one]) for one in sorted(pieces))
                self._sides.notes.append(
                    f"What is marked to run {at(name)} is done in {len(pieces)} jobs, since what "
                    f"runs elsewhere comes between: {shown}."
                )


def _in_order(needs: Mapping[_Bundle, set[_Bundle]]) -> Sequence[_Bundle]:
    return [*TopologicalSorter(needs).static_order()]
