"""Why a job waits, in words for people."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..units import seconds_text, size_text
from .suiting import Demand, Prospect, View, counts
from .workers import Worker

__all__ = ["why_it_waits"]

_MOST_NAMED = 3


def why_it_waits(
    demand: Demand,
    workers: Collection[Worker],
    *,
    gathering: float,
    left_for: Callable[[Prospect, View], float],
) -> str:
    """A sentence or two.

    Args:
        gathering: Seconds for which workers that may come back are still waited for.
        left_for: For how many seconds the job is left to others that have its models warm.
    """
    able = [worker for worker in workers if demand.on(worker).allowed]
    if not able:
        return _not_offered(demand, workers)
    staying = [one for one in able if counts(one)] or [one for one in able if not one.draining]
    if not staying:
        return f"Each worker that can run it is draining: {_named(able)}."
    lacks = {one.id: demand.on(one).lacks for one in staying}
    having = [one for one in staying if not demand.on(one).is_worse_than(lacks.values())]
    nowhere = frozenset.intersection(*(lacks[one.id] for one in having))
    if nowhere and gathering > 0:
        left = seconds_text(gathering)
        return f"No worker has {_listed(sorted(nowhere))}; one may come back within {left}."
    passed = [lacks[one.id] for one in staying if one not in having]
    missing = frozenset[str]().union(*passed) - nowhere
    others = f" The others lack {_listed(sorted(missing))}." if missing else ""
    ready = [one for one in having if one.takes_jobs]
    if not ready:
        broken = next((one for one in having if one.broken), None)
        if broken is not None:
            return f"The engine of {broken.id} does not run: {broken.broken}{others}"
        if away := [one for one in having if one.silent]:
            return f"Each worker that can run it is away: {_named(away)}.{others}"
        return f"Each worker that can run it is still starting: {_named(having)}.{others}"
    idle = [one for one in ready if one.idle_since is not None]
    if not idle:
        return f"Each worker that can run it is busy: {_named(ready)}.{others}"
    held = [
        (left_for(prospect, view), _named(prospect.warmer))
        for view in (View(worker, workers, gathering=False) for worker in idle)
        if (prospect := view.prospect(demand)) is not None
    ]
    seconds, names = min(held, default=(0.0, ""))
    if seconds <= 0:
        return f"It is about to be taken.{others}"
    left = seconds_text(seconds)
    return f"It is left to {names}, where its models are loaded, for {left} at most."


def _not_offered(demand: Demand, workers: Collection[Worker]) -> str:
    """Why no worker may run a job at all."""
    if not workers:
        return "No worker is connected."
    labelled = [worker for worker in workers if demand.labels <= worker.offer.labels]
    if not labelled:
        wanted = _listed(sorted(demand.labels))
        return f"No connected worker has the labels that the job asks for: {wanted}."
    wanted = f"The job asks for {size_text(demand.memory)} of GPU memory"
    if most := max(worker.offer.memory or 0 for worker in labelled):
        return f"{wanted}; no worker that it may use has more than {size_text(most)}."
    return f"{wanted}; no worker that it may use says how much it has."


def _named(workers: Collection[Worker]) -> str:
    return _listed([worker.id for worker in workers])


def _listed(words: list[str]) -> str:
    shown = words[:_MOST_NAMED]
    if more := len(words) - len(shown):
        shown.append(f"{more} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
