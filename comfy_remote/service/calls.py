"""Calls that are under way, those that have ended, and those that an earlier process began.

A call's id is its job's id in the record, so a restart loses nothing: a call that somebody asks
about is followed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..aio import within
from ..calls.target import TargetCall, value_files
from ..calls.values import Argument
from ..calls.workflow import CallableWorkflow
from ..errors import ComfyRemoteError, JobNotFound, OutputLost
from ..events import Event, JobState, Log, Progress, Queued, Started
from ..jobs.client import Client
from ..jobs.job import Job
from ..jobs.record import JobEntry
from ..jobs.served import ServedJob, ServedJobs
from ..media.files import private_folder
from ..wire.call import CallAnswer, CallProgress, CallStatus
from ..workflow.interface import Interface
from .results import ResultStore

__all__ = ["Calls"]

_log = logging.getLogger(__name__)
_POLL_AFTER = 1.0
_RECENT = 1000


class _Call(ServedJob):
    """A call that a task of this process follows."""

    def __init__(self, calls: Calls, call_id: str, interface: Interface) -> None:
        super().__init__(call_id)
        self._calls = calls
        self._interface = interface
        self.status = CallStatus.PENDING
        self.progress: CallProgress | None = None
        self.message = ""

    def note(self, event: Event) -> None:
        match event:
            case Queued(position):
                self.status = CallStatus.PENDING
                self.message = f"Queued, {position} ahead" if position else "Queued"
            case Started():
                self.status, self.message = CallStatus.RUNNING, "Running"
            case Progress():
                self.status = CallStatus.RUNNING
                if event.nodes_total > 0:
                    done = event.fraction * event.nodes_total
                    self.progress = CallProgress(value=done, max=event.nodes_total)
                self.message = event.message or event.node_class or "Running"
            case Log():
                _log.info("%s", event.message)

    def waits(self, error: ComfyRemoteError) -> None:
        self.message = str(error)

    async def fetch(self, job: Job) -> None:
        results = self._calls.results
        if await asyncio.to_thread(results.get, job.id) is not None:
            return  # another process of this service has followed the call, too
        with private_folder(results.folder.path) as folder:
            try:
                values = await value_files(job, self._interface, folder, even_if_failed=True)
            except ComfyRemoteError as error:
                if job.finished is not None and error is job.finished.error:
                    return  # it has made nothing
                raise
            if values:
                await asyncio.to_thread(results.keep, job.id, folder, values)

    async def over(self) -> None:
        self.status = CallStatus.FAILED if self.error is not None else CallStatus.COMPLETED
        if self.error is not None:
            self._calls.note_failure(self)


@dataclass
class Calls:
    """The calls of one workflow. Used as an asynchronous context manager.

    Args:
        answered_within: Seconds that a request waits for a call to be sent to the target.
        again_after: Seconds after which a target that could not be reached is asked again.
    """

    client: Client
    workflow: CallableWorkflow
    results: ResultStore
    answered_within: float = 20.0
    again_after: float = 5.0
    _jobs: ServedJobs[_Call] = field(init=False)
    _failed: dict[str, _Call] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._jobs = ServedJobs(
            self.client,
            self.source,
            answered_within=self.answered_within,
            again_after=self.again_after,
        )

    @property
    def source(self) -> str:
        """What the record calls the jobs of this service."""
        return f"service {self.workflow.name}"

    async def __aenter__(self) -> Calls:
        for entry in await self.client.record.read(self.client.record.newest, _RECENT):
            if entry.source == self.source and not entry.state.final:
                self._take_up(entry)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop following. The jobs go on, and the next service follows them."""
        await self._jobs.stop()

    async def start(self, arguments: Mapping[str, Argument], *, key: str | None = None) -> str:
        """Send a call to the target, and return its id.

        Args:
            key: A call with the key of one before is that call, and nothing is sent.

        Raises:
            WorkflowInvalid: An argument is unknown, missing or does not fit; or the target
                refuses the workflow.
            RateLimited: There are too many calls, or no room for results.
        """
        call_id = str(uuid.uuid4()) if key is None else self._jobs.id_of(key)
        if key is not None and await self._is_known(call_id):
            return call_id
        self._jobs.check_room()
        await asyncio.to_thread(self.results.folder.check_room)
        if key is not None and await self._is_known(call_id):
            return call_id
        if self._known_here(call_id) is not None:  # it has come twice at the same time
            return call_id
        self.workflow.with_arguments(arguments)  # refused before it is noted
        call = TargetCall(self.client, self.workflow, arguments, job_id=call_id, source=self.source)

        async def submitted() -> Job:
            await call.start()
            return call.job

        await self._jobs.start(_Call(self, call_id, self.workflow.interface), submitted)
        return call_id

    async def answer(self, call_id: str, base: str, *, wait: float = 0.0) -> CallAnswer:
        """The answer about a call.

        Args:
            base: The address below which calls are served.
            wait: Seconds to wait for its end.

        Raises:
            JobNotFound: There is no such call here.
        """
        followed = self._known_here(call_id) or await self._found(call_id)
        if followed is not None and wait > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(followed.ended.wait(), wait)
        url = f"{base}/{call_id}"
        if followed is None or followed.status.final:
            envelopes = await asyncio.to_thread(self.results.envelopes, call_id, f"{url}/results")
            error = (await self._entry(call_id)).error if followed is None else followed.error
            if envelopes and error is None:
                return CallAnswer(status=CallStatus.COMPLETED, id=call_id, results=envelopes)
            # A call that failed may have given some of its results before.
            error = error or _results_gone()
            return CallAnswer(
                status=CallStatus.FAILED, id=call_id, results=envelopes, error=error.to_json()
            )
        return CallAnswer(
            status=followed.status,
            id=call_id,
            progress=followed.progress,
            message=followed.message,
            poll_url=url,
            cancel_url=url,
            retry_after=_POLL_AFTER,
        )

    async def cancel(self, call_id: str) -> None:
        """Ask the target to stop a call; one that has ended stays as it is.

        Raises:
            JobNotFound: There is no such call here.
            TargetError: The target could not be asked.
        """
        followed = self._known_here(call_id) or await self._found(call_id)
        if followed is not None and not followed.status.final:
            await self._jobs.cancel(followed)

    async def check(self, call_id: str) -> None:
        """Refuse the id of a call that this service does not have."""
        if self._known_here(call_id) is None:
            await self._entry(call_id)

    def note_failure(self, call: _Call) -> None:
        """Remember how a call failed, of the newest thousand: the record has not every reason."""
        self._failed[call.id] = call
        if len(self._failed) > _RECENT:
            del self._failed[next(iter(self._failed))]

    def _known_here(self, call_id: str) -> _Call | None:
        return self._jobs.get(call_id) or self._failed.get(call_id)

    async def _is_known(self, call_id: str) -> bool:
        try:
            await self.check(call_id)
        except JobNotFound:
            return False
        return True

    async def _entry(self, call_id: str) -> JobEntry:
        try:
            return await self._jobs.entry(call_id)
        except JobNotFound:
            raise JobNotFound("There is no such call here.", advice="Check its id.") from None

    async def _found(self, call_id: str) -> _Call | None:
        """A call that an earlier process began, followed again; ``None`` if it has ended."""
        entry = await self._entry(call_id)
        if self.results.get(call_id) is not None:
            return None
        if entry.state.final and entry.state is not JobState.SUCCEEDED:
            return None
        return self._take_up(entry)

    def _take_up(self, entry: JobEntry) -> _Call:
        call = _Call(self, entry.id, Interface.of(entry.prompt, self.workflow.schemas))
        self._jobs.take_up(call, entry)
        return call


def _results_gone() -> ComfyRemoteError:
    return OutputLost(
        "The call's results are not here any more.",
        advice="Results are deleted some time after the call; call again.",
    )
