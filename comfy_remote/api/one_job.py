"""One job of the API, under way or ended, and how it is shown: `ApiJob`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..errors import ComfyRemoteError, OutputError, OutputLost
from ..events import Event, JobState, Log, OutputReady, Queued, Started
from ..jobs.job import Job
from ..jobs.record import JobEntry, Record, SavedOutput
from ..jobs.served import ServedJob
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..secrets import SECRETS
from ..targets.base import release
from ..wire.comfy_api import (
    API_PATH,
    ApiJob,
    ApiOutput,
    ApiProgress,
    ApiStatus,
    JobError,
    JobUrls,
    OutputType,
)
from .asset_models import StoredAsset, content_url
from .errors import job_error
from .live import LiveJob
from .outputs import ArrivingOutputs

__all__ = ["STATUS", "ApiRun", "EndedJob", "utc"]

_log = logging.getLogger(__name__)

STATUS = {
    JobState.QUEUED: ApiStatus.QUEUED,
    JobState.RUNNING: ApiStatus.RUNNING,
    JobState.SUCCEEDED: ApiStatus.SUCCEEDED,
    JobState.FAILED: ApiStatus.FAILED,
    JobState.CANCELLED: ApiStatus.CANCELED,
    JobState.EXPIRED: ApiStatus.EXPIRED,
}
"""What the API calls a state of the record."""

_NOT_FETCHED = "Not fetched: "


class ApiRun(ServedJob):
    """A job that a task of this process follows.

    Args:
        record: Where its outputs are noted.
        expires: Until when the store has it, as far as is known: it moves on while the job runs.
        arriving: Gets what is to be called with each output that is stored.
        extend: Called before its outputs are stored, so that the store has it.
        over: Called when it has ended.

    Attributes:
        created, started: Seconds since the epoch.
        answered: Whether whoever posted it has its id.
        cancel_wanted: Whether somebody has cancelled it.
        made: Its outputs in order, once it has ended and they are here.
        size: Bytes of the request that began it; 0 after a restart.
    """

    def __init__(
        self,
        job_id: str,
        record: Record,
        *,
        labels: Mapping[str, str],
        created: float,
        expires: datetime,
        arriving: Callable[[Callable[[StoredAsset], None]], ArrivingOutputs],
        extend: Callable[[ApiRun], Awaitable[None]],
        over: Callable[[ApiRun], Awaitable[None]],
    ) -> None:
        super().__init__(job_id)
        self.labels = labels
        self.created = created
        self.expires = expires
        self.started: float | None = None
        self.answered = False
        self.cancel_wanted = False
        self.size = 0
        self.live = LiveJob()
        self.made: list[StoredAsset] | None = None
        self.arriving = arriving(self._stored)
        self._here: list[StoredAsset] = []
        self._record = record
        self._extend = extend
        self._over = over
        self._secrets = contextlib.ExitStack()
        self._received: list[tuple[RemoteOutput, Received | ComfyRemoteError]] = []
        self._waits = ""

    @property
    def status(self) -> ApiStatus:
        """As it is now."""
        return self.live.snapshot().status.status

    def hold_secret(self, value: str) -> None:
        """Keep a value out of logs and errors until the job has ended."""
        self._secrets.enter_context(SECRETS.holding({"api_key_comfy_org": value}))

    def note(self, event: Event) -> None:
        """Take what its target says."""
        match event:
            case Queued() if self.status is not ApiStatus.QUEUED:
                return  # followed again, it is said again
            case Started():
                self.started = self.started or time.time()
            case OutputReady(output) if self.job is not None:
                self.arriving.begin(self.job.target, output)
            case Log(message):
                _log.info("Job %s: %s", self.id, message)
        self.live.note(event)

    def waits(self, error: ComfyRemoteError) -> None:
        """Take why it is asked for again: the log says it once."""
        if error.message != self._waits:
            self._waits = error.message
            _log.warning("Job %s is asked for again in a moment: %s", self.id, error)

    async def fetch(self, job: Job) -> None:
        """Have all of its outputs in the store.

        Raises:
            OutputError: It succeeded, and there will never be any.
        """
        finished = job.finished
        if finished is None:
            return
        await self._extend(self)
        arrived = await self.arriving.complete(job.target, finished.outputs)
        pairs = list(zip(finished.outputs, arrived, strict=True))
        self._received = [(output, _received(one)) for output, one in pairs]
        made = [(output, one) for output, one in pairs if isinstance(one, StoredAsset)]
        lost = [(output, one) for output, one in pairs if isinstance(one, OutputError)]
        if finished.error is None and not made:
            raise lost[0][1] if lost else _made_nothing(finished.problems)
        if made:
            saved = [_saved(output, one) for output, one in made]
            await self._record.write(self._record.saved, self.id, saved)
        self.made = [one for _, one in made]
        said = [str(problem) for problem in finished.problems] if finished.error is None else []
        said += [
            f"Node {output.drawn_node}: {output.filename}: {one.message}" for output, one in lost
        ]
        for problem in said:
            message = f"{_NOT_FETCHED}{problem}"
            await self._record.write(self._record.warned, self.id, message, at=time.time())

    async def over(self) -> None:
        """See to what remains."""
        try:
            await self._over(self)
        finally:
            self._secrets.close()
            await self.live.close()  # whoever still listens asks how it stands

    def found(self, assets: Sequence[StoredAsset]) -> None:
        """Take the outputs that an earlier process has stored."""
        self.arriving.found(assets)
        for asset in assets:
            self._stored(asset)

    async def clean_up(self) -> None:
        """Let the target delete what is here, and store it for other runs like this."""
        job = self.job
        if job is None or job.finished is None or not self.made:
            return
        try:
            outputs = [output for output, _ in self._received]
            await job.keep(outputs, [received for _, received in self._received])
            await release(job.target, outputs)
        except ComfyRemoteError as error:
            _log.warning("Job %s: %s", self.id, error)

    async def stop(self) -> None:
        """End what goes on beside its task: this process stops, and the job goes on."""
        await self.arriving.stop()
        await self.live.close()
        self._secrets.close()

    def shown(self, base: str) -> ApiJob:
        """As the API shows it."""
        status, progress, _ = self.live.snapshot()
        return ApiJob(
            id=self.id,
            status=status.status,
            created_at=utc(self.created),
            started_at=None if self.started is None else utc(self.started),
            completed_at=None,
            expires_at=self.expires,
            queue_position=status.queue_position,
            progress=progress,
            outputs=[_output(one, base) for one in self._here],
            error=None,
            metrics=_metrics(self.created, self.started, None),
            urls=_urls(self.id, base),
            metadata=dict(self.labels),
        )

    def _stored(self, asset: StoredAsset) -> None:
        self._here.append(asset)
        self.live.output(_output(asset, API_PATH))


@dataclass
class EndedJob:
    """A job that has ended, and all of its outputs are here."""

    id: str
    status: ApiStatus
    created: float
    started: float | None
    completed: float
    expires: datetime
    outputs: Sequence[StoredAsset]
    error: JobError | None
    run_seconds: float | None
    labels: Mapping[str, str]
    progress: ApiProgress | None = None

    @classmethod
    def of(
        cls,
        entry: JobEntry,
        labels: Mapping[str, str],
        expires: datetime,
        outputs: Sequence[StoredAsset],
    ) -> EndedJob:
        """As the record has it.

        Args:
            outputs: Those that are in the store.
        """
        status = STATUS[entry.state]
        if status is ApiStatus.EXPIRED and outputs:
            status = ApiStatus.FAILED  # what is here has not expired
        started, seconds = entry.started, entry.run_seconds
        if started is None and seconds is not None:
            started = max(entry.created, entry.updated - seconds)
        return cls(
            entry.id,
            status,
            entry.created,
            started,
            entry.updated,
            expires,
            outputs,
            _error_of(entry),
            seconds,
            labels,
        )

    def shown(self, base: str) -> ApiJob:
        """As the API shows it."""
        return ApiJob(
            id=self.id,
            status=self.status,
            created_at=utc(self.created),
            started_at=None if self.started is None else utc(self.started),
            completed_at=utc(self.completed),
            expires_at=self.expires,
            queue_position=None,
            progress=self.progress,
            outputs=[_output(one, base, self.expires) for one in self.outputs],
            error=self.error,
            metrics=_metrics(self.created, self.started, self.run_seconds),
            urls=_urls(self.id, base),
            metadata=dict(self.labels),
        )


def utc(seconds: float) -> datetime:
    """Seconds since the epoch as a time, exact to a millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), timezone.utc)


def _output(asset: StoredAsset, base: str, expires: datetime | None = None) -> ApiOutput:
    return ApiOutput(
        node_id=asset.node_id or "",
        name=asset.file_path.rpartition("/")[2],
        type=asset.kind or OutputType.FILE,
        content_type=asset.content_type,
        size_bytes=asset.size,
        id=asset.id,
        hash=asset.hash,
        url=content_url(base, asset.id),
        url_expires_at=expires or asset.expires,
        job_id=asset.job_id,
    )


def _urls(job_id: str, base: str) -> JobUrls:
    url = f"{base}/jobs/{job_id}"
    return JobUrls(self=url, events=f"{url}/events", cancel=f"{url}/cancel")


def _metrics(
    created: float, started: float | None, run_seconds: float | None
) -> dict[str, int | None]:
    return {
        "queue_ms": None if started is None else max(0, round((started - created) * 1000)),
        "execution_ms": None if run_seconds is None else round(run_seconds * 1000),
    }


def _error_of(entry: JobEntry) -> JobError | None:
    """Why a job failed; of one that did not, which of its outputs are not here."""
    if entry.state in (JobState.FAILED, JobState.EXPIRED):
        return None if entry.error is None else job_error(entry.error)
    missing = [
        said.message.removeprefix(_NOT_FETCHED)
        for said in entry.said
        if said.message.startswith(_NOT_FETCHED)
    ]
    if not missing:
        return None
    return JobError(
        code=OutputLost.code,
        message=f"Not all of its outputs are here. {' '.join(dict.fromkeys(missing))}",
    )


def _made_nothing(problems: Iterable[OutputProblem]) -> OutputLost:
    why = "".join(f" {problem}." for problem in problems)
    return OutputLost(
        f"The job succeeded, but it made no output.{why}",
        advice="Add a node that saves what the workflow makes, such as Save Image.",
    )


def _received(arrived: StoredAsset | OutputError) -> Received | ComfyRemoteError:
    if isinstance(arrived, OutputError):
        return arrived
    return Received(arrived.path, arrived.size, arrived.sha256)


def _saved(output: RemoteOutput, asset: StoredAsset) -> SavedOutput:
    return SavedOutput(
        path=asset.path,
        node_id=output.node_id,
        kind=output.kind,
        filename=output.filename,
        sha256=asset.sha256,
        size=asset.size,
    )
