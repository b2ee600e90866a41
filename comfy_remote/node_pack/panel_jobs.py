"""The jobs that the panel lists: those in progress, and those of the last day that have ended.

Those of this server's lane come from the lane. The others come from the record: remote parts and
nodes of ours that run here, calls, and what was sent in a terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..aio import Background, concurrent_map
from ..clean import cleaned_text
from ..config.settings import Configuration
from ..errors import ComfyRemoteError, JobNotFound
from ..events import JobState
from ..jobs.client import resume
from ..jobs.estimate import RunEstimate, estimate_on
from ..jobs.prices import remembered_price
from ..jobs.record import JobEntry, JobLine, SavedOutput
from ..jobs.record.ledger import Booked, Booking
from ..jobs.submission import not_recorded
from ..schedule.money import Price
from ..types import JsonValue
from .advice import error_json
from .host import FolderKind, Host
from .lane import RemoteLane
from .lane_job import UNNAMED, LaneJob
from .refusals import lacks_something
from .spending import day_of_all
from .target_pool import TargetPool

__all__ = ["PanelJobs", "remaining"]

_DAY = 86400.0
_MOST = 100
_PRICES_AGE = 20.0
_CANCEL_WITHIN = 10.0
_MOST_ESTIMATES = 500

# By the source that they are recorded with.
_KINDS = {UNNAMED: "job", "remote part": "part", "RunPod Remote Execute": "node"}


class PanelJobs:
    """What the panel asks about jobs."""

    def __init__(self, host: Host, pool: TargetPool, lane: RemoteLane) -> None:
        self._host = host
        self._pool = pool
        self._record = pool.record
        self._lane = lane
        self._estimates: dict[str, RunEstimate] = {}
        self._estimated: set[str] = set()
        self._prices: dict[str, Price | None] = {}
        self._priced = float("-inf")
        self._asking = Background()

    async def recent(self, limit: int) -> JsonValue:
        """Jobs in progress, then the newest of those that have ended: see docs/routes.md.

        It reads what is indexed, and of each job only what is small: the panel asks every few
        seconds.

        Args:
            limit: How many that have ended.
        """
        now = time.time()
        running = {job.entry.prompt_id: job for job in self._lane.in_progress()}
        begun = await self._in_progress(now)
        ended = [] if self._host.several_users else await self._ended(now, limit + 1)
        attempts = {line.id: line.attempt for line in begun}
        lines = [line for line in (*begun, *ended[:limit]) if line.id not in running]
        await self._price({line.member or line.target for line in lines})
        booked = await self._record.read(self._record.ledger.of_all, [line.id for line in lines])
        self._estimate(running.values())
        jobs = [
            self._of_lane(job, now, attempts.get(prompt_id, 1))
            for prompt_id, job in reversed(running.items())
        ]
        jobs += [self._of_record(line, now, booked.get(line.id)) for line in lines]
        answer: dict[str, JsonValue] = {"now": now, "jobs": [*jobs], "more": len(ended) > limit}
        if not self._host.several_users:
            answer["today"] = await day_of_all(self._record)
        return answer

    async def details(self, job_id: str) -> JsonValue:
        """The outputs of a job, why it failed, and what was said while it ran.

        Raises:
            JobNotFound: The record has no such job, or this browser may not see it.
        """
        entry = await self._entry(job_id)
        steps = await self._record.read(self._record.routes.steps, job_id)
        outputs = await asyncio.to_thread(lambda: [self._output(one) for one in entry.outputs])
        return {
            "prompt_id": entry.id,
            "state": entry.state.value,
            "outputs": [*outputs],
            "steps": [
                {
                    "member": step.member,
                    "at": step.at,
                    "state": step.state.value,
                    "why": cleaned_text(step.why),
                }
                for step in steps
            ],
            "folder": None if entry.folder is None else str(entry.folder),
            "error": None if entry.error is None else error_json(entry.error),
            "lacks": lacks_something(entry.error),
            "target": entry.member or entry.target,
            "said": [{"at": one.at, "message": cleaned_text(one.message)} for one in entry.said],
        }

    async def run_again(
        self, job_id: str, client_id: str | None, peer: object, *, over_cap: bool = False
    ) -> JsonValue:
        """Run a job that has ended once more; see `RemoteLane.run_again`."""
        entry = await self._entry(job_id)
        prompt_id = await self._lane.run_again(entry, client_id, peer, over_cap=over_cap)
        return {"prompt_id": prompt_id, "again": entry.id}

    async def cancel(self, job_id: str) -> None:
        """Stop a job, wherever it was started.

        Raises:
            JobNotFound: It has ended, or there is none.
            ComfyRemoteError: Its target cannot be asked to stop it.
        """
        if await self._lane.cancel(job_id):
            return
        missing = JobNotFound(
            f"No remote job {job_id!r} is waiting or running.",
            advice="GET /remote/jobs/recent lists them; it may have ended.",
        )
        try:
            entry = await self._entry(job_id)
        except JobNotFound:
            raise missing from None
        if entry.state.final:
            raise missing
        async with resume(entry.id, record=self._record, on_interrupt=None) as job:
            await job.cancel()
            # Its end is recorded by whoever follows it: here, if nobody else does.
            ending = asyncio.ensure_future(job.wait())
            await asyncio.wait({ending}, timeout=_CANCEL_WITHIN)
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def cancel_all(self, client_id: str | None) -> JsonValue:
        """Stop all that are in progress; where several people share the server, a page's own.

        Returns:
            ``{"cancelled": [id, …], "failed": [{"prompt_id", "error"}, …]}``.
        """
        jobs = self._lane.in_progress()
        if self._host.several_users:
            jobs = [job for job in jobs if job.entry.client_id == client_id is not None]
        ids = [job.entry.prompt_id for job in jobs]
        ids += [one.id for one in await self._in_progress(time.time()) if one.id not in ids]

        async def one(job_id: str) -> dict[str, JsonValue] | None:
            try:
                await self.cancel(job_id)
            except JobNotFound:
                pass  # it has ended meanwhile
            except ComfyRemoteError as error:
                return {"prompt_id": job_id, "error": error_json(error)}
            return None

        failed = [found for found in await concurrent_map(one, ids) if found is not None]
        not_stopped = {found["prompt_id"] for found in failed}
        return {
            "cancelled": [job_id for job_id in ids if job_id not in not_stopped],
            "failed": [*failed],
        }

    def name(self, job_id: str, name: str) -> bool:
        """Note what a job's workflow is called in the page.

        Returns:
            ``False`` if it has a name already, or has ended.
        """
        name = cleaned_text(name).strip()
        for job in self._lane.in_progress():
            if job.entry.prompt_id == job_id and job.name == UNNAMED and name:
                job.name = name
                record = self._record
                record.post(not_recorded, record.named, job_id, name, instead_of=UNNAMED)
                return True
        return False

    async def _in_progress(self, now: float) -> list[JobLine]:
        """Of the record, where the server is one person's: others must not see all that it has."""
        if self._host.several_users:
            return []
        return await self._record.read(self._record.lines, now - _DAY, _MOST, ended=False)

    async def _ended(self, now: float, limit: int) -> list[JobLine]:
        return await self._record.read(self._record.lines, now - _DAY, limit, ended=True)

    async def _entry(self, job_id: str) -> JobEntry:
        if self._host.several_users:
            raise JobNotFound("Where several people share a ComfyUI, its record is not shown.")
        return await self._record.read(self._record.get, job_id)

    async def _price(self, targets: Iterable[str]) -> None:
        """Read what targets cost, if that was long ago."""
        wanted = {*targets}
        if wanted <= self._prices.keys() and time.monotonic() - self._priced < _PRICES_AGE:
            return
        self._prices = await asyncio.to_thread(_prices, wanted)
        self._priced = time.monotonic()

    def _estimate(self, jobs: Iterable[LaneJob]) -> None:
        """Have past runs looked up for jobs that have none yet; the next answer has them."""
        running = {job.entry.prompt_id: job for job in jobs}
        while len(self._estimates) > _MOST_ESTIMATES:
            self._estimates.pop(next(iter(self._estimates)))
        self._estimated &= running.keys()
        for prompt_id, job in running.items():
            if prompt_id not in self._estimated and job.sent is not None:
                self._estimated.add(prompt_id)
                self._asking.start(self._look_up(job))

    async def _look_up(self, job: LaneJob) -> None:
        if job.sent is None:
            return
        target = job.sent.client.target
        try:
            configuration = await asyncio.to_thread(Configuration.load)
            found = await estimate_on(
                target, self._record, job.entry.prompt, configuration, name=job.target
            )
        except ComfyRemoteError:
            return  # the list does without
        self._estimates[job.entry.prompt_id] = found

    def _of_lane(self, job: LaneJob, now: float, attempt: int) -> dict[str, JsonValue]:
        own = job.to_json()
        estimate = self._estimates.get(job.entry.prompt_id)
        seconds = None if estimate is None else estimate.seconds
        fraction = None if own["estimated"] else own["fraction"]
        cost = None if estimate is None else estimate.price
        return {
            **own,
            "member": job.member,
            "cached": None,
            "followed": True,
            "kind": "job",
            "name": "" if job.name == UNNAMED else job.name,
            "ended": None,
            "seen": now,
            "remaining": remaining(now, own["started"], fraction, seconds),
            "run_seconds": None,
            "cost": _cost(cost, estimated=True),
            "expected": None if estimate is None else _expected(estimate.seconds, estimate.price),
            "outputs": 0,
            "error": None,
            "attempt": attempt,
            "again": False,
            "batch": None,
        }

    def _of_record(
        self, line: JobLine, now: float, booking: Booking | None
    ) -> dict[str, JsonValue]:
        progress = line.progress or {}
        kind = _KINDS.get(line.source, "job")
        final = line.state.final
        cost, at_most = self._price_of(line, booking)
        estimated = progress.get("estimated") is True
        fraction = progress.get("fraction")
        return {
            "prompt_id": line.id,
            "followed": False,
            "target": line.target,
            "member": line.member,
            "cached": _cached(line.cached),
            "client_id": None,
            "state": line.state.value,
            "created": line.created,
            "started": line.started,
            "fraction": fraction,
            "estimated": estimated,
            "phase": None,
            "message": "",
            "kind": kind,
            "name": "" if kind == "part" or line.source == UNNAMED else Path(line.source).name,
            "ended": line.updated if final else None,
            "seen": line.updated,
            "remaining": None
            if final
            else remaining(now, line.started, None if estimated else fraction, None),
            "run_seconds": line.run_seconds,
            "cost": _cost(cost, at_most=at_most),
            "expected": self._expected_of(line.id, booking),
            "outputs": line.outputs,
            "error": None
            if line.error is None or line.state is JobState.CANCELLED
            else cleaned_text(line.error),
            "attempt": line.attempt,
            "again": final and line.again,
            "batch": None if line.batch is None else cleaned_text(line.batch),
        }

    def _price_of(self, line: JobLine, booking: Booking | None) -> tuple[float | None, bool]:
        """US dollars that a job has cost; and whether that is only the most that it can be."""
        if line.state.final and booking is not None and booking.amount is not None:
            if booking.booked is Booked.RELEASED:
                return None, False
            return booking.amount, booking.booked is not Booked.SETTLED
        price = self._prices.get(line.member or line.target)
        if price is None or line.run_seconds is None:
            return None, False
        return price.of(line.run_seconds), False

    def _expected_of(self, job_id: str, booking: Booking | None) -> JsonValue:
        """What was known before it ran."""
        estimate = self._estimates.get(job_id)
        if estimate is not None:
            return _expected(estimate.seconds, estimate.price)
        if booking is None or booking.estimated is None or booking.price is None:
            return None
        an_hour = booking.price.per_hour
        return _expected(booking.estimated * 3600 / an_hour if an_hour else None, booking.estimated)

    def _output(self, saved: SavedOutput) -> dict[str, JsonValue]:
        """A file that a job has saved, and how the page can show it."""
        path = saved.path
        return {
            "filename": path.name,
            "kind": saved.kind,
            "size": saved.size,
            "path": str(path),
            "there": path.is_file(),
            "view": self._view(path),
        }

    def _view(self, path: Path) -> dict[str, JsonValue] | None:
        """What ComfyUI's ``/view`` takes for it; ``None`` outside of ComfyUI's folders."""
        kinds: tuple[FolderKind, ...] = ("output", "temp")
        for kind in kinds:
            try:
                below = path.relative_to(self._host.folder(kind))
            except ValueError:
                continue
            subfolder = below.parent.as_posix()
            return {
                "filename": path.name,
                "subfolder": "" if subfolder == "." else subfolder,
                "type": kind,
            }
        return None


def remaining(
    now: float, started: JsonValue, fraction: JsonValue, seconds: float | None
) -> float | None:
    """About how long a job still runs, in seconds; ``None`` where nothing says it.

    Args:
        started: When it began to run, in seconds since the epoch; ``None`` while it waits: then the
            answer is the whole run.
        fraction: Of it that is done, as the engine says; ``None`` where it does not.
        seconds: How long past runs took.
    """
    if not isinstance(started, int | float):
        return seconds
    ran = max(0.0, now - started)
    by_runs = None if seconds is None or seconds <= ran else seconds - ran
    if not isinstance(fraction, int | float) or fraction < 0.05:
        return by_runs
    by_progress = ran * (1 - fraction) / fraction
    if by_runs is None:
        return by_progress
    # The further it is, the more its own speed says.
    return fraction * by_progress + (1 - fraction) * by_runs


def _cached(cached: Mapping[str, JsonValue] | None) -> JsonValue:
    """Of a job that did not run: when its result was made, and what that saved in US dollars."""
    return None if cached is None else {"at": cached.get("at"), "saved": cached.get("saved")}


def _cost(dollars: float | None, *, estimated: bool = False, at_most: bool = False) -> JsonValue:
    if dollars is None:
        return None
    return {"dollars": round(dollars, 6), "estimated": estimated, "at_most": at_most}


def _expected(seconds: float | None, dollars: float | None) -> JsonValue:
    if seconds is None:
        return None
    known = None if dollars is None else round(dollars, 6)
    return {"seconds": round(seconds, 2), "dollars": known}


def _prices(targets: Iterable[str]) -> dict[str, Price | None]:
    try:
        configuration = Configuration.load()
    except ComfyRemoteError:
        return dict.fromkeys(targets)  # the panel shows what is wrong with it elsewhere
    return {target: remembered_price(target, configuration).price for target in targets}
