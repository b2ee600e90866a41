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
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from .job import Job
from .offers import Needs
from .suiting import Demand, Prospect, View
from .why_it_waits import why_it_waits
from .workers import Worker

__all__ = ["Line"]

_MOST_CONSIDERED = 64
"""Demands of one batch among which a worker has the choice: those behind them wait."""
_QUICKEST = 1.0
"""Seconds that a job with models takes at least."""

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
        """The smallest one is served first. No two are equal."""
        return self.running, self.turn


class Line:
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
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._levels: dict[tuple[bool, int], dict[str, dict[_Group, _Alike]]] = {}
        self._demands: dict[_Demanded, Demand] = {}
        self._shares: dict[tuple[str, ...], _Share] = {}
        self._starts = 0
        # Since when a job has been passed over for its models; oldest first.
        self._passed: dict[str, float] = {}
        self._gathering_until = 0.0

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def __contains__(self, job: Job) -> bool:
        """Whether a job waits."""
        return job.id in self._waiting

    def __iter__(self) -> Iterator[Job]:
        """The jobs that wait, by priority and arrival. (Who is next depends on the worker.)"""
        return iter(sorted(self._waiting.values(), key=lambda job: (_level(job), job.number)))

    def wait_for_workers(self, until: float) -> None:
        """Until then, give no worker a job that it lacks something for, even if no other is here.

        For a gateway that has been started again: whoever has it may not be back yet.
        """
        self._gathering_until = until

    def add(self, job: Job) -> None:
        """Add a job that waits: a new one, or one that ran and is to run again."""
        self.remove(job)
        self._waiting[job.id] = job
        for key in _shares_of(job):
            share = self._shares.setdefault(key, _Share((self._starts - 1, job.number)))
            share.jobs += 1
        clients = self._levels.setdefault(_level(job), {})
        alike = clients.setdefault(job.client, {}).setdefault(_group(job), {})
        demand = self._demands.get(demanded := _demanded(job))
        if demand is None:
            demand = self._demands[demanded] = Demand(*demanded)
        demand.jobs += 1
        insort(alike.setdefault(demand, []), job, key=_number)

    def start(self, job: Job) -> None:
        """Note that a job runs: it counts for its client's share until `remove`."""
        self.remove(job)
        self._running[job.id] = job
        self._starts += 1
        for key in _shares_of(job):
            share = self._shares.setdefault(key, _Share((0, 0)))
            share.turn = (self._starts, 0)
            share.jobs += 1
            share.running += 1

    def remove(self, job: Job) -> None:
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

    def choose(self, worker: Worker, workers: Collection[Worker], now: float) -> Job | None:
        """The job that a worker which asks should get; ``None`` for nothing now.

        The job stays in the line: call `start` when the worker has it.

        Args:
            workers: All workers, busy and silent ones too.
            now: Seconds, of the clock that the jobs' and workers' times are of.
        """
        if not self._waiting or not worker.takes_jobs:
            return None
        view = View(worker, workers, gathering=now < self._gathering_until)
        turn: Job | None = None
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

    def next_change(self, worker: Worker, workers: Collection[Worker], now: float) -> float | None:
        """When `choose` may have another answer for a worker although nothing happens till then.

        ``None`` if it will not: no job is held back for another worker.
        """
        if not self._waiting or not worker.takes_jobs:
            return None
        view = View(worker, workers, gathering=now < self._gathering_until)
        ends = [
            self._held_until(job, prospect, view, now)
            for alike in self._in_order()
            for job, prospect in _fitting(alike, view)
        ]
        ends.append(self._gathering_until)
        return min((end for end in ends if end > now), default=None)

    def why(self, job: Job, workers: Collection[Worker], now: float) -> str:
        """Why a job waits: a sentence or two for people."""

        def left_for(prospect: Prospect, view: View) -> float:
            return self._held_until(job, prospect, view, now) - now

        return why_it_waits(
            self._demands.get(_demanded(job)) or Demand(*_demanded(job)),
            workers,
            gathering=self._gathering_until - now,
            left_for=left_for,
        )

    # Inside

    def _in_order(self) -> Iterator[_Alike]:
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

    def _best(self, fitting: list[tuple[Job, Prospect]], view: View, now: float) -> Job | None:
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

    def _held_until(self, job: Job, prospect: Prospect, view: View, now: float) -> float:
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

    def _take_out(self, job: Job) -> None:
        level, group, demand = _level(job), _group(job), self._demands[_demanded(job)]
        demand.jobs -= 1
        if not demand.jobs:
            del self._demands[_demanded(job)]
        clients = self._levels[level]
        groups = clients[job.client]
        alike = groups[group]
        jobs = alike[demand]
        place = bisect_left(jobs, job.number, key=_number)
        del jobs[jobs.index(job, place)]
        if not jobs:
            del alike[demand]
        if not alike:
            del groups[group]
        if not groups:
            del clients[job.client]
        if not clients:
            del self._levels[level]


_Alike: TypeAlias = dict[Demand, list[Job]]
"""The jobs of one group by their demand, each in the order of arrival."""


def _fitting(alike: _Alike, view: View) -> list[tuple[Job, Prospect]]:
    """Jobs of a group that a worker may take, of each demand the first, in the order of arrival."""
    in_order = sorted(alike.items(), key=_first_number) if len(alike) > 1 else alike.items()
    judged = ((jobs[0], view.prospect(demand)) for demand, jobs in in_order)
    fitting = ((job, prospect) for job, prospect in judged if prospect is not None)
    return list(islice(fitting, _MOST_CONSIDERED))


def _number(job: Job) -> int:
    return job.number


def _first_number(alike: tuple[Demand, list[Job]]) -> int:
    return alike[1][0].number


def _level(job: Job) -> tuple[bool, int]:
    return job.low_priority, -job.priority


def _group(job: Job) -> _Group:
    return (False, "") if job.front else (True, job.batch)


def _demanded(job: Job) -> _Demanded:
    return job.needs, job.labels, job.memory


def _shares_of(job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of a job's two shares: its client's and its batch's."""
    return (job.client,), (job.client, job.batch)


def _ascending(claims: Iterable[tuple[tuple[int, tuple[int, int]], str]]) -> Iterator[str]:
    """Names by their claims; sorted only as far as they are asked for."""
    heap = list(claims)
    if len(heap) > 1:
        heapq.heapify(heap)
    while heap:
        yield heapq.heappop(heap)[1]
