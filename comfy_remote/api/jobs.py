"""The jobs that are started through the API. They are jobs in the record, and nothing besides.

Where a job stands is in the record; the task that follows it, and what it says live, are of this
process. After a restart the record says which jobs have not ended, and they are followed again. A
job has ended for its client once its outputs are in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from ..aio import Background, in_thread, within
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    JobCancelled,
    JobNotFound,
    OutputLost,
    RateLimited,
    SubmissionUnknown,
    TargetError,
    TargetUnreachable,
)
from ..events import DidItRun, JobState
from ..jobs.client import Client
from ..jobs.inputs import collect_inputs
from ..jobs.job import Job
from ..jobs.record import JobEntry, JobLine
from ..jobs.served import ServedJobs, is_job_id
from ..media.file_changes import discard
from ..media.files import storage_errors
from ..media.temporary import ProcessLock
from ..targets.base import RunRequest, TakesPartnerKey
from ..types import JsonValue, mapping
from ..units import counted, seconds_text, size_text
from ..wire.comfy_api import API_PATH, ApiJob, ApiStatus, JobList, JobSummary, JobWorkflow
from ..workflow.files import every_file_use
from ..workflow.paid_nodes import any_paid_known
from ..workflow.prompt import Prompt
from ..workflow.repo_list import without_repo_list
from .assets import AssetStore
from .ended import STATUS, EndedJob
from .errors import ApiRefusal, job_error
from .live import LiveJob
from .outputs import ArrivalSlots, ArrivingOutputs
from .prompts import OnTargetOnly, PostedJob, with_files
from .run import ApiRun
from .stored import StoredAsset, utc
from .target_nodes import TargetNodes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ApiJobs", "ApiTimes", "JobsWanted"]

_log = logging.getLogger(__name__)

_FULL_AGAIN = 2
_MOST_REMEMBERED = 1000
_MOST_ROUNDS = 20
_SENT_AGAIN = "The server was restarted before the target had the job, which was sent once more."
_PAGE_KEY = "comfy_api"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class ApiTimes:
    """Seconds.

    Attributes:
        retention: After its end, for which a job and what it made stay; up to a sweep longer.
        answered: That a request waits for a job to be sent to the target.
        again: After which a target that could not be reached is asked again.
        patience: For which it is asked again and again, before a job is given up.
        search: For a job whose submission was not answered to turn up at the target.
        settle: After a restart, for a submission to arrive that was under way before it.
        key: For which an ``Idempotency-Key`` is used up.
        sweep: Between two looks after what stays how long.
    """

    retention: float = 24 * 3600.0
    answered: float = 20.0
    again: float = 5.0
    patience: float = 24 * 3600.0
    search: float = 60.0
    settle: float = 2.0
    key: float = 24 * 3600.0
    sweep: float = 600.0


@dataclass(frozen=True, slots=True)
class JobsWanted:
    """Which jobs a list has.

    Attributes:
        labels: Those with all of these labels.
        states: Those in one of these; in any if it is empty.
        limit: The most on a page.
        cursor: What the last page gave as ``next_cursor``; ``None`` for the first page.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    states: frozenset[ApiStatus] = frozenset()
    limit: int = 100
    cursor: str | None = None


class ApiJobs:
    """The jobs of one front. Used as an asynchronous context manager, inside its client and store.

    Args:
        client: Of the target; made with ``on_interrupt=None``: jobs go on when the front ends.
        assets: What prompts refer to, and where outputs go.
        name: Of the front: two with one record have two names, and two stores.
        partner_keys: Whether a submitter's key for partner nodes is passed on to the target. The
            owner says so, since it goes wherever the target is.
        most_at_a_time: Jobs that may be under way.
        most_bytes: Of the requests of all of them together: their workflows are in memory.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        assets: AssetStore,
        name: str,
        *,
        partner_keys: bool = False,
        times: ApiTimes = ApiTimes(),
        most_at_a_time: int = ServedJobs.MOST,
        most_bytes: int = 256 * 2**20,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._assets = assets
        self._partner_keys = partner_keys
        self._most_bytes = most_bytes
        self._times = times
        self._now = now
        self.source = f"api {name}"
        self._jobs: ServedJobs[ApiRun] = ServedJobs(
            client,
            self.source,
            answered_within=times.answered,
            again_after=times.again,
            patience=times.patience,
            most=most_at_a_time,
        )
        self._ended: OrderedDict[str, EndedJob] = OrderedDict()
        self._claiming: set[str] = set()
        self._starting = self._starting_bytes = 0
        self._nodes = TargetNodes(client.target)
        self._background = Background()
        self._slots = ArrivalSlots()
        self._folder = assets.folder / "outputs"
        self._lock: ProcessLock | None = None

    async def __aenter__(self) -> Self:
        """Follow again what an earlier process began.

        Raises:
            ConfigurationError: Another process serves under this name.
        """
        await in_thread(self._begin)
        record = self._client.record
        entries = await record.read(record.unshown_of, self.source)
        await in_thread(self._remove_leftovers, {entry.id for entry in entries})
        for entry in entries:
            await self._take_up(entry)
        self._assets.before_sweep = self._extend_all
        self._background.start(self._sweep_again_and_again())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop following. The jobs go on, and the next front follows them."""
        self._assets.before_sweep = None
        await self._background.stop()
        under_way = self._jobs.under_way
        await self._jobs.stop()
        for run in under_way:
            await run.stop()
        if self._lock is not None:
            self._lock.close()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._jobs)

    async def start(
        self, posted: PostedJob, *, base: str, key: str | None = None, token: str = ""
    ) -> ApiJob:
        """Record a job and send it to the target.

        Returns once the target has it, or after `ApiTimes.answered` while it is still being sent.

        Args:
            base: The address of the API, for links: ``http://HOST:PORT/api/v2``.
            key: The ``Idempotency-Key``, if there is one.
            token: Of whoever sent it: keys of two tokens are different ones.

        Raises:
            ApiRefusal: There are too many jobs, the key was used, an asset is missing, or a key
                for partner nodes came that is not passed on.
            ComfyRemoteError: The workflow cannot run, its cost is over a cap, there is no room for
                its outputs, or the target could not be reached.
        """
        self._check_full(posted)
        self._check_partner_key(posted)
        with contextlib.ExitStack() as claims:
            claims.enter_context(self._counted(posted))
            await self._assets.check_room()
            job_id, again = str(uuid.uuid4()), None
            if key is not None:
                job_id, again = await self._claimed(claims, key, token)
            return await self._started(posted, job_id, again, base)

    async def get(self, job_id: str, *, base: str) -> ApiJob:
        """A job as it stands.

        Raises:
            JobNotFound: There is none, or it has expired.
        """
        return (await self._shown(job_id)).shown(base)

    async def workflow(self, job_id: str) -> JobWorkflow:
        """The prompt of a job, as it was posted.

        Raises:
            JobNotFound: As `get`.
        """
        await self._shown(job_id)
        entry = await self._jobs.entry(job_id)
        posted = mapping(mapping((entry.page or {}).get(_PAGE_KEY)).get("nodes"))
        prompt = cast("dict[str, JsonValue]", {**entry.prompt, **posted})
        return JobWorkflow(workflow=prompt, format="api")

    async def cancel(self, job_id: str, *, base: str) -> ApiJob:
        """Have the target stop a job; one that has ended stays as it is.

        Raises:
            JobNotFound: As `get`.
        """
        shown = await self._shown(job_id)
        if isinstance(shown, ApiRun):
            record = self._client.record
            await record.write(record.routes.cancel, job_id)
            self._want_cancel(shown)
        return (await self._shown(job_id)).shown(base)

    async def live(self, job_id: str) -> LiveJob:
        """What a job says live; of one that has ended, its end alone.

        Raises:
            JobNotFound: As `get`.
        """
        shown = await self._shown(job_id)
        if isinstance(shown, ApiRun):
            return shown.live
        job = shown.shown(API_PATH)
        return LiveJob(job.status, progress=job.progress, outputs=job.outputs)

    async def page(self, wanted: JobsWanted) -> JobList:
        """The newest jobs first.

        Raises:
            ApiRefusal: The cursor is none of ours.
        """
        found: list[JobSummary] = []
        before, more = wanted.cursor, True
        if before is not None and not is_job_id(before):
            raise ApiRefusal("invalid_cursor", "cursor is the next_cursor of a page before.")
        for _ in range(_MOST_ROUNDS):
            stored = await self._assets.jobs_labelled(
                wanted.labels, limit=wanted.limit, before=before
            )
            more = len(stored) == wanted.limit
            record = self._client.record
            lines = await record.read(record.lines_of, [one.id for one in stored])
            by_id = {line.id: line for line in lines}
            for one in stored:
                before = one.id
                line = by_id.get(one.id)
                status = None if line is None else self._status_of(line)
                if line is None or (wanted.states and status not in wanted.states):
                    continue
                found.append(
                    JobSummary(
                        id=one.id,
                        status=status or ApiStatus.QUEUED,
                        create_time=utc(line.created),
                        update_time=utc(line.updated),
                        metadata=dict(one.labels),
                    )
                )
                if len(found) == wanted.limit:
                    more = more or one is not stored[-1]
                    return JobList(jobs=found, next_cursor=before if more else None)
            if not more:
                break
        return JobList(jobs=found, next_cursor=before if more else None)

    # Starting

    def _check_full(self, posted: PostedJob) -> None:
        size = sum(run.size for run in self._jobs.under_way) + self._starting_bytes
        if len(self._jobs) + self._starting >= self._jobs.most:
            why = f"{self._jobs.most} jobs are under way."
        elif size + posted.size > self._most_bytes:
            why = f"The workflows of all jobs under way may have {size_text(self._most_bytes)}."
        else:
            return
        raise ApiRefusal(
            "queue_full", f"{why} Send it again when some have ended.", retry_after=_FULL_AGAIN
        )

    @contextlib.contextmanager
    def _counted(self, posted: PostedJob) -> Iterator[None]:
        """Count a job that is not under way yet, while others are posted."""
        self._starting += 1
        self._starting_bytes += posted.size
        try:
            yield
        finally:
            self._starting -= 1
            self._starting_bytes -= posted.size

    def _check_partner_key(self, posted: PostedJob) -> None:
        if posted.partner_key is None:
            return
        target = self._client.target
        takes = isinstance(target, TakesPartnerKey) and target.takes_partner_key
        if not (self._partner_keys and takes):
            raise ApiRefusal(
                "forbidden",
                "extra_data.api_key_comfy_org is not passed on by this server: "
                + (
                    "its owner has not allowed it."
                    if takes
                    else "its target stores it, has no use for it, or is reached without https."
                )
                + " Send the job without it.",
            )

    async def _claimed(
        self, claims: contextlib.ExitStack, key: str, token: str
    ) -> tuple[str, str | None]:
        """The id of the job that has a key, and the last job that had it; claimed meanwhile.

        Raises:
            ApiRefusal: ``idempotency_key_reuse``.
        """
        whose = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        first = self._jobs.id_of(f"{whose}:{key}")
        if first in self._claiming:
            raise _key_reuse()
        self._claiming.add(first)
        claims.callback(self._claiming.discard, first)
        record = self._client.record
        before = await record.read(record.attempts, first)
        if not before:
            # Whoever sent it first may have hung up before it was recorded.
            if self._jobs.get(first) is not None:
                raise _key_reuse()
            return first, None
        last = before[-1]
        refused = last.state.final and last.did_it_run is DidItRun.NEVER_ACCEPTED
        if not refused and self._now() - last.created < self._times.key:
            raise _key_reuse()
        job_id = str(uuid.uuid5(uuid.UUID(first), str(last.attempt + 1)))
        if self._jobs.get(job_id) is not None:
            raise _key_reuse()
        return job_id, last.id

    async def _started(
        self, posted: PostedJob, job_id: str, again: str | None, base: str
    ) -> ApiJob:
        expires = self._expiry()
        try:
            assets = await self._assets.add_job(
                job_id, expires=expires, labels=posted.labels, uses=posted.asset_ids
            )
            request = await self._request(posted, job_id, assets)
        except BaseException:
            await self._assets.forget_job(job_id)
            raise
        run = self._run(job_id, posted.prompt, posted.labels, time.time(), expires)
        run.size = posted.size
        if posted.partner_key is not None:
            run.hold_secret(posted.partner_key.get_secret_value())
        page = _page(posted, request)
        # What is refused meanwhile is forgotten by `over`.
        await self._jobs.start(run, partial(self._submitted, run, request, page, again))
        run.answered = True
        return (self._ended.get(job_id) or run).shown(base)

    async def _request(
        self, posted: PostedJob, job_id: str, assets: Sequence[StoredAsset]
    ) -> RunRequest:
        prompt, files = with_files(posted, assets)
        uses = list(every_file_use(prompt))
        target = self._client.target
        prompt, sent = await collect_inputs(prompt, uses, target, OnTargetOnly(), files)
        await self._nodes.check(prompt)
        key = posted.partner_key
        return RunRequest(
            job_id,
            prompt,
            sent,
            retry_lost=not any_paid_known(prompt),
            extra_data={} if key is None else {"api_key_comfy_org": key.get_secret_value()},
        )

    async def _submitted(
        self,
        run: ApiRun,
        request: RunRequest,
        page: Mapping[str, JsonValue],
        again: str | None,
    ) -> Job:
        try:
            job = await self._client.send(
                request,
                source=self.source,
                page=page,
                again=again,
                cache="off" if request.extra_data else None,
            )
        except SubmissionUnknown as error:
            _log.warning("%s", error)
            # It may arrive yet, so it is not sent again.
            found = await self._found(run, self._times.search)
            if found is None:
                raise
            return found
        record = self._client.record
        for line in await record.read_at_once(record.lines_of, [run.id]):
            run.created = line.created
        return job

    # After a restart

    async def _take_up(self, entry: JobEntry) -> ApiRun:
        """Follow a job that an earlier process began."""
        record, page = self._client.record, _said_on(entry)
        stored = await self._assets.job(entry.id)
        labels = stored.labels if stored is not None else _texts(page.get("labels"))
        expires = self._expiry()
        await self._assets.add_job(entry.id, expires=expires, labels=labels)
        await self._assets.extend_job(entry.id, expires)
        here = await self._assets.outputs_of(entry.id)
        cancel_wanted = await record.read(record.routes.cancelled, entry.id)
        if (known := self._jobs.get(entry.id)) is not None:
            return known
        run = self._run(entry.id, entry.prompt, labels, entry.created, expires)
        run.answered = True
        run.started = entry.started
        run.found(here)
        if entry.state is not JobState.QUEUED:
            run.live.change(ApiStatus.RUNNING)
        unanswered = entry.ref is None and not entry.state.final and entry.cached is None
        if unanswered and entry.target == self._client.target.name:
            self._jobs.run(run, partial(self._recovered, run))
        else:
            self._jobs.take_up(run, entry)
        if cancel_wanted:
            self._want_cancel(run)
        return run

    async def _found(self, run: ApiRun, seconds: float) -> Job | None:
        """A job whose submission was not answered; ``None`` if its target has not got it for so
        many seconds.

        Raises:
            SubmissionUnknown: The target cannot say.
        """
        record, target = self._client.record, self._client.target
        since, away = time.monotonic(), 0.0
        while True:
            try:
                ref = await target.find(run.id)
            except (TargetUnreachable, RateLimited, AuthenticationError) as error:
                if time.monotonic() - since > self._times.patience:
                    raise
                run.waits(error)
                away = time.monotonic() - since
                await asyncio.sleep(self._times.again)
                continue
            if ref is not None:
                await record.write(record.submitted, ref)
                entry = await self._jobs.entry(run.id)
                run.created = entry.created
                return await self._client.resume(entry)
            left = since + away + seconds - time.monotonic()
            if left <= 0:
                return None
            await asyncio.sleep(min(left, self._times.again))

    async def _recovered(self, run: ApiRun) -> Job:
        """A job that an earlier process may not have sent: found, or sent if its target never got
        it.

        Raises:
            SubmissionUnknown: The target cannot say.
            ComfyRemoteError: It is not sent once more, or was refused.
        """
        if (job := await self._found(run, self._times.settle)) is not None:
            return job
        record = self._client.record
        entry = await self._jobs.entry(run.id)
        if any(said.message == _SENT_AGAIN for said in entry.said):
            raise OutputLost(
                f"{self._client.target.name} never received the job, which was sent twice.",
                advice="Send the job again.",
            )
        if (refused := _not_sent_again(run, entry)) is not None:
            DidItRun.NEVER_ACCEPTED.noted_in(refused)
            raise refused
        # Before it is sent: a job that brings down everything is not sent a third time.
        await record.write(record.warned, run.id, _SENT_AGAIN, at=time.time())
        return await self._client.resend(entry)

    # Under way

    def _run(
        self,
        job_id: str,
        prompt: Prompt,
        labels: Mapping[str, str],
        created: float,
        expires: datetime,
    ) -> ApiRun:
        def arriving(stored: Callable[[StoredAsset], None]) -> ArrivingOutputs:
            return ArrivingOutputs(
                self._assets, job_id, prompt, created, self._folder, self._slots, stored
            )

        return ApiRun(
            job_id,
            self._client.record,
            labels=labels,
            created=created,
            expires=expires,
            arriving=arriving,
            extend=self._extend,
            over=self._over,
        )

    def _want_cancel(self, run: ApiRun) -> None:
        if not run.cancel_wanted:
            run.cancel_wanted = True
            run.live.change(ApiStatus.CANCELING)
            self._background.start(self._cancelled(run))

    async def _cancelled(self, run: ApiRun) -> None:
        """Have the target stop a job, as soon as it has it."""
        await run.sent.wait()
        while run.job is not None and not run.ended.is_set():
            try:
                await run.job.cancel()
                return
            except ComfyRemoteError as error:
                _log.warning("Job %s could not be cancelled yet: %s", run.id, error)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(run.ended.wait(), self._times.again)

    async def _over(self, run: ApiRun) -> None:
        """Note how a job has ended, where that is not in the record yet."""
        record, entry = self._client.record, None
        with contextlib.suppress(JobNotFound):
            entry = await self._jobs.entry(run.id)
        if entry is None or (run.error is not None and not run.answered and _refused(entry)):
            # Whoever sent it gets the refusal, and no id.
            await self._assets.forget_job(run.id)
            await record.write(record.mark_shown, run.id)
            return
        if _under_way(entry):
            error = run.error or OutputLost("Its outputs are not here.")
            DidItRun.UNKNOWN.noted_in(error)
            state = JobState.CANCELLED if isinstance(error, JobCancelled) else JobState.FAILED
            await record.write(record.state, run.id, state, error, at=time.time())
            entry = await self._jobs.entry(run.id)
        made = await self._assets.outputs_of(run.id) if run.made is None else run.made
        ended = await self._ended_job(entry, run.labels, run.expires, made)
        if run.error is not None and ended.status is ApiStatus.SUCCEEDED:
            # Elsewhere, a terminal has fetched what is gone now.
            ended.status, ended.error = ApiStatus.FAILED, job_error(run.error)
        ended.progress = run.live.snapshot().progress
        self._remember(ended)
        run.live.end(ended.status)
        _log.info(
            "Job %s %s after %s, with %s%s",
            *(run.id, ended.status.value, seconds_text(max(0.0, time.time() - run.created))),
            *(counted(len(run.made or ()), "file"), f": {run.error}" if run.error else "."),
        )
        await run.clean_up()

    # Ended

    async def _shown(self, job_id: str) -> ApiRun | EndedJob:
        ended = self._ended.get(job_id)
        if ended is not None and ended.expires <= utc(self._now()):
            del self._ended[job_id]
            ended = None
        known = ended or self._jobs.get(job_id)
        if known is not None:
            return known
        stored = await self._assets.job(job_id)
        if stored is None:
            raise _no_job()
        try:
            entry = await self._jobs.entry(job_id)
        except JobNotFound:
            raise _no_job() from None
        known = self._ended.get(job_id) or self._jobs.get(job_id)
        if known is not None:
            return known
        outputs = await self._assets.outputs_of(job_id)
        # One may have been resumed in a terminal, which has fetched its outputs elsewhere.
        if _under_way(entry) or (entry.state is JobState.SUCCEEDED and not outputs):
            return await self._take_up(entry)
        ended = await self._ended_job(entry, stored.labels, stored.expires, outputs)
        self._remember(ended)
        return ended

    async def _ended_job(
        self,
        entry: JobEntry,
        labels: Mapping[str, str],
        expires: datetime,
        outputs: Sequence[StoredAsset],
    ) -> EndedJob:
        stays = utc(entry.updated + self._times.retention)
        if stays > expires:
            await self._assets.extend_job(entry.id, stays)
        return EndedJob.of(entry, labels, max(expires, stays), outputs)

    def _remember(self, ended: EndedJob) -> None:
        self._ended[ended.id] = ended
        if len(self._ended) > _MOST_REMEMBERED:
            self._ended.popitem(last=False)

    def _status_of(self, line: JobLine) -> ApiStatus:
        known = self._ended.get(line.id) or self._jobs.get(line.id)
        if known is not None:
            return known.status
        if line.state is JobState.SUCCEEDED and not line.outputs:
            return ApiStatus.RUNNING
        return STATUS[line.state]

    # Looking after it

    def _expiry(self) -> datetime:
        """Until when a job stays, as far as is known. So that the store is not told again when it
        ends before the next sweep, it is longer than the retention by the time to that.
        """
        return utc(self._now() + self._times.retention + self._sweep_every)

    @property
    def _sweep_every(self) -> float:
        return min(self._times.sweep, self._times.retention / 3)

    async def _extend_all(self) -> None:
        for run in self._jobs.under_way:
            await self._extend(run)

    async def _extend(self, run: ApiRun) -> None:
        """Let a job that is under way stay: this machine may have slept for days."""
        if run.expires < utc(self._now() + self._times.retention):
            run.expires = self._expiry()
            await self._assets.extend_job(run.id, run.expires)

    def _begin(self) -> None:
        with storage_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock = ProcessLock(self._folder / _LOCK)
            except sqlite3.Error:
                raise ConfigurationError(
                    f"Another process serves {self.source!r} already.",
                    advice="Stop it, or serve under another name.",
                ) from None

    def _remove_leftovers(self, job_ids: Container[str] = ()) -> None:
        """Remove what has arrived of jobs that are under way no more."""
        with storage_errors(self._folder):
            for path in self._folder.iterdir():
                job_id = path.name.partition(".")[0]
                under_way = job_id in job_ids or self._jobs.get(job_id) is not None
                if is_job_id(job_id) and not under_way:
                    discard(path)

    async def _sweep_again_and_again(self) -> None:
        record = self._client.record
        while True:
            await asyncio.sleep(self._sweep_every)
            try:
                await self._extend_all()
                before = self._now() - max(self._times.retention, self._times.key)
                await record.write(record.mark_shown_before, self.source, before)
                await in_thread(self._remove_leftovers)
            except ComfyRemoteError as error:
                _log.warning("What has expired could not be removed: %s", error)


def _key_reuse() -> ApiRefusal:
    return ApiRefusal(
        "idempotency_key_reuse",
        "This Idempotency-Key was used before. Look for its job in GET /api/v2/jobs; send another "
        "job with another key.",
    )


def _no_job() -> JobNotFound:
    return JobNotFound(
        "There is no such job here, or no longer.",
        advice="Check its id: a job is deleted at its expires_at.",
    )


def _under_way(entry: JobEntry) -> bool:
    """Whether a job has not ended for its client: its outputs may not be here yet."""
    if entry.state is JobState.SUCCEEDED:
        return not entry.outputs
    return not entry.state.final


def _refused(entry: JobEntry) -> bool:
    return entry.state is JobState.FAILED and entry.did_it_run is DidItRun.NEVER_ACCEPTED


def _not_sent_again(run: ApiRun, entry: JobEntry) -> ComfyRemoteError | None:
    """Why a job is not sent that its target never got."""
    if run.cancel_wanted:
        return JobCancelled("The job was cancelled before it was sent.")
    if _said_on(entry).get("keyed") is True:
        return TargetError(
            "The server was restarted before the target had the job. It is not sent any more: the "
            "key for partner nodes that came with it is stored nowhere.",
            advice="Send the job again.",
        )
    return None


def _page(posted: PostedJob, request: RunRequest) -> dict[str, JsonValue]:
    """What is recorded with a job: its labels, and the nodes that were posted otherwise."""
    sent = without_repo_list(request.prompt)
    nodes = {name: node for name, node in posted.prompt.items() if sent.get(name) != node}
    said = {
        "labels": dict(posted.labels),
        "nodes": nodes,
        "keyed": posted.partner_key is not None,
    }
    return {_PAGE_KEY: cast("JsonValue", said)}


def _said_on(entry: JobEntry) -> Mapping[str, JsonValue]:
    return mapping((entry.page or {}).get(_PAGE_KEY))


def _texts(value: JsonValue) -> dict[str, str]:
    return {key: text for key, text in mapping(value).items() if isinstance(text, str)}
