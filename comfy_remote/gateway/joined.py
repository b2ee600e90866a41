"""The workers that have joined: who may, which process has a name, and what the owner says.

A worker's name belongs to one process at a time. Another one is refused while the first is
connected; and, if it is on another machine, also while the first still has jobs: its silence does
not prove that it is dead. On the same machine, the lock of the folder of results proves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TypeVar

from ..aio import Signal, first_of, in_thread
from ..errors import EngineCrashed, JobNotFound, RateLimited
from ..wire.joined import Held, Hello, Ping, PingAnswer, home_of
from .endpoint import GivenJob, LocalEndpoint
from .journal import Journal
from .needs import offer_of
from .tokens import name_of_token
from .worker_list import WorkerList, WorkerNotes
from .worker_states import WorkerRow, WorkerStates
from .workers import Worker, WorkerKind, WorkerState

__all__ = ["JoinedWorkers", "NameTaken", "NotGreeted"]

_T = TypeVar("_T")
_POLL = 20.0
_STATES_WRITTEN_EVERY = 2.0
_WORKERS_OF_A_TOKEN = 256
_NAMES_OF_A_TOKEN = 64 * 2**20
_NAME_OVERHEAD = 160  # bytes of a short name in memory, and in a set
_PAUSE = 5.0  # seconds: a worker that is connected always has a question under way
_log = logging.getLogger(__name__)


class NotGreeted(Exception):
    """The worker has to say hello first: this gateway does not know its start."""


class NameTaken(Exception):
    """Another worker has that name; the text says which, and what to do."""


@dataclass(slots=True)
class _Connection:
    """What is under way of one worker.

    Attributes:
        hello: What it said last, without the lists of names.
        number: That hello's.
        given: The job that it was given last.
        take: The question for a job that is being answered.
        written: The jobs of the last answer to one.
    """

    hello: Hello
    number: int = 0
    given: Held | None = None
    written: list[GivenJob] | None = None
    take: asyncio.Future[list[GivenJob]] | None = None


class JoinedWorkers:
    """All of them, between their routes and the queue."""

    def __init__(self, endpoint: LocalEndpoint, journal: Journal) -> None:
        self.notes = WorkerNotes()
        """What the owner says of workers, as it was read last."""
        self._poll = min(_POLL, endpoint.limits.poll_wait)
        self._endpoint = endpoint
        self._queue = endpoint.queue
        self._registry = endpoint.queue.workers
        self._journal = journal
        self._connections: dict[str, _Connection] = {}
        # Bytes, roughly, that the names of each one's nodes and models take.
        self._names: dict[str, int] = {}
        self._polls: Counter[str] = Counter()
        self._words = Signal()
        self._states = ""
        self._states_due = 0.0

    # What a worker asks

    async def hello(self, worker_id: str, hello: Hello) -> list[Held]:
        """Take up a worker that has just started, or was away; what it must drop.

        Raises:
            NameTaken: Another has that name.
        """
        offer = await asyncio.to_thread(offer_of, hello.report)  # there may be many names
        self._check_name(worker_id, hello.boot)
        await self._make_room_for(worker_id)
        if (before := self._connections.get(worker_id)) is not None:
            await self._end_take(before)
        if not self.notes.knows(worker_id):
            raise NotGreeted  # its token was removed meanwhile; the next hello is told so
        self._check_is_newest(worker_id, hello)
        # Noted before anything is waited for: others may say hello at the same time.
        self._names[worker_id] = _memory_of(hello)
        if self._names_with_the_token_of(worker_id) > _NAMES_OF_A_TOKEN:
            _log.warning(
                "Worker %s has more nodes and models than are noted of the workers of one token.",
                worker_id,
            )
            self._names[worker_id], offer = 0, replace(offer, nodes=None, models=None)
        drop = await self._queue.hello(worker_id, hello.boot, hello.holds, offer=offer)
        if not self.notes.knows(worker_id):
            raise NotGreeted
        connection = _Connection(_without_lists(hello), hello.number)
        self._connections[worker_id] = connection
        worker = self._registry.register(worker_id, WorkerKind.JOINED, hello.boot)
        report, worker.version = hello.report, hello.version
        worker.engine, worker.device, worker.broken = report.engine, report.device, hello.broken
        worker.draining = hello.draining or self.notes.is_draining(worker_id)
        about = _about(worker) or "its engine is not ready yet."
        if before is None or before.hello != connection.hello:
            _log.info("Worker %s is here: %s", worker_id, about)
        return drop

    async def take(self, worker_id: str, boot: str, ping: Ping) -> list[GivenJob]:
        """A job for a worker, or none after some seconds, or when it says hello again meanwhile.

        Raises:
            NotGreeted: It has to say hello first: also if it should have a job, and has not.
        """
        await self._end_take(self._known(worker_id, boot))
        connection = self._known(worker_id, boot)
        held = {(one.job, one.attempt) for one in ping.holds}
        worker = self._registry.seen(worker_id)
        if any((job.id, job.attempt) not in held for job in worker.running.values()):
            raise NotGreeted
        with self._polling(boot):
            taking = asyncio.ensure_future(self._endpoint.take(worker_id, wait=self._poll))
            connection.take = taking
            try:
                await asyncio.wait({taking})
            except asyncio.CancelledError:  # the worker has hung up
                if connection.take is taking:
                    await self._end_take(connection)
                raise
        if connection.take is not taking:
            return []  # it has been ended meanwhile, and what it gave is put back
        connection.take = None
        jobs = connection.written = _result(taking)
        for job in jobs:
            connection.given = Held(job=job.lease.job.id, attempt=job.lease.attempt)
        return jobs

    def not_delivered(self, worker_id: str, jobs: list[GivenJob]) -> None:
        """Put back what did not reach the worker, unless it has said since what it has: the job may
        be its own again then, under the same number.
        """
        connection = self._connections.get(worker_id)
        if connection is not None and connection.written is jobs:
            self._put_back(jobs)

    async def ping(self, worker_id: str, boot: str, ping: Ping) -> PingAnswer:
        """What a worker has to do now; an empty answer after some seconds.

        Raises:
            NotGreeted: It has to say hello first.
        """
        connection = self._known(worker_id, boot)
        worker = self._registry.seen(worker_id)
        drained = worker.draining
        stop = [
            held
            for held in ping.holds
            if not self._queue.is_running(held.job, worker_id, held.attempt)
        ]
        if not stop:
            with self._polling(boot):
                async with first_of(
                    self._registry.take_stops(worker_id, wait=self._poll),
                    self._words_change(worker, drained),
                ) as (stopping, _):
                    jobs = stopping.result() if stopping.done() else []
            named = {held.job: held for held in (*ping.holds, connection.given) if held}
            stop = [named[job] for job in jobs if job in named]
        self._known(worker_id, boot)
        if self._queue.closed:
            stop = []  # what runs elsewhere goes on without this gateway
        return PingAnswer(stop=stop, draining=self.notes.is_draining(worker_id))

    def check(self, worker_id: str, boot: str) -> None:
        """Refuse (`NotGreeted`) what a worker says before its hello."""
        self._known(worker_id, boot)
        self._registry.seen(worker_id)

    # What the owner says

    async def read_words(self) -> None:
        """Do what the owner has said since the last call. Call it about once a second.

        Raises:
            LocalStorageError: The journal cannot be read.
        """
        notes = await self._journal.worker_notes()
        if notes is not None:
            self.notes = notes
            await self._apply()
        await self._write_states()

    async def drain(self, worker_id: str, *, on: bool) -> None:
        """Give a worker no more jobs, or jobs again.

        Raises:
            JobNotFound: There is no such worker.
        """
        self._check_there(worker_id)

        def change(listed: WorkerList) -> None:
            if on:
                listed.say(worker_id, "drain")
            else:
                for name in {worker_id, name_of_token(worker_id)}:
                    listed.take_back(name, "drain")

        await self._journal.change_workers(change)
        await self.read_words()

    async def gone(self, worker_id: str) -> None:
        """Take the owner's word that a worker will not come back.

        Raises:
            JobNotFound: There is no such worker.
        """
        self._check_there(worker_id)
        await self._journal.change_workers(lambda listed: listed.say(worker_id, "gone"))
        await self.read_words()

    # Inside

    def _known(self, worker_id: str, boot: str) -> _Connection:
        connection, worker = self._connections.get(worker_id), self._registry.get(worker_id)
        if connection is None or worker is None or connection.hello.boot != boot:
            raise NotGreeted
        if worker.kind is not WorkerKind.JOINED:  # one of the gateway's own, since that hello
            raise NotGreeted
        return connection

    def _check_is_newest(self, worker_id: str, hello: Hello) -> None:
        """Refuse a hello that was overtaken by a later one: it does not name the jobs since."""
        known = self._connections.get(worker_id)
        if known is not None and known.hello.boot == hello.boot and hello.number < known.number:
            raise NotGreeted

    async def _make_room_for(self, worker_id: str) -> None:
        """Bound what one token can fill: forget a worker that has been away for long, if need be.

        Raises:
            RateLimited: As many workers as may be are here.
        """
        if self._registry.get(worker_id) is not None:
            return
        name = name_of_token(worker_id)
        joined = (one for one in self._registry if one.kind is WorkerKind.JOINED)
        others = [one for one in joined if name_of_token(one.id) == name]
        if len(others) < _WORKERS_OF_A_TOKEN:
            return
        away = [one for one in others if one.silent and not one.running]
        if not away:
            raise RateLimited(
                f"{_WORKERS_OF_A_TOKEN} workers have joined with the token of {name} already.",
                advice="Make another token.",
            )
        longest = min(away, key=lambda one: one.seen)
        await self._forget(longest.id, f"Worker {longest.id} has not been here for long.")

    def _names_with_the_token_of(self, worker_id: str) -> int:
        name = name_of_token(worker_id)
        return sum(size for other, size in self._names.items() if name_of_token(other) == name)

    def _check_name(self, worker_id: str, boot: str) -> None:
        known = self._connections.get(worker_id)
        if known is not None and known.hello.boot != boot and self._polls[known.hello.boot]:
            raise NameTaken(
                f"Another process is connected as {worker_id}. Stop it, or give this one a name of "
                "its own."
            )
        jobs = [job for job in self._queue.running if job.worker_id == worker_id]
        worker = self._registry.get(worker_id)
        if worker is not None and worker.kind is not WorkerKind.JOINED:
            raise NameTaken(f"The gateway itself has a worker {worker_id}. Take another name.")
        if any(home_of(job.boot) != home_of(boot) for job in jobs):
            raise NameTaken(
                f"A worker {worker_id} on another machine (or with another data folder) still has "
                f"{len(jobs)} of its jobs. If it will not come back, say so: comfy-remote workers "
                f"gone {worker_id}"
            )

    async def _end_take(self, connection: _Connection) -> None:
        """End a question that is still being answered: the worker reads no answer to it."""
        if (taking := connection.take) is not None:
            connection.take = None
            taking.cancel()
            await asyncio.wait({taking})
            self._put_back(_result(taking))

    def _put_back(self, jobs: list[GivenJob]) -> None:
        self._queue.put_back([job.lease for job in jobs], "It did not reach the worker.")

    @contextmanager
    def _polling(self, boot: str) -> Iterator[None]:
        self._polls[boot] += 1
        try:
            yield
        finally:
            self._polls[boot] -= 1
            if not self._polls[boot]:
                del self._polls[boot]

    async def _words_change(self, worker: Worker, drained: bool) -> None:
        """Wait until something is said of a worker that it has to know."""
        while worker.draining == drained and self.notes.knows(worker.id):
            await self._words.wait(self._poll)

    async def _apply(self) -> None:
        notes = self.notes
        running = {job.worker_id for job in self._queue.running if _has_joined(job.boot)}
        here = {worker.id for worker in self._registry if worker.kind is WorkerKind.JOINED}
        for worker_id in sorted(here | {one for one in running if one is not None}):
            worker = self._registry.get(worker_id)
            if not notes.knows(worker_id):
                await self._forget(worker_id, f"Worker {worker_id} was removed.")
            elif notes.is_gone(worker_id):
                await self._forget(worker_id, f"Worker {worker_id} is gone, its owner says.")
            elif worker is not None:
                connection = self._connections.get(worker_id)
                drains = connection is not None and connection.hello.draining
                worker.draining = drains or notes.is_draining(worker_id)
        if gone := tuple(notes.gone):
            # It is done; a worker that comes back after all is welcome.
            await self._journal.change_workers(
                lambda listed: [listed.take_back(name, "gone") for name in gone]
            )
        await self._queue.committed()
        self._queue.look_again()
        self._words.notify()

    async def _forget(self, worker_id: str, why: str) -> None:
        self._names.pop(worker_id, None)
        if (connection := self._connections.pop(worker_id, None)) is not None:
            await self._end_take(connection)  # it would get the next job
        self._queue.worker_is_gone(
            worker_id, EngineCrashed(why, advice="Run the job again, if it is still wanted.")
        )

    def _check_there(self, worker_id: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is None or worker.kind is not WorkerKind.JOINED:
            raise JobNotFound(f"No worker {worker_id} has joined this gateway.")

    async def _write_states(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._states_due:
            return
        self._states_due = loop.time() + _STATES_WRITTEN_EVERY
        now, utc = self._queue.clock(), datetime.now(timezone.utc)
        states = WorkerStates(
            written_at=utc.isoformat(timespec="seconds"),
            workers=[
                WorkerRow(
                    name=worker.id,
                    state=self._state_of(worker, now),
                    jobs=sorted(worker.running),
                    seen_at=datetime.fromtimestamp(
                        utc.timestamp() - max(0.0, now - worker.seen), timezone.utc
                    ).isoformat(timespec="seconds"),
                    about=_about(worker),
                )
                for worker in self._registry
            ],
        )
        with contextlib.suppress(OSError):
            await in_thread(states.write, self._journal.folder)

    def _state_of(self, worker: Worker, now: float) -> str:
        connected = self._polls[worker.boot] or now - worker.seen < _PAUSE
        if worker.kind is WorkerKind.JOINED and not connected:
            return "not connected"
        return _state_in_words(worker)


def _result(taking: asyncio.Future[list[GivenJob]]) -> list[GivenJob]:
    return [] if taking.cancelled() else taking.result()


def _has_joined(boot: str) -> bool:
    return WorkerKind.of(boot) is WorkerKind.JOINED


def _memory_of(hello: Hello) -> int:
    nodes, models = hello.report.nodes or (), hello.report.models or ()
    # Of a model, the name without its folder is in memory, too.
    count, size = len(nodes) + 2 * len(models), sum(map(len, nodes)) + 2 * sum(map(len, models))
    return size + _NAME_OVERHEAD * count


def _without_lists(hello: Hello) -> Hello:
    report = hello.report.model_copy(update={"nodes": None, "models": None})
    return hello.model_copy(update={"report": report, "holds": [], "number": 0})


def _about(worker: Worker) -> str:
    words = worker.engine, worker.device, *sorted(worker.offer.labels)
    return ", ".join(one for one in words if one)


def _state_in_words(worker: Worker) -> str:
    state = worker.state
    if state is WorkerState.BROKEN:
        return f"{state.value}: {worker.broken}"
    return f"{state.value}, then drained" if worker.running and worker.draining else state.value
