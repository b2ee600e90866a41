"""One remote job, from the page's click to the history."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from ..aio import Background
from ..clean import cleaned_text
from ..errors import (
    ComfyRemoteError,
    ExecutionFailed,
    JobCancelled,
    OutputLost,
)
from ..events import (
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Phase,
    Preview,
    Progress,
    Queued,
    Shown,
    ShownValues,
    Started,
)
from ..jobs.client import Client
from ..jobs.job import Job
from ..jobs.record import Record
from ..jobs.submission import not_recorded
from ..outputs import RemoteOutput
from ..targets.base import WaitsForWorkers, located, not_returned
from ..targets.kinds import MEMBER_KEY
from ..types import JsonValue, mapping
from ..units import size_text
from .advice import shown_error
from .host import Host, JobResult, QueueEntry
from .page_messages import PageMessages
from .refusals import lacks_something
from .saved_outputs import Deliveries, OutputSaver

__all__ = ["UNNAMED", "LaneJob", "Submitted"]

UNNAMED = "ComfyUI"
"""The source of a page's job, in the record, while its workflow's name is not known."""

_log = logging.getLogger(__name__)

_CANCEL_TRIES = 3
_CANCEL_PAUSE = 1.0
_SENT_EVERY = 1.0
# A cold worker takes about that long to start.
_LONG_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that its target has, and the connection it goes through."""

    client: Client
    job: Job


class LaneJob:
    """Follows one job to its end, and shows it in the host.

    Args:
        peer: The browser it came from (see `Peers`).
        name: What its workflow is called; `UNNAMED` until the page has said it.
    """

    def __init__(
        self,
        host: Host,
        entry: QueueEntry,
        target: str,
        record: Record,
        peer: object = None,
        *,
        name: str = UNNAMED,
    ) -> None:
        self.entry = entry
        self.target = target
        self.peer = peer
        self.state = JobState.QUEUED
        self.name = name
        self._began: float | None = None
        self._host = host
        self._record = record
        created = entry.extra_data.get("create_time")
        self._created = created / 1000 if isinstance(created, int) else time.time()
        self._messages = PageMessages(host, entry, target)
        self._submitted: Submitted | None = None
        self._saver: OutputSaver | None = None
        self._submission: asyncio.Future[Submitted] | None = None
        self._cancelled = False
        self._error: ComfyRemoteError | None = None
        self._sent_shown = time.monotonic()
        self._cancelling = Background()

    @property
    def member(self) -> str | None:
        """Of a route, the one that has the job."""
        sent = self._submitted
        if sent is None:
            return None
        return located(sent.client.target, sent.job.ref)[0].details.get(MEMBER_KEY)

    def to_json(self) -> dict[str, JsonValue]:
        """Its state, as in ``GET /remote/jobs``: see docs/routes.md."""
        progress = self._messages.progress
        return {
            "prompt_id": self.entry.prompt_id,
            "target": self.target,
            "client_id": self.entry.client_id,
            "state": self.state.value,
            "created": self._created,
            "started": self._began,
            "fraction": round(progress.fraction, 4),
            "estimated": progress.estimated,
            "phase": self._messages.phase,
            "message": self._messages.note or progress.message,
        }

    def _unnamed(self) -> dict[str, JsonValue]:
        """What has the page say what its workflow is called: no prompt says it."""
        if self.name != UNNAMED or self.entry.client_id is None:
            return {}
        pnginfo = mapping(self.entry.extra_data.get("extra_pnginfo"))
        return {"workflow_id": mapping(pnginfo.get("workflow")).get("id")}

    @property
    def sent(self) -> Submitted | None:
        """The job at its target; ``None`` until the target has it."""
        return self._submitted

    async def run(self, submission: asyncio.Future[Submitted]) -> None:
        """Show the job from now on, until it is in the history."""
        self._submission = submission
        key = self._host.begin(self.entry)
        self._messages.job(self.state, **self._unnamed())
        try:
            try:
                await self._play(submission)
            except ComfyRemoteError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - else it would run for ever in the page
                _log.exception("Remote job %s: unforeseen", self.entry.prompt_id)
                self._failed(
                    ExecutionFailed(
                        f"Comfy Remote failed: {type(error).__name__}: {error}",
                        advice="This is a fault of Comfy Remote; the log has the traceback.",
                    )
                )
        finally:
            await self._stop()
        # Not when the server stops meanwhile: the job goes on, and the next start takes it up.
        shown = {} if self._saver is None else self._saver.shown
        succeeded = self.state is JobState.SUCCEEDED
        self._host.end(key, JobResult(succeeded, shown, self._messages.history))
        self._messages.ended()
        self._messages.job(self.state, **self._lacking())
        self._recorded()

    async def keep(self) -> None:
        """Have its result stored, once it has ended, if its page wants that."""
        if self.state is JobState.SUCCEEDED and self._submitted and self._saver:
            outputs = [output for output, _ in self._saver.received]
            await self._submitted.job.keep(outputs, [here for _, here in self._saver.received])

    def cancel(self) -> None:
        """Stop it, wherever it is."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._submitted is not None:
            self._cancelling.start(self._cancel_there(self._submitted.job))
        elif self._submission is not None and not self._submission.done():
            # Not sent if it has not left yet; cancelled on the target if it has.
            self._submission.cancel()

    def sending(self, sent: int, total: int) -> None:
        """Show how much of its input files is there, once a second."""
        now = time.monotonic()
        if now - self._sent_shown >= _SENT_EVERY and self.state is JobState.QUEUED:
            self._sent_shown = now
            self._messages.note = f"Sending input files: {size_text(sent)} of {size_text(total)}"
            self._messages.job(self.state)

    def repeat(self) -> None:
        """Send the job's state to a page that has just connected."""
        self._messages.repeat()
        self._messages.job(self.state)

    async def _cancel_there(self, job: Job) -> None:
        for tries_left in reversed(range(_CANCEL_TRIES)):
            try:
                await job.cancel()
                return
            except ComfyRemoteError as error:
                self._note(f"{self.target} could not be asked to stop the job. {error.message}")
            if tries_left:
                await asyncio.sleep(_CANCEL_PAUSE)

    async def _play(self, submission: asyncio.Future[Submitted]) -> None:
        """From the submission to the last output."""
        try:
            submitted = await asyncio.shield(submission)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            raise JobCancelled("The job was cancelled before it was sent.") from None
        self._submitted = submitted
        self._messages.note = ""
        target = submitted.job.target
        if sentence := not_returned(target, self.entry.prompt):
            self._note(sentence)
            self._messages.job(self.state)
        self._saver = saver = OutputSaver(self._host, target, self.entry.prompt_id)
        if self._cancelled:
            self._cancelling.start(self._cancel_there(submitted.job))
        await self._follow(submitted.job, saver)
        self._messages.succeeded()
        self.state = JobState.SUCCEEDED

    async def _follow(self, job: Job, saver: OutputSaver) -> None:
        """The job's events, to the page; its outputs, as they appear."""
        outputs = Deliveries(self._deliver)
        waiting = asyncio.ensure_future(self._watch_the_wait())
        try:
            async for event in job:
                if isinstance(event, Finished):
                    await self._finish(event, outputs)
                    lost = isinstance(saver.failure, OutputLost) and bool(saver.shown)
                    if saver.failure is not None and not lost:
                        raise saver.failure
                    self._messages.problems = [*event.problems, *saver.problems]
                    await saver.release(event.outputs)
                    return
                if isinstance(event, OutputReady):
                    outputs.add(event.output)
                elif isinstance(event, Shown):
                    outputs.show(event.node_id, event.values)
                else:
                    outputs.flush()
                    self._pass_on(event)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await outputs.stop()

    async def _watch_the_wait(self) -> None:
        """Note when a job waits and no worker is there to run it."""
        await asyncio.sleep(_LONG_WAIT)
        if self.state is not JobState.QUEUED or self._submitted is None:
            return
        target = self._submitted.client.target
        try:
            health = await target.health()
        except ComfyRemoteError:
            return  # whoever follows the job finds out for how long
        if health.ready == 0 and health.running == 0 and self.state is JobState.QUEUED:
            advice = f" {target.no_worker}" if isinstance(target, WaitsForWorkers) else ""
            self._note(f"{self.target} has no worker ready for the job yet.{advice}")
            self._messages.job(self.state)

    def _pass_on(self, event: Event) -> None:
        match event:
            case Queued():
                self._messages.phase = None
                if self.state is JobState.RUNNING:  # its worker died: it waits once more
                    self.state, self._began = JobState.QUEUED, None
                    self._messages.waits_again()
                    self._host.queue_changed()
                self._messages.job(self.state)
            case Phase():
                self._messages.phase = event.name
                self._messages.job(self.state)
            case Started():
                self._messages.phase = None
                self._runs()
                self._messages.note = ""
                self._messages.started()
                self._messages.job(self.state)
            case Progress():
                self._runs()
                self._messages.moved(event)
            case Preview():
                self._messages.preview(event)
            case NodeText():
                self._messages.text(event)
            case Log():
                self._note(event.message)

    def _runs(self) -> None:
        if self.state is not JobState.RUNNING:
            self.state = JobState.RUNNING
            self._began = self._began or time.time()
            self._host.queue_changed()

    async def _finish(self, event: Finished, outputs: Deliveries) -> None:
        warnings = event.details.get("warnings")
        self._messages.warnings = warnings if isinstance(warnings, list) else []
        if event.error is None:
            self._messages.all_ran()
        for output in event.outputs:
            outputs.add(output)
        await outputs.done()
        if event.error is not None:
            if self._saver is not None:
                await self._saver.release(event.outputs)
            raise event.error

    def _deliver(
        self, node_id: str | None, made: Sequence[RemoteOutput], values: ShownValues | None
    ) -> Awaitable[None]:
        if node_id is not None:
            self._messages.arriving(node_id)  # at once: the node has not finished before
        return self._bring(node_id, made, values)

    async def _bring(
        self, node_id: str | None, made: Sequence[RemoteOutput], values: ShownValues | None
    ) -> None:
        if self._saver is not None:
            shown = await self._saver.bring(node_id, made, values)
            if shown and node_id is not None:
                self._messages.executed(node_id, shown)

    def _failed(self, error: ComfyRemoteError) -> None:
        if self._cancelled or isinstance(error, JobCancelled):
            self.state = JobState.CANCELLED
            self._messages.interrupted()
        else:
            self.state, self._error = JobState.FAILED, error
            shown_error(error)
            self._note(str(error))
            self._messages.failed(error)

    def _lacking(self) -> dict[str, JsonValue]:
        """Of a job that was refused for want of a model or a node: the target that lacks it."""
        if not lacks_something(self._error):
            return {}
        return {"lacks": self.member or self.target}

    async def _stop(self) -> None:
        await self._cancelling.stop()
        if self._saver is not None:
            await self._saver.stop()

    def _recorded(self) -> None:
        record, prompt_id = self._record, self.entry.prompt_id
        if self._saver is not None and self._saver.saved:
            record.post(not_recorded, record.saved, prompt_id, self._saver.saved)
        if self._submitted is None and self.state is JobState.CANCELLED:
            record.post(not_recorded, record.state, prompt_id, self.state)
        record.post(not_recorded, record.mark_shown, prompt_id)

    def _note(self, message: str) -> None:
        _log.info("Remote job %s on %s: %s", self.entry.prompt_id, self.target, message)
        self._messages.note = cleaned_text(message)
