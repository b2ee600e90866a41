"""One worker of a gateway elsewhere: connected, at work, and delivering, all at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import JsonValue

from ...aio import Signal, first_of, in_thread, within
from ...errors import AuthenticationError, ComfyRemoteError, TargetError
from ...net.retry import Backoff
from ...version import __version__
from ...wire.joined import NAME_TAKEN, Held, Hello, HolderState, Ping, Report
from ...wire.runpod import failure_to_runpod
from ..loop import Handler, TakenJob, work
from .client import Gateway, HelloWanted
from .delivery import Delivery, DeliveryTimes, SpoolStore
from .spool import Spool

__all__ = ["JoinedTimes", "JoinedWorker"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JoinedTimes:
    """How long a joined worker waits. Seconds.

    Attributes:
        outage: The waits between two tries to reach the gateway; there is no last one.
        name_patience: How long it waits for its name at its start: a gateway notices only
            after some time that the machine of the one before has lost its power.
        room: Between two looks whether the spool has room again.
        least: Between two questions that were answered at once.
        report: Between two looks at what the engine has.
        farewell: How long what is said at the end may take.
    """

    outage: Backoff = Backoff(first=0.25, longest=2.0, jitter=0.5)  # noqa: RUF009 - frozen
    name_patience: float = 60.0
    room: float = 2.0
    least: float = 0.1
    report: float = 60.0
    farewell: float = 5.0
    delivery: DeliveryTimes = field(default_factory=DeliveryTimes)


class JoinedWorker:
    """A `worker.loop.JobSource` whose jobs come from a gateway elsewhere.

    Args:
        gateway: Open for as long as this runs.
        spool: Open, too.
        report: What the worker has now; asked when the handler is ready.
        store: The one that the handler was given for large outputs.
    """

    def __init__(
        self,
        gateway: Gateway,
        spool: Spool,
        report: Callable[[], Awaitable[Report]],
        store: SpoolStore,
        times: JoinedTimes = JoinedTimes(),
    ) -> None:
        self._gateway = gateway
        self._times = times
        self._ask_report = report
        self._report: Report | None = None
        self._store = store
        self._delivery = Delivery(gateway, spool, times.delivery)
        self._running: TakenJob | None = None
        self._stop_it = asyncio.Event()
        # Stops of jobs that are not here (yet): the answer with the job may be on its way.
        self._early_stops: deque[tuple[str, int]] = deque(maxlen=16)
        self._connected = asyncio.Event()
        self._asking = asyncio.Lock()
        self._hello_due = asyncio.Event()
        self._hellos = 0
        self._draining = asyncio.Event()
        self._broken = ""
        self._drained_there = False
        self._changed = Signal()

    async def run(self, handler: Handler) -> None:
        """Work until it has drained, or is cancelled: then the job that runs is given back.

        Raises:
            AuthenticationError: The gateway does not take the token.
            TargetError: Another worker has this one's name.
            ConfigurationError: The handler can never get ready.
        """
        async with first_of(
            self._stay_connected(),
            self._delivery.run(),
            self._keep_report(),
            self._work(handler),
        ) as tasks:
            for task in tasks:
                if task.done():
                    task.result()
        if self._draining.is_set():
            await self._say_goodbye()

    def drain(self) -> None:
        """Take no further job; `run` ends when the one that runs has ended, and is delivered."""
        self._draining.set()
        self._hello_due.set()
        self._changed.notify()

    async def deliver_only(self) -> None:
        """Deliver what waits from an earlier start, and end.

        Raises:
            AuthenticationError: The gateway does not take the token.
            TargetError: Another worker has this one's name.
        """
        self._draining.set()
        async with first_of(
            self._stay_connected(), self._delivery.run(), self._delivery.wait_until_empty()
        ) as tasks:
            for task in tasks:
                if task.done():
                    task.result()

    # What the loop asks for

    @property
    def closed(self) -> bool:
        """Whether no further job is taken."""
        return self._draining.is_set()

    async def take(self) -> TakenJob | None:
        """The next job; ``None`` if there is none yet."""
        if self._report is None or self._broken:
            self._broken = ""
            await self._look_at_engine()
        if not await self._may_take():
            return None
        loop = asyncio.get_running_loop()
        begun = loop.time()
        # No hello is under way meanwhile, which would not have the job among those held.
        async with self._asking:
            job = None if self._hello_due.is_set() else await self._ask_for_job()
        if job is None:
            # A gateway holds such a question for seconds; one that does not is not asked faster.
            await asyncio.sleep(max(0.0, begun + self._times.least - loop.time()))
        else:
            _log.info("Job %s begins.", job.id)
        return job

    async def progress(self, job: TakenJob, snapshot: dict[str, JsonValue]) -> None:
        """Show a snapshot, if the gateway can be reached now."""
        if self._connected.is_set():
            with contextlib.suppress(TargetError, HelloWanted):
                await self._gateway.progress(job, snapshot)

    async def stopped(self, job: TakenJob) -> None:
        """Wait until the gateway says that the job is to be stopped."""
        await self._stop_it.wait()
        _log.info("Job %s is stopped.", job.id)

    async def dropped(self, job: TakenJob) -> None:
        """What a job that was stopped had stored goes."""
        self._running = self._store.job = None
        await self._delivery.drop(job.id, job.attempt)

    async def finish(self, job: TakenJob, *, output: JsonValue, error: JsonValue) -> None:
        """Store the result, and have it delivered while the next job runs."""
        await self._delivery.add(job, output, error)
        self._running = self._store.job = None
        _log.info("Job %s has %s.", job.id, "failed" if error else "ended")

    async def fail(self, job: TakenJob, error: ComfyRemoteError) -> None:
        """The same, for a job that has failed."""
        said = failure_to_runpod(error)
        await self.finish(job, output=said["output"], error=said["error"])

    async def put_back(self, job: TakenJob) -> None:
        """Give a job back that was not done, if the gateway can be reached now."""
        if self._running is None:
            return  # its result is stored
        self._running = self._store.job = None
        try:
            await within(self._gateway.put_back(job), self._times.farewell)
            _log.info("Job %s is given back.", job.id)
        except (ComfyRemoteError, HelloWanted, asyncio.TimeoutError):
            _log.warning("Job %s could not be given back: the next start does it.", job.id)

    def not_ready(self, error: ComfyRemoteError) -> None:
        """Have the gateway show why no job is taken."""
        if self._broken != error.message:
            self._broken = error.message
            self._hello_due.set()

    # Inside

    async def _work(self, handler: Handler) -> None:
        await work(self, handler)
        await self._delivery.wait_until_empty()

    async def _stay_connected(self) -> None:
        failures, since = 0, asyncio.get_running_loop().time()
        taken_once = False
        while True:
            try:
                await self._hello()
                if failures or not taken_once:
                    _log.info("Connected to the gateway as %s.", self._gateway.worker)
                taken_once = True
                while not self._hello_due.is_set():
                    await self._ping()
                    failures = 0
                continue
            except HelloWanted:
                failures += 1
                error: Exception | None = None
            except AuthenticationError:
                raise
            except ComfyRemoteError as outage:
                waited = asyncio.get_running_loop().time() - since
                taken = outage.details.get(NAME_TAKEN) and not taken_once
                if taken and waited > self._times.name_patience:
                    raise
                failures, error = failures + 1, outage
            self._connected.clear()
            if error is not None:
                level = logging.WARNING if failures == 1 else logging.DEBUG
                _log.log(level, "The gateway cannot be used now; trying again. %s", error)
            if failures > 1 or error is not None:
                await asyncio.sleep(self._times.outage.seconds(failures))

    async def _hello(self) -> None:
        self._hello_due.set()  # ends the question for a job
        async with self._asking:
            self._hello_due.clear()
            self._hellos += 1
            answer = await self._gateway.hello(
                Hello(
                    boot=self._gateway.boot,
                    number=self._hellos,
                    version=__version__,
                    report=self._report or Report(),
                    holds=self._held(),
                    draining=self._draining.is_set(),
                    broken=self._broken,
                )
            )
        await self._drop(answer.drop)
        self._connected.set()
        self._changed.notify()
        self._delivery.wake()

    async def _ping(self) -> None:
        # A job that is being stopped is not named: it would be answered at once, again and again.
        runs = [] if self._stop_it.is_set() else self._runs()
        ping = Ping(holds=runs, draining=self._draining.is_set())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with first_of(self._gateway.ping(ping), self._hello_due.wait()) as (pinging, _):
            if not pinging.done():
                return
            answer = pinging.result()
        await self._drop(answer.stop)
        if answer.draining != self._drained_there:
            self._drained_there = answer.draining
            _log.info(
                "The gateway gives this worker no more jobs: it is drained there."
                if answer.draining
                else "The gateway gives this worker jobs again."
            )
        await asyncio.sleep(max(0.0, begun + self._times.least - loop.time()))

    def _held(self) -> list[Held]:
        return self._runs() + self._delivery.held()

    def _runs(self) -> list[Held]:
        job = self._running
        return [] if job is None else [Held(job=job.id, attempt=job.attempt)]

    async def _drop(self, drop: list[Held]) -> None:
        for held in drop:
            job = self._running
            if job is not None and (job.id, job.attempt) == (held.job, held.attempt):
                self._stop_it.set()
            elif held.state is HolderState.ENDED:
                await self._delivery.drop(held.job, held.attempt)
            else:
                self._early_stops.append((held.job, held.attempt))

    async def _may_take(self) -> bool:
        """Wait, some seconds at most, until a job may be taken; whether it may."""
        if why := await in_thread(self._delivery.lack_of_room):
            _log.warning("No job is taken: %s.", why)
            while await in_thread(self._delivery.lack_of_room) and not self.closed:
                await self._changed.wait(self._times.room)
        if not self._connected.is_set():
            await self._changed.wait(self._times.room)
        return self._connected.is_set() and not self.closed

    async def _keep_report(self) -> None:
        """Look now and then what the engine has: jobs bring models, and its owner adds nodes."""
        while True:
            await asyncio.sleep(self._times.report)
            if self._report is not None and not self._broken:
                await self._look_at_engine()

    async def _look_at_engine(self) -> None:
        """Say hello if the engine has something else than before."""
        before = self._report
        try:
            self._report = await self._ask_report()
        except ComfyRemoteError as error:
            _log.debug("The engine does not say what it has: %s", error)
            self._report = before or Report()
        if self._report != before:
            self._say_hello_again()

    async def _ask_for_job(self) -> TakenJob | None:
        async with first_of(
            self._gateway.take(Ping(holds=self._held())),
            self._draining.wait(),
            self._hello_due.wait(),
        ) as (taking, *_):
            if not taking.done():
                # The answer may be on its way: a hello says that no job has arrived.
                self._say_hello_again()
                return None
            try:
                job: TakenJob | None = taking.result()
            except AuthenticationError:
                raise
            except (HelloWanted, ComfyRemoteError) as error:
                _log.debug("No job was taken: %s", error)
                self._say_hello_again()
                return None
        if job is not None:
            self._stop_it.clear()
            self._running = self._store.job = job
            if (job.id, job.attempt) in self._early_stops:
                self._stop_it.set()
        return job

    def _say_hello_again(self) -> None:
        self._connected.clear()
        self._hello_due.set()

    async def _say_goodbye(self) -> None:
        """Say that nothing runs here, also where a job that was on its way never arrived."""
        with contextlib.suppress(ComfyRemoteError, HelloWanted, asyncio.TimeoutError):
            await within(self._hello(), self._times.farewell)
