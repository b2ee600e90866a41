"""Which waiting job a worker is given: pure, no I/O, no clock of its own.

A `Line` holds the jobs that wait and says, for a worker that asks, which one it gets:

1. ``low_priority`` after all others; then the higher ``priority``.
2. The client of whom the fewest jobs run; then the one that has waited longest for its turn. Of its
   jobs those at the ``front``, then its batches by the same two rules; then by arrival.
3. Labels and GPU memory are strict: a job waits for a worker that has them.
4. A worker that lacks a node or a model is passed over while another one lacks less, even one that
   is silent at the moment. What no worker has makes no difference: the engine that gets the job
   says best what is wrong.
5. Of a batch, a worker prefers the jobs whose models it used last. It leaves a job to a worker that
   has more of its models warm, but only for a while (see `Line`).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

from ..units import seconds_text, size_text

__all__ = ["Line", "Needs", "Offer", "PlacedWorker", "WaitingJob"]

_MOST_NAMED = 3
_MOST_CONSIDERED = 64
"""Demands of one batch among which a worker has the choice: those behind them wait."""
_QUICKEST = 1.0
"""Seconds that a job with models takes at least."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job's prompt needs of its worker.

    Attributes:
        nodes: Classes of nodes.
        models: Models by folder and name: ``checkpoints/a.safetensors``.
        fetchable: Those of them that have an address to fetch them from.
        may_cost: Whether its nodes may buy something from a service each time that they run: such
            a job is not started once more by itself. (See `needs.needs_of`.)
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
    """

    nodes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    memory: int | None = None
    labels: frozenset[str] = frozenset()
    fetches_models: bool = False
    warm: frozenset[str] = frozenset()

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


class WaitingJob(Protocol):
    """What a `Line` reads of a job. None of it changes while the job is in the line.

    ``number`` is its place in the order of arrival, ``queued`` when it began to wait.
    """

    @property
    def id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def client(self) -> str: ...
    @property
    def batch(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def front(self) -> bool: ...
    @property
    def low_priority(self) -> bool: ...
    @property
    def labels(self) -> frozenset[str]: ...
    @property
    def memory(self) -> int: ...
    @property
    def needs(self) -> Needs: ...
    @property
    def queued(self) -> float: ...


class PlacedWorker(Protocol):
    """What a `Line` reads of a worker.

    ``silent`` is one that cannot be reached, and may come back. ``broken`` says why its engine does
    not start; empty if it does. ``idle_since`` is when it became ready or its last job ended;
    ``None`` while it has a job.
    """

    @property
    def id(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def silent(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def broken(self) -> str: ...
    @property
    def offer(self) -> Offer: ...
    @property
    def idle_since(self) -> float | None: ...


_Job = TypeVar("_Job", bound=WaitingJob)
_Demanded: TypeAlias = tuple[Needs, frozenset[str], int]
_Group: TypeAlias = tuple[bool, str]  # (False, "") for the front, else (True, batch)


@dataclass(slots=True)
class _Share:
    """What a client, or one of its batches, has of the workers.

    Attributes:
        turn: When it was last served, as the number of that start. One that is new comes before the
            one served last, which has had its turn, and after those that wait already.
        jobs: Jobs that wait or run.
    """

    turn: tuple[int, int]
    running: int = 0
    jobs: int = 0

    @property
    def claim(self) -> tuple[int, tuple[int, int]]:
        """Who has the smaller one is served first. No two are equal."""
        return self.running, self.turn


class Line(Generic[_Job]):
    """The jobs that wait, and who is served next. A job is in it from `add` or `start` to `remove`.

    Args:
        warm_patience: Seconds that a worker stays idle rather than take a job whose models are warm
            on a busy one, unless more such jobs wait than that one can run meanwhile; and that a
            job is left to an idle one that has them warm.
        patience: Seconds after which the job whose turn it is is passed over no longer.
        burst: Seconds that a new job is left to a busy worker in any case, because the rest of its
            batch is arriving, and may suit the idle one better.
    """

    def __init__(
        self, *, warm_patience: float = 10.0, patience: float = 60.0, burst: float = 1.0
    ) -> None:
        self._warm_patience = warm_patience
        self._patience = patience
        self._burst = burst
        self._waiting: dict[str, _Job] = {}
        self._running: dict[str, _Job] = {}
        self._levels: dict[tuple[bool, int], dict[str, dict[_Group, _Alike[_Job]]]] = {}
        self._demands: dict[_Demanded, _Demand] = {}
        self._shares: dict[tuple[str, ...], _Share] = {}
        self._starts = 0
        # Since when a job has been passed over for its models; oldest first.
        self._passed: dict[str, float] = {}
        self._gathering_until = 0.0

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def __contains__(self, job: _Job) -> bool:
        """Whether a job waits."""
        return job.id in self._waiting

    def __iter__(self) -> Iterator[_Job]:
        """The jobs that wait, by priority and arrival. (Who is next depends on the worker.)"""
        return iter(sorted(self._waiting.values(), key=lambda job: (_level(job), job.number)))

    def wait_for_workers(self, until: float) -> None:
        """Until then, give no worker a job that it lacks something for, even if no other is here.

        For a gateway that has been started again: whoever has it may not be back yet.
        """
        self._gathering_until = until

    def add(self, job: _Job) -> None:
        """Have a job wait: a new one, or one that ran and is to run again."""
        self.remove(job)
        self._waiting[job.id] = job
        for key in _shares_of(job):
            share = self._shares.setdefault(key, _Share((self._starts - 1, job.number)))
            share.jobs += 1
        clients = self._levels.setdefault(_level(job), {})
        alike = clients.setdefault(job.client, {}).setdefault(_group(job), {})
        demand = self._demands.get(demanded := _demanded(job))
        if demand is None:
            demand = self._demands[demanded] = _Demand(*demanded)
        demand.jobs += 1
        insort(alike.setdefault(demand, []), job, key=_number)

    def start(self, job: _Job) -> None:
        """Note that a job runs: it counts for its client's share until `remove`."""
        self.remove(job)
        self._running[job.id] = job
        self._starts += 1
        for key in _shares_of(job):
            share = self._shares.setdefault(key, _Share((0, 0)))
            share.turn = (self._starts, 0)
            share.jobs += 1
            share.running += 1

    def remove(self, job: _Job) -> None:
        """Forget a job, whether it waits, runs, or is not here."""
        if self._waiting.pop(job.id, None) is not None:
            self._passed.pop(job.id, None)
            self._take_out(job)
            ran = False
        elif self._running.pop(job.id, None) is not None:
            ran = True
        else:
            return
        for key in _shares_of(job):
            share = self._shares[key]
            share.jobs -= 1
            share.running -= ran
            if not share.jobs:
                del self._shares[key]

    def choose(
        self, worker: PlacedWorker, workers: Collection[PlacedWorker], now: float
    ) -> _Job | None:
        """The job that a worker which asks should get; ``None`` for nothing now.

        The job stays in the line: call `start` when the worker has it.

        Args:
            workers: All workers, busy and silent ones too.
            now: Seconds, of the clock that the jobs' and workers' times are of.
        """
        if not self._waiting or not _takes_jobs(worker):
            return None
        view = _View(worker, workers, gathering=now < self._gathering_until)
        turn: _Job | None = None
        for alike in self._in_order():
            fitting = _fitting(alike, view)
            if not fitting:
                continue
            turn = turn or fitting[0][0]
            best = self._best(fitting, view, now)
            if best is not None:
                if best is not turn:
                    self._passed.setdefault(turn.id, now)
                return best
        if turn is not None:
            self._passed.setdefault(turn.id, now)
        return None

    def next_change(
        self, worker: PlacedWorker, workers: Collection[PlacedWorker], now: float
    ) -> float | None:
        """When `choose` may have another answer for a worker although nothing happens till then.

        ``None`` if it will not: no job is held back for another worker.
        """
        if not self._waiting or not _takes_jobs(worker):
            return None
        view = _View(worker, workers, gathering=now < self._gathering_until)
        ends = [
            self._held_until(job, prospect, view, now)
            for alike in self._in_order()
            for job, prospect in _fitting(alike, view)
        ]
        ends.append(self._gathering_until)
        return min((end for end in ends if end > now), default=None)

    def why(self, job: _Job, workers: Collection[PlacedWorker], now: float) -> str:
        """Why a job waits: a sentence or two for people."""
        demand = self._demands.get(_demanded(job)) or _Demand(*_demanded(job))
        able = [worker for worker in workers if demand.on(worker).allowed]
        if not able:
            return _not_offered(job, workers)
        staying = [one for one in able if _counts(one)] or [one for one in able if not one.draining]
        if not staying:
            return f"Each worker that can run it is draining: {_named(able)}."
        lacks = {one.id: demand.on(one).lacks for one in staying}
        having = [one for one in staying if not demand.on(one).is_worse_than(lacks.values())]
        nowhere = frozenset.intersection(*(lacks[one.id] for one in having))
        if nowhere and now < self._gathering_until:
            left = seconds_text(self._gathering_until - now)
            return f"No worker has {_listed(sorted(nowhere))}; one may come back within {left}."
        passed = [lacks[one.id] for one in staying if one not in having]
        missing = frozenset[str]().union(*passed) - nowhere
        others = f" The others lack {_listed(sorted(missing))}." if missing else ""
        ready = [one for one in having if _takes_jobs(one)]
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
        return self._left_to(job, demand, idle, workers, now) or f"It is about to be taken.{others}"

    # Inside

    def _in_order(self) -> Iterator[_Alike[_Job]]:
        """The waiting jobs, group by group, in the order of their claims."""
        for level in sorted(self._levels):
            clients = self._levels[level]
            for client in _ascending((self._shares[(name,)].claim, name) for name in clients):
                groups = clients[client]
                if (front := groups.get((False, ""))) is not None:
                    yield front
                batches = (batch for later, batch in groups if later)
                for batch in _ascending((self._shares[client, one].claim, one) for one in batches):
                    yield groups[True, batch]

    def _best(self, fitting: list[tuple[_Job, _Prospect]], view: _View, now: float) -> _Job | None:
        """Which of a group's jobs the worker gets; it is the turn of the first one."""
        first, _ = fitting[0]
        if self._passed.get(first.id, now) + self._patience <= now:
            return first
        free = (
            (prospect.rank, job.number, job)
            for job, prospect in fitting
            if self._held_until(job, prospect, view, now) <= now
        )
        best = min(free, default=None, key=lambda one: one[:2])
        return None if best is None else best[2]

    def _held_until(self, job: _Job, prospect: _Prospect, view: _View, now: float) -> float:
        """Until when a job is left to workers that have more of its models warm."""
        if not prospect.warmer:
            return now
        idle_since = now if view.worker.idle_since is None else view.worker.idle_since
        busy_until = job.queued + self._burst
        if prospect.waiting * _QUICKEST <= self._warm_patience * len(prospect.warmer):
            busy_until = max(busy_until, idle_since + self._warm_patience)
        ends = max(
            busy_until
            if other.idle_since is None
            else max(other.idle_since, job.queued) + self._warm_patience
            for other in prospect.warmer
        )
        return min(ends, self._passed.get(job.id, now) + self._patience)

    def _left_to(
        self,
        job: _Job,
        demand: _Demand,
        idle: Iterable[PlacedWorker],
        workers: Collection[PlacedWorker],
        now: float,
    ) -> str:
        soonest: tuple[float, str] | None = None
        for worker in idle:
            view = _View(worker, workers, gathering=False)
            prospect = view.prospect(demand)
            if prospect is None:
                continue
            end = self._held_until(job, prospect, view, now)
            if end <= now:
                return ""
            if soonest is None or end < soonest[0]:
                soonest = end, _named(prospect.warmer)
        if soonest is None:
            return ""
        end, names = soonest
        left = seconds_text(end - now)
        return f"It is left to {names}, where its models are loaded, for {left} at most."

    def _take_out(self, job: _Job) -> None:
        level, group, demand = _level(job), _group(job), self._demands[_demanded(job)]
        demand.jobs -= 1
        if not demand.jobs:
            del self._demands[_demanded(job)]
        clients = self._levels[level]
        groups = clients[job.client]
        alike = groups[group]
        jobs = alike[demand]
        del jobs[bisect_left(jobs, job.number, key=_number)]
        if not jobs:
            del alike[demand]
        if not alike:
            del groups[group]
        if not groups:
            del clients[job.client]
        if not clients:
            del self._levels[level]


@dataclass(frozen=True, slots=True)
class _Fit:
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
class _Demand:
    """What some waiting jobs ask of their worker, and how workers suit it.

    Attributes:
        jobs: How many wait with it.
    """

    needs: Needs
    labels: frozenset[str]
    memory: int
    jobs: int = 0
    _fits: dict[str, tuple[Offer, _Fit]] = field(default_factory=dict)

    def on(self, worker: PlacedWorker) -> _Fit:
        """How a worker suits it. That is asked far more often than an offer changes."""
        known = self._fits.get(worker.id)
        if known is not None and known[0] is worker.offer:
            return known[1]
        offer = worker.offer
        fit = _Fit(
            self.labels <= offer.labels and self.memory <= (offer.memory or 0),
            offer.lacks(self.needs),
            self.needs.models - offer.warm,
        )
        self._fits[worker.id] = offer, fit
        return fit


_Alike: TypeAlias = dict[_Demand, list[_Job]]
"""The jobs of one group by their demand, each in the order of arrival."""


@dataclass(frozen=True, slots=True)
class _Prospect:
    """What a job that suits a worker would be on it.

    Attributes:
        rank: The smaller, the better: its models are warm here (the fewer are missing, the better),
            nowhere, elsewhere.
        warmer: Other workers that have more of its models warm.
        waiting: How many jobs wait with the same demand.
    """

    rank: tuple[int, int]
    warmer: tuple[PlacedWorker, ...] = ()
    waiting: int = 0


_COLD = _Prospect((1, 0))


class _View:
    """The jobs as one worker sees them, while nothing changes."""

    def __init__(
        self, worker: PlacedWorker, workers: Collection[PlacedWorker], *, gathering: bool
    ) -> None:
        self.worker = worker
        self._workers = workers
        self._gathering = gathering

    @cached_property
    def _others(self) -> list[PlacedWorker]:
        """The other workers; first those that have most, which are the likeliest to have more."""
        others = [one for one in self._workers if one.id != self.worker.id and _counts(one)]
        return sorted(others, key=lambda one: -len(one.offer.nodes or ()))

    @cached_property
    def _warm(self) -> dict[str, list[PlacedWorker]]:
        """By models, the other workers on which they are warm."""
        found: dict[str, list[PlacedWorker]] = {}
        for other in self._others:
            if _takes_jobs(other):
                for model in other.offer.warm:
                    found.setdefault(model, []).append(other)
        return found

    def prospect(self, demand: _Demand) -> _Prospect | None:
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
            return _Prospect((2, len(here.cold)), warmer, demand.jobs)
        warm = len(here.cold) < len(demand.needs.models)
        return _Prospect((0, len(here.cold))) if warm else _COLD

    def _warmer(self, demand: _Demand, here: _Fit) -> tuple[PlacedWorker, ...]:
        """Workers that have more of its models warm, and may take it."""
        found: dict[str, PlacedWorker] = {}
        for model in here.cold:
            for other in self._warm.get(model, ()):
                fit = demand.on(other)
                if fit.allowed and fit.lacks <= here.lacks and len(fit.cold) < len(here.cold):
                    found[other.id] = other
        return tuple(found[name] for name in sorted(found))


def _fitting(alike: _Alike[_Job], view: _View) -> list[tuple[_Job, _Prospect]]:
    """Jobs of a group that a worker may take, of each demand the first, in the order of arrival."""
    in_order = sorted(alike.items(), key=_first_number) if len(alike) > 1 else alike.items()
    judged = ((jobs[0], view.prospect(demand)) for demand, jobs in in_order)
    fitting = ((job, prospect) for job, prospect in judged if prospect is not None)
    return list(islice(fitting, _MOST_CONSIDERED))


def _takes_jobs(worker: PlacedWorker) -> bool:
    return worker.ready and not (worker.silent or worker.draining or worker.broken)


def _counts(worker: PlacedWorker) -> bool:
    """Whether a job may wait for it: if it is away or broken, it must have said what it has."""
    known = worker.offer.nodes is not None or worker.offer.models is not None
    return not worker.draining and (known or not (worker.silent or worker.broken))


def _number(job: WaitingJob) -> int:
    return job.number


def _first_number(alike: tuple[_Demand, list[_Job]]) -> int:
    return alike[1][0].number


def _level(job: WaitingJob) -> tuple[bool, int]:
    return job.low_priority, -job.priority


def _group(job: WaitingJob) -> _Group:
    return (False, "") if job.front else (True, job.batch)


def _demanded(job: WaitingJob) -> _Demanded:
    return job.needs, job.labels, job.memory


def _shares_of(job: WaitingJob) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of a job's two shares: its client's and its batch's."""
    return (job.client,), (job.client, job.batch)


def _ascending(claims: Iterable[tuple[tuple[int, tuple[int, int]], str]]) -> Iterator[str]:
    """Names by their claims; sorted only as far as they are asked for."""
    heap = list(claims)
    if len(heap) > 1:
        heapq.heapify(heap)
    while heap:
        yield heapq.heappop(heap)[1]


def _not_offered(job: WaitingJob, workers: Collection[PlacedWorker]) -> str:
    """Why no worker may run a job at all."""
    if not workers:
        return "No worker is connected."
    labelled = [worker for worker in workers if job.labels <= worker.offer.labels]
    if not labelled:
        wanted = _listed(sorted(job.labels))
        return f"No connected worker has the labels that the job asks for: {wanted}."
    wanted = f"The job asks for {size_text(job.memory)} of GPU memory"
    if most := max(worker.offer.memory or 0 for worker in labelled):
        return f"{wanted}; no worker that it may use has more than {size_text(most)}."
    return f"{wanted}; no worker that it may use says how much it has."


def _named(workers: Collection[PlacedWorker]) -> str:
    return _listed([worker.id for worker in workers])


def _listed(words: list[str]) -> str:
    shown = words[:_MOST_NAMED]
    if more := len(words) - len(shown):
        shown.append(f"{more} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
