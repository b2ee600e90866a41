"""A job of the API that is under way."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime

from ..errors import ComfyRemoteError, OutputError, OutputLost
from ..events import Event, Log, OutputReady, Queued, Started
from ..jobs.job import Job
from ..jobs.record import Record, SavedOutput
from ..jobs.served import ServedJob
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..secrets import SECRETS
from ..targets.base import release
from ..wire.comfy_api import API_PATH, ApiJob, ApiStatus
from ..workflow.prompt import Prompt
from .ended import NOT_FETCHED
from .live import LiveJob
from .outputs import Arrivals
from .shown import job_metrics, job_urls, shown_output
from .stored import StoredAsset, utc

__all__ = ["ApiRun"]

_log = logging.getLogger(__name__)


class ApiRun(ServedJob):
    """A job that a task of this process follows.

    Args:
        record: Where its outputs are noted.
        arrivals: Where they arrive.
        expires: Until when the store has it, as far as is known: it moves on while the job runs.
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
        arrivals: Arrivals,
        prompt: Prompt,
        *,
        labels: Mapping[str, str],
        created: float,
        expires: datetime,
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
        self.arriving = arrivals.of(job_id, prompt, created, self._stored)
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
            message = f"{NOT_FETCHED}{problem}"
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
            outputs=[shown_output(one, base) for one in self._here],
            error=None,
            metrics=job_metrics(self.created, self.started, None),
            urls=job_urls(self.id, base),
            metadata=dict(self.labels),
        )

    def _stored(self, asset: StoredAsset) -> None:
        self._here.append(asset)
        self.live.output(shown_output(asset, API_PATH))


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
