"""How workers suit what jobs ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from .offers import Needs, Offer
from .workers import Worker

__all__ = ["Demand", "Fit", "Prospect", "View", "counts"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How one worker suits a demand.

    Attributes:
        allowed: Whether it has what is strict.
        lacks: Nodes and models that it is known to lack.
        cold: The models that are not warm there.
    """

    allowed: bool
    lacks: frozenset[str]
    cold: frozenset[str]

    def is_worse_than(self, others: Iterable[frozenset[str]]) -> bool:
        """Whether one of the others, by what they lack, has all that it has and more."""
        return bool(self.lacks) and any(lacks < self.lacks for lacks in others)


@dataclass(slots=True, eq=False)
class Demand:
    """What some waiting jobs ask of their worker, and how workers suit it.

    Attributes:
        jobs: How many wait with it.
    """

    needs: Needs
    labels: frozenset[str]
    memory: int
    jobs: int = 0
    _fits: dict[str, tuple[Offer, Fit]] = field(default_factory=dict)

    def on(self, worker: Worker) -> Fit:
        """How a worker suits it. That is asked far more often than an offer changes."""
        known = self._fits.get(worker.id)
        if known is not None and known[0] is worker.offer:
            return known[1]
        offer = worker.offer
        fit = Fit(
            self.labels <= offer.labels and offer.has_memory(self.memory),
            offer.lacks(self.needs),
            self.needs.models - offer.warm,
        )
        self._fits[worker.id] = offer, fit
        return fit


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a job that suits a worker would be on it.

    Attributes:
        rank: The smaller, the better: its models are warm here (the fewer are missing, the better),
            nowhere, elsewhere.
        warmer: Other workers that have more of its models warm.
        waiting: How many jobs wait with the same demand.
    """

    rank: tuple[int, int]
    warmer: tuple[Worker, ...] = ()
    waiting: int = 0


_COLD = Prospect((1, 0))


class View:
    """The jobs as one worker sees them, while nothing changes."""

    def __init__(self, worker: Worker, workers: Collection[Worker], *, gathering: bool) -> None:
        self.worker = worker
        self._workers = workers
        self._gathering = gathering

    @cached_property
    def _others(self) -> list[Worker]:
        """The other workers; first those that have most, which are the likeliest to have more."""
        others = [one for one in self._workers if one.id != self.worker.id and counts(one)]
        return sorted(others, key=lambda one: -len(one.offer.nodes or ()))

    @cached_property
    def _warm(self) -> dict[str, list[Worker]]:
        """By models, the other workers on which they are warm."""
        found: dict[str, list[Worker]] = {}
        for other in self._others:
            if other.takes_jobs:
                for model in other.offer.warm:
                    found.setdefault(model, []).append(other)
        return found

    def prospect(self, demand: Demand) -> Prospect | None:
        """What a job with this demand would be here; ``None`` if the worker must not take it."""
        here = demand.on(self.worker)
        if not here.allowed:
            return None
        if here.lacks:
            if self._gathering:
                return None
            fits = map(demand.on, self._others)
            if here.is_worse_than(fit.lacks for fit in fits if fit.allowed):
                return None
        if warmer := self._warmer(demand, here):
            return Prospect((2, len(here.cold)), warmer, demand.jobs)
        warm = len(here.cold) < len(demand.needs.models)
        return Prospect((0, len(here.cold))) if warm else _COLD

    def _warmer(self, demand: Demand, here: Fit) -> tuple[Worker, ...]:
        """Workers that have more of its models warm, and may take it."""
        found: dict[str, Worker] = {}
        for model in here.cold:
            for other in self._warm.get(model, ()):
                fit = demand.on(other)
                if fit.allowed and fit.lacks <= here.lacks and len(fit.cold) < len(here.cold):
                    found[other.id] = other
        return tuple(found[name] for name in sorted(found))


def counts(worker: Worker) -> bool:
    """Whether a job may wait for it: if it is away or broken, it must have said what it has."""
    known = worker.offer.nodes is not None or worker.offer.models is not None
    return not worker.draining and (known or not (worker.silent or worker.broken))
