"""What is dear to change changes least often: models, then by how much has to run again."""

from __future__ import annotations

from collections.abc import Iterable

from ..workflow.change.numbers import find_seeds, has_seeds
from ..workflow.graph import consumers
from ..workflow.models import model_uses
from ..workflow.prompt import Place, Prompt
from ..workflow.workload import workload_of

__all__ = ["Dearness"]

_MODEL, _LOADER, _OTHER, _SEED = range(4)


class Dearness:
    """How dear a change of some inputs is: a model is loaded again, a node runs again.

    An engine has what the last run computed; what is downstream of a changed input, it computes
    again. Files named by ``embedding:`` in a text are small, and so is loading them.
    """

    def __init__(self, prompt: Prompt) -> None:
        uses = [use for use in model_uses(prompt) if use.folder != "embeddings"]
        self._models = {(use.node_id, use.input) for use in uses}
        self._loaders = {use.node_id for use in uses}
        self._seeds = set(find_seeds(prompt)) if has_seeds(prompt) else set()
        self._users = consumers(prompt, prompt)
        self._work = {node.node_id: node.work for node in workload_of(prompt).nodes}

    def __call__(self, places: Iterable[Place]) -> tuple[int, float]:
        """For sorting: the smallest is the dearest."""
        places = set(places)
        if places & self._models:
            kind = _MODEL
        elif any(node_id in self._loaders for node_id, _ in places):
            kind = _LOADER
        else:
            kind = _SEED if places and places <= self._seeds else _OTHER
        again = self._downstream({node_id for node_id, _ in places})
        return kind, -round(sum(self._work.get(node_id, 0.0) for node_id in again), 6)

    def _downstream(self, nodes: set[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(nodes)
        while waiting:
            node_id = waiting.pop()
            if node_id not in found:
                found.add(node_id)
                waiting += [user for user, _, _ in self._users.get(node_id, ())]
        return found
