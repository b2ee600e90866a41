"""Which job a worker gets: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Needs", "Offer"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job's prompt needs of its worker.

    Attributes:
        nodes: Classes of nodes.
        models: Models by folder and name: ``checkpoints/a.safetensors``.
        fetchable: Those of them that have an address to fetch them from.
    """

    nodes: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    fetchable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker has.

    Attributes:
        nodes: Classes of nodes; ``None`` if that is not known.
        models: Models as in `Needs`; ``None`` if that is not known.
        memory: Bytes of GPU memory; ``None`` if that is not known.
        labels: Labels that its owner gave it.
        fetches_models: Whether it fetches models that it lacks.
        warm: Models of its last run.
    """

    nodes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    memory: int | None = None
    labels: frozenset[str] = frozenset()
    fetches_models: bool = False
    warm: frozenset[str] = frozenset()
