"""The jobs that are started through the API. They are jobs in the record, and nothing besides.

Where a job stands is in the record; the task that follows it, and what it says live, are of this
process. After a restart the record says which jobs have not ended, and they are followed again. A
job has ended for its client once its outputs are in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from ..aio import Background, in_thread, within
from ..errors import (
    ComfyRemoteError,
    JobCancelled,
    JobNotFound,
    OutputLost,
    SubmissionUnknown,
)
from ..events import DidItRun, JobState
from ..jobs.client import Client
from ..jobs.inputs import collect_inputs
from ..jobs.job import Job
from ..jobs.record import JobEntry, JobLine
from ..jobs.served import ServedJobs
from ..targets.base import RunRequest, TakesPartnerKey
from ..types import JsonValue
from ..units import counted, seconds_text
from ..wire.comfy_api import API_PATH, ApiJob, ApiStatus, JobList, JobWorkflow
from ..workflow.files import every_file_use
from ..workflow.paid_nodes import any_paid_known
from ..workflow.prompt import Prompt
from .assets import AssetStore
from .ended import STATUS, EndedJob, EndedJobs
from .errors import ApiRefusal, job_error
from .keys import Claim, JobKeys
from .listing import JobsWanted, job_page
from .live import LiveJob
from .lost_jobs import LostJobs
from .outputs import Arrivals
from .posted import PostedJob
from .recorded import RecordedJob, never_accepted, under_way
from .references import OnTargetOnly, with_files
from .room import JobRoom
from .run import ApiRun
from .stored import StoredAsset, utc
from .target_nodes import TargetNodes
from .times import ApiTimes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ApiJobs"]

_log = logging.getLogger(__name__)


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
        times: ApiTimes = ApiTimes(),  # noqa: B008 - frozen
        most_at_a_time: int = ServedJobs.MOST,
        most_bytes: int = 256 * 2**20,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._assets = assets
        self._partner_keys = partner_keys
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
        self._room = JobRoom(self._jobs, most_bytes)
        self._keys = JobKeys(self._jobs, times.key, now)
        self._lost = LostJobs(self._jobs, times)
        self._arrivals = Arrivals(assets)
        self._ended = EndedJobs(now)
        self._nodes = TargetNodes(client.target)
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Follow again what an earlier process began.

        Raises:
            ConfigurationError: Another process serves under this name.
        """
        await in_thread(self._arrivals.open, self.source)
        record = self._client.record
        entries = await record.read(record.unshown_of, self.source)
        recorded = {entry.id for entry in entries}
        await in_thread(self._arrivals.remove_others, lambda job_id: job_id in recorded)
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
        self._arrivals.close()

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
        self._check_partner_key(posted)
        with self._room.taken(posted.size):
            await self._assets.check_room()
            async with self._keys.claimed(key, token) as claim:
                return await self._started(posted, claim, base)

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
        sent = cast("dict[str, JsonValue]", entry.prompt)
        return JobWorkflow(workflow={**sent, **RecordedJob.read(entry).nodes}, format="api")

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
            ApiRefusal: ``invalid_cursor``.
        """
        return await job_page(wanted, self._assets, self._client.record, self._status_of)

    # Starting

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

    async def _started(self, posted: PostedJob, claim: Claim, base: str) -> ApiJob:
        job_id, expires = claim.job_id, self._expiry()
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
        page = RecordedJob.of(posted, request).page()
        # What is refused meanwhile is forgotten by `over`.
        await self._jobs.start(run, partial(self._submitted, run, request, page, claim.again))
        run.answered = True
        return (self._ended.get(job_id) or run).shown(base)

    async def _request(
        self, posted: PostedJob, job_id: str, assets: Sequence[StoredAsset]
    ) -> RunRequest:
        by_id = dict(zip(posted.asset_ids, assets, strict=True))
        prompt, files = with_files(posted.prompt, posted.references, by_id)
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
            found = await self._lost.after_lost_answer(run)
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
        record = self._client.record
        stored = await self._assets.job(entry.id)
        labels = stored.labels if stored is not None else RecordedJob.read(entry).labels
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
            self._jobs.run(run, partial(self._lost.after_restart, run))
        else:
            self._jobs.take_up(run, entry)
        if cancel_wanted:
            self._want_cancel(run)
        return run

    # Under way

    def _run(
        self,
        job_id: str,
        prompt: Prompt,
        labels: Mapping[str, str],
        created: float,
        expires: datetime,
    ) -> ApiRun:
        return ApiRun(
            job_id,
            self._client.record,
            self._arrivals,
            prompt,
            labels=labels,
            created=created,
            expires=expires,
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
        if under_way(entry):
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
        self._ended.add(ended)
        run.live.end(ended.status)
        _log.info(
            "Job %s %s after %s, with %s%s",
            *(run.id, ended.status.value, seconds_text(max(0.0, time.time() - run.created))),
            *(counted(len(run.made or ()), "file"), f": {run.error}" if run.error else "."),
        )
        await run.clean_up()

    # Ended

    async def _shown(self, job_id: str) -> ApiRun | EndedJob:
        known = self._ended.get(job_id) or self._jobs.get(job_id)
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
        if under_way(entry) or (entry.state is JobState.SUCCEEDED and not outputs):
            return await self._take_up(entry)
        ended = await self._ended_job(entry, stored.labels, stored.expires, outputs)
        self._ended.add(ended)
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

    def _status_of(self, line: JobLine) -> ApiStatus:
        known = self._ended.get(line.id) or self._jobs.get(line.id)
        if known is not None:
            return known.status
        if line.state is JobState.SUCCEEDED and not line.outputs:
            return ApiStatus.RUNNING
        return STATUS[line.state]

    # Looking after it

    def _expiry(self) -> datetime:
        """Until when a job stays, as far as is known.

        It is longer than the retention by the time to the next sweep: so the store is not written
        again when a job ends before that.
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

    def _is_under_way(self, job_id: str) -> bool:
        return self._jobs.get(job_id) is not None

    async def _sweep_again_and_again(self) -> None:
        record = self._client.record
        while True:
            await asyncio.sleep(self._sweep_every)
            try:
                await self._extend_all()
                before = self._now() - max(self._times.retention, self._times.key)
                await record.write(record.mark_shown_before, self.source, before)
                await in_thread(self._arrivals.remove_others, self._is_under_way)
            except ComfyRemoteError as error:
                _log.warning("What has expired could not be removed: %s", error)


def _no_job() -> JobNotFound:
    return JobNotFound(
        "There is no such job here, or no longer.",
        advice="Check its id: a job is deleted at its expires_at.",
    )


def _refused(entry: JobEntry) -> bool:
    return entry.state is JobState.FAILED and never_accepted(entry)
