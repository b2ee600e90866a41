"""What a job needs, and what a worker has."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Needs", "Offer"]


# Of the memory that it is sold with, a driver reports less: of an L40S's 48 GiB, 44.99 with error
# correction; of an RTX 4090's 24 GiB, 23.99, of which PyTorch sees 23.5.
_REPORTED_SHARE = 0.93


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job's prompt needs of its worker.

    Attributes:
        nodes: Classes of nodes.
        models: Models by folder and name: ``checkpoints/a.safetensors``.
        fetchable: Those of them that have an address to fetch them from.
        may_cost: Whether its nodes may buy something from a service each time that they run: such
            a job is not started once more by itself. (See `needs.needs_of`; `Offer.may_cost` is
            what workers know besides.)
    """

    nodes: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    fetchable: frozenset[str] = frozenset()
    may_cost: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker has.

    Attributes:
        nodes: Classes of nodes; ``None`` if that is not known.
        models: Models as in `Needs`; ``None`` if that is not known.
        memory: Bytes of GPU memory; ``None`` if that is not known.
        labels: Labels that its owner gave it.
        fetches_models: Whether it fetches models that it lacks.
        warm: Models of its last run, or of the one that goes on.
        paid: Those of the nodes that buy something from a service each time that they run.
    """

    nodes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    memory: int | None = None
    labels: frozenset[str] = frozenset()
    fetches_models: bool = False
    warm: frozenset[str] = frozenset()
    paid: frozenset[str] = frozenset()

    def has_memory(self, wanted: int) -> bool:
        """Whether its GPU is one that is sold with so many bytes."""
        return wanted * _REPORTED_SHARE <= (self.memory or 0)

    def may_cost(self, needs: Needs) -> bool:
        """Whether a job with these needs may cost here, as far as this worker knows."""
        return not self.paid.isdisjoint(needs.nodes)

    def after(self, needs: Needs) -> Offer:
        """The same worker once it has a job with these needs: call it when the job starts.

        A job without nodes only asks the worker something: what is warm stays so.
        """
        runs = bool(needs.nodes or needs.models)
        return replace(self, warm=needs.models) if runs and self.warm != needs.models else self

    def lacks(self, needs: Needs) -> frozenset[str]:
        """Nodes and models that it is known not to have, and does not fetch."""
        nodes = frozenset() if self.nodes is None else needs.nodes - self.nodes
        models = frozenset() if self.models is None else needs.models - self.models
        return nodes | (models - needs.fetchable if self.fetches_models else models)
