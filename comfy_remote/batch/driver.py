"""Runs what is left of a batch, as many at a time as fit, until all have ended or it is paused.

One driver at a time has a batch (`store.lease`). It may be killed at any moment: the next one finds
in the record which runs have begun, and follows those again instead of sending them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..aio import in_thread, within
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    JobTimedOut,
    LocalStorageError,
    NotTrusted,
    RateLimited,
    SpendingCap,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    TargetStalled,
    TargetUnreachable,
)
from ..jobs.estimate import estimate_run
from ..jobs.record import BatchEntry, BatchState, RunState, Wanted
from ..targets.base import server_of
from .capacity import Capacity
from .events import (
    BatchEvent,
    GoesOn,
    Noted,
    RunBegan,
    RunEnded,
    RunFetches,
    RunProgress,
    RunSends,
    Stopped,
    Waits,
)
from .frozen import Frozen
from .hours import Hours
from .manifest import MANIFEST, ManifestWriter, RunLine, read_manifest
from .one_run import OneRun, RunKind
from .rows import Rows

if TYPE_CHECKING:
    from ..events import Progress
    from ..jobs.client import Client
    from ..schedule.money import Price
    from .plan import Plan

__all__ = ["Driver", "DriverTimes"]

_log = logging.getLogger(__name__)

_STOPS_ALL = (
    AuthenticationError,
    ConfigurationError,
    NotTrusted,
    TargetNotFound,
    LocalStorageError,
)
"""Errors that the next run would have as well: somebody has to see to them."""
_PASSES = (TargetUnreachable, TargetStalled)
"""Errors of a target that may come back."""
_MOST_TIMES = 20
_MOST_UNKNOWN = 3
_PROGRESS_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class DriverTimes:
    """How often a driver looks at things, and how long it waits, in seconds.

    Attributes:
        wanted: Between two looks at what the user wants.
        health: Between two questions of how many workers there are.
        full: After a target has refused more runs for now.
        gone: Between two tries to reach a target that is gone; doubled each time up to
            ``longest``.
        patience: How long to wait for it in all, before the batch is paused.
    """

    wanted: float = 1.0
    health: float = 5.0
    full: float = 5.0
    gone: float = 2.0
    longest: float = 60.0
    patience: float = 24 * 3600.0


class Driver:
    """Drives one batch, whose lease the caller has.

    Args:
        client: Open; it must leave jobs alone when it is left (``on_interrupt=None``).
        price: What an hour costs there; ``None`` where that is not known.
    """

    def __init__(
        self,
        client: Client,
        entry: BatchEntry,
        frozen: Frozen,
        plan: Plan,
        *,
        price: Price | None = None,
        hours: Hours | None = None,
        times: DriverTimes = DriverTimes(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._record = client.record
        self._entry = entry
        self._plan = plan
        self._times = times
        self._now = now
        self._hours = hours or Hours(frozen.start, frozen.until)
        self._stop_after = frozen.stop_after
        rows = Rows(frozen, plan, client.target)
        self._kind = RunKind(client, entry.id, frozen, rows, entry.folder, price)
        self._capacity = Capacity(frozen.at_most)
        self._running: dict[asyncio.Task[None], OneRun] = {}
        self._events: deque[BatchEvent] = deque()
        self._woken = asyncio.Event()
        self._took: deque[float] = deque(maxlen=_MOST_TIMES)
        self._failures = 0
        self._stopping: tuple[BatchState, str | None] | None = None
        self._paused = False  # by its user
        self._at_cap = 0  # runs that wait for room under a cap on spending
        self._error: ComfyRemoteError | None = None
        self._blocked: str | None = None
        self._waits_to_begin = False
        self._gone: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncGenerator[BatchEvent, None]:
        """Drive it; the last event is `Stopped`. Left early, its jobs go on at the target.

        Raises:
            LocalStorageError: Its folder or the record cannot be used.
        """
        driving = asyncio.create_task(self._drive())
        driving.add_done_callback(lambda _: self._woken.set())
        try:
            while True:
                self._woken.clear()
                while self._events:
                    yield self._events.popleft()
                if driving.done() and not self._events:
                    await driving
                    return
                await self._woken.wait()
        finally:
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)

    def _say(self, event: BatchEvent) -> None:
        self._events.append(event)
        self._woken.set()

    async def _drive(self) -> None:
        batches, batch_id = self._record.batches, self._entry.id
        path = self._entry.folder / MANIFEST
        manifest = await in_thread(ManifestWriter, path)
        begun = await self._begun(await in_thread(read_manifest, path))
        await self._learn()
        begins = self._hours.begins(self._now())
        now = (BatchState.RUNNING, None) if begins is None else (BatchState.WAITING, begins)
        self._waits_to_begin = begins is not None
        await self._record.write(batches.state, batch_id, *now)
        with suppress(ComfyRemoteError, asyncio.TimeoutError):
            await within(self._look(), self._times.health)
        looking = asyncio.create_task(self._look_at_health())
        try:
            try:
                await self._run_all(self._left(begun), manifest)
            finally:
                looking.cancel()
                others = [looking, *self._running, *([self._gone] if self._gone else [])]
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                await in_thread(manifest.tidy)
        except BaseException as failure:
            words = str(failure) if isinstance(failure, ComfyRemoteError) else "It was stopped."
            with suppress(ComfyRemoteError):
                await self._record.write(batches.state, batch_id, BatchState.PAUSED, words)
            raise
        state, why = self._stopping or (BatchState.ENDED, None)
        await self._make_sheet()
        error = self._error if state is BatchState.PAUSED else None
        await self._record.write(batches.state, batch_id, state, why)
        self._say(Stopped(await self._record.read(batches.get, batch_id), error))

    async def _make_sheet(self) -> None:
        from .sheet import make_sheet  # here: reads and draws pictures, after all runs

        folder, embed = self._entry.folder, self._kind.frozen.embed
        try:
            made = await in_thread(lambda: make_sheet(folder, embed=embed))
        except LocalStorageError as error:
            self._say(Noted(f"The sheet could not be made. {error}", warning=True))
            return
        except Exception:  # noqa: BLE001  a picture that breaks what draws it costs no batch its end
            _log.exception("The sheet of %s could not be made.", folder)
            self._say(Noted("The sheet could not be made: see the log.", warning=True))
            return
        for note in made.notes:
            self._say(Noted(note))

    async def _begun(self, lines: dict[int, RunLine]) -> dict[int, tuple[int, RunState]]:
        """The runs that have begun before.

        What the manifest alone knows is recorded: a driver was killed between the two. What the
        record alone knows gets a line again.
        """
        batches, batch_id = self._record.batches, self._entry.id
        begun = await self._record.read(batches.runs, batch_id)
        for row, (attempt, state) in begun.items():
            line = lines.get(row)
            if state is RunState.AGAIN:
                continue
            if line is not None and line.attempt == attempt:
                known = RunState(line.state)
            elif state is not RunState.BEGUN and await self._run(row, attempt).known():
                known = RunState.BEGUN
            else:
                continue
            if known is not state:
                begun[row] = attempt, known
                await self._record.write(batches.run, batch_id, row, attempt, known)
        return begun

    def _left(self, begun: dict[int, tuple[int, RunState]]) -> Iterator[tuple[int, int, bool]]:
        """Row, attempt, and whether it has begun: of the runs that have not ended, in order."""
        for row, (attempt, state) in sorted(begun.items()):
            if state is RunState.BEGUN:
                yield row, attempt, True
        for row in range(self._plan.count):
            attempt, state = begun.get(row, (1, RunState.AGAIN))
            if state is RunState.AGAIN:
                yield row, attempt, False

    async def _run_all(
        self, left: Iterator[tuple[int, int, bool]], manifest: ManifestWriter
    ) -> None:
        following = next(left, None)
        looked = -math.inf
        while following is not None or self._running:
            if time.monotonic() - looked >= self._times.wanted:
                looked = time.monotonic()
                await self._do_as_wanted()
            pause = self._times.wanted
            # Those that an earlier driver has begun are at the target, and are cancelled there.
            to_cancel = self._cancels and following is not None and following[2]
            if self._stopping is not None and not self._running and not to_cancel:
                return
            if following is not None and to_cancel:
                row, attempt, begun = following
                await self._begin(row, attempt, begun, manifest)
                following = next(left, None)
                continue
            if following is not None and self._stopping is None:
                row, attempt, begun = following
                pause = min(pause, self._wait_before(begun))
                if pause <= 0:
                    await self._begin(row, attempt, begun, manifest)
                    following = next(left, None)
                    continue
            await self._next_end(max(0.01, min(pause, self._times.wanted)))

    def _wait_before(self, begun: bool) -> float:
        """Seconds before the next run may begin, as far as is known; 0 if it may now."""
        now = self._now()
        if (wait := self._hours.wait(now)) > 0 and not begun:
            self._block(self._hours.begins(now) or "")
            return wait
        if self._gone is not None or len(self._running) >= self._capacity.limit:
            return math.inf
        if not begun and self._hours.over(now, self._expected()):
            self._fail(JobTimedOut("Another run would not end before the time set for it."))
            return math.inf
        if self._blocked is not None:
            self._blocked = None
            self._say(GoesOn())
        return 0.0

    def _expected(self) -> float | None:
        """Seconds until a run that begins now would end, as far as is known."""
        if not self._took:
            return None
        usual = sorted(self._took)[len(self._took) // 2]
        at_a_time = max(1, self._capacity.limit - 1)
        return usual * math.ceil((len(self._running) + 1) / at_a_time)

    async def _next_end(self, seconds: float) -> None:
        waiting = [*self._running, *([self._gone] if self._gone else [])]
        if not waiting:
            await asyncio.sleep(seconds)
            return
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task is self._gone:
                self._gone = None
            else:
                del self._running[task]
            task.result()

    def _run(self, row: int, attempt: int) -> OneRun:
        return OneRun(self._kind, row, attempt, self._plan.row(row))

    async def _begin(self, row: int, attempt: int, begun: bool, manifest: ManifestWriter) -> None:
        run = self._run(row, attempt)
        if not begun:
            batches = self._record.batches
            if self._waits_to_begin:
                self._waits_to_begin = False
                await self._record.write(batches.state, self._entry.id, BatchState.RUNNING)
            await self._record.write(batches.run, self._entry.id, row, attempt, RunState.BEGUN)
        self._say(RunBegan(row, run.values, run.job_id, attempt, begun))
        if self._cancels:
            await run.cancel()
        self._running[asyncio.create_task(self._follow(run, manifest, new=not begun))] = run

    async def _follow(self, run: OneRun, manifest: ManifestWriter, *, new: bool) -> None:
        """Follow one run to its end, through all that passes."""
        began, last, unknown, here = time.monotonic(), -math.inf, 0, 0

        def due() -> bool:
            nonlocal last
            if time.monotonic() - last < _PROGRESS_EVERY:
                return False
            last = time.monotonic()
            return True

        def progressed(progress: Progress) -> None:
            if due():
                self._say(RunProgress(run.row, progress))

        def sends(sent: int, total: int) -> None:
            if due():
                self._say(RunSends(run.row, sent, total))

        def fetches(more: int) -> None:
            nonlocal here
            here += more
            if due():
                self._say(RunFetches(run.row, here))

        while True:
            try:
                line = await run.follow(progressed, sends, fetches, new=new)
                break
            except RateLimited:
                there = len(self._running)
                self._capacity.refused(there)
                self._say(Noted(f"The target takes no more for now; it has {there - 1} runs."))
                await asyncio.sleep(self._times.full)
            except SubmissionUnknown as error:
                # Asked again whether it has the job: its answer alone was lost, perhaps.
                unknown += 1
                if unknown > _MOST_UNKNOWN:
                    line = run.failed(error)
                    break
                await asyncio.sleep(self._times.gone * unknown)
            except SpendingCap as error:
                if not await self._has_room(error):
                    return
            except _PASSES as error:
                if not await self._is_back(error):
                    return
            except _STOPS_ALL as error:
                self._fail(error)
                return
            except ComfyRemoteError as error:
                line = run.failed(error)
                break
            finally:
                new = False
        try:
            await in_thread(manifest.add, line)
        except LocalStorageError as error:
            self._fail(error)
            return
        state = RunState(line.state)
        await self._record.write(
            self._record.batches.run, self._entry.id, run.row, run.attempt, state
        )
        self._say(RunEnded(line))
        if state is RunState.SUCCEEDED:
            self._capacity.ended_well()
            self._took.append(time.monotonic() - began if line.seconds is None else line.seconds)
        elif state is RunState.FAILED:
            self._failures += 1
            if self._stop_after is not None and self._failures >= self._stop_after:
                said = (line.error or {}).get("message", "")
                self._fail(ExecutionFailed(f"{self._failures} runs have failed. {said}".rstrip()))

    async def _has_room(self, error: SpendingCap) -> bool:
        """Wait for the end of another run, which gives back what it had reserved too much.

        Without one, or where that cannot help, the batch is paused: ``False``.
        """
        self._at_cap += 1
        try:
            others = len(self._running) > self._at_cap and error.details.get("span") != "job"
            if self._stopping is None and not (others and "spent" in error.details):
                self._fail(error)
            if self._stopping is None:
                self._capacity.refused(len(self._running))
                self._block(error.message)
                await self._next_end_of_others()
            return self._stopping is None
        finally:
            self._at_cap -= 1

    async def _next_end_of_others(self) -> None:
        others = [task for task in self._running if task is not asyncio.current_task()]
        await asyncio.wait(others, timeout=self._times.full, return_when=asyncio.FIRST_COMPLETED)

    async def _is_back(self, error: TargetError) -> bool:
        """Wait until the target answers again; whether it does, and the batch goes on."""
        if self._gone is None:
            self._block(str(error))
            await self._record.write(
                self._record.batches.state, self._entry.id, BatchState.PAUSED, str(error)
            )
            self._gone = asyncio.create_task(self._wait_for_target(error))
        gone = self._gone
        await asyncio.wait([gone])
        return self._stopping is None

    async def _wait_for_target(self, error: TargetError) -> None:
        pause, until = self._times.gone, time.monotonic() + self._times.patience
        while time.monotonic() < until and self._stopping is None:
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._times.longest)
            with suppress(ComfyRemoteError):
                await self._look()
                await self._record.write(
                    self._record.batches.state, self._entry.id, BatchState.RUNNING
                )
                return
        self._fail(error)

    def _block(self, why: str) -> None:
        if self._blocked != why:
            self._blocked = why
            self._say(Waits(why))

    def _fail(self, error: ComfyRemoteError) -> None:
        if self._stopping is None:
            self._error = error
        self._stop(BatchState.PAUSED, str(error))

    def _stop(self, state: BatchState, why: str | None) -> None:
        """Begin no more runs; what runs may end. The first reason counts, but for a cancel."""
        if self._stopping is None or self._paused or state is BatchState.CANCELLED:
            self._paused = False
            self._stopping = state, why

    @property
    def _cancels(self) -> bool:
        return self._stopping is not None and self._stopping[0] is BatchState.CANCELLED

    async def _do_as_wanted(self) -> None:
        wanted = await self._record.read_at_once(self._record.batches.wanted, self._entry.id)
        if wanted is Wanted.PAUSE and self._stopping is None:
            self._stop(BatchState.PAUSED, "It was paused.")
            self._paused = True
        elif wanted is Wanted.RUN and self._paused and not self._cancels:
            self._stopping, self._paused = None, False  # resumed before its last run had ended
        elif wanted is Wanted.CANCEL:
            if not self._cancels:
                self._stop(BatchState.CANCELLED, None)
            # Also those whose target could not be asked the last time.
            await asyncio.gather(*(run.cancel() for run in self._running.values()))

    async def _look_at_health(self) -> None:
        while True:
            await asyncio.sleep(self._times.health)
            if self._gone is None:
                with suppress(ComfyRemoteError):
                    await self._look()

    async def _look(self) -> None:
        self._capacity.seen(await self._client.target.health())

    async def _learn(self) -> None:
        """How long a run takes, by earlier ones of the same workflow there."""
        if self._hours.until is None:
            return
        target = self._client.target
        with suppress(ComfyRemoteError):
            submission = await self._kind.rows.submission(0)
            estimate = await estimate_run(
                self._record, target.name, submission.prompt, server=server_of(target)
            )
            if estimate.seconds is not None:
                self._took.append(estimate.seconds)
