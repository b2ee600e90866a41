"""Calls that are under way, those that have ended, and those that an earlier process began.

A call's id is its job's id in the record, so a restart loses nothing: a call that somebody asks
about is followed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from ..aio import Background, within
from ..calls.target import TargetCall, value_files
from ..calls.values import Argument
from ..calls.workflow import CallableWorkflow
from ..errors import (
    ComfyRemoteError,
    JobNotFound,
    OutputLost,
    RateLimited,
    TargetError,
    TargetUnreachable,
)
from ..events import Event, JobState, Log, Progress, Queued, Started
from ..jobs.client import Client, resume
from ..jobs.job import Job
from ..jobs.record import JobEntry
from ..media.files import private_folder
from ..wire.call import CallAnswer, CallProgress, CallStatus
from ..workflow.interface import Interface
from .results import ResultStore

__all__ = ["Calls"]

_log = logging.getLogger(__name__)
_CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POLL_AFTER = 1.0
_RECENT = 1000
_MOST_AT_A_TIME = 500


@dataclass
class _Followed:
    """A call that a task of this process follows."""

    status: CallStatus = CallStatus.PENDING
    progress: CallProgress | None = None
    message: str = ""
    job: Job | None = None
    error: ComfyRemoteError | None = None
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


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
    _followed: dict[str, _Followed] = field(default_factory=dict, init=False)
    _background: Background = field(default_factory=Background, init=False)

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
        await self._background.stop()

    async def start(self, arguments: Mapping[str, Argument], *, key: str | None = None) -> str:
        """Send a call to the target, and return its id.

        Args:
            key: A call with the key of one before is that call, and nothing is sent.

        Raises:
            WorkflowInvalid: An argument is unknown, missing or does not fit; or the target
                refuses the workflow.
            RateLimited: There are too many calls, or no room for results.
        """
        call_id = str(uuid.uuid4() if key is None else self._id_of(key))
        if key is not None and await self._is_known(call_id):
            return call_id
        if len(self._background) >= _MOST_AT_A_TIME:
            raise RateLimited(
                f"{_MOST_AT_A_TIME} calls are under way already.",
                advice="Call again when some have ended.",
            )
        await asyncio.to_thread(self.results.folder.check_room)
        if key is not None and await self._is_known(call_id):
            return call_id
        if call_id in self._followed:  # it has come twice at the same time
            return call_id
        self.workflow.with_arguments(arguments)  # refused before it is noted
        followed = self._followed[call_id] = _Followed()
        self._background.start(self._run(call_id, followed, arguments))
        # A large file may take longer to send than a request may last.
        with contextlib.suppress(asyncio.TimeoutError):
            await within(followed.sent.wait(), self.answered_within)
        if followed.job is None and followed.error is not None:
            raise followed.error
        return call_id

    async def answer(self, call_id: str, base: str, *, wait: float = 0.0) -> CallAnswer:
        """The answer about a call.

        Args:
            base: The address below which calls are served.
            wait: Seconds to wait for its end.

        Raises:
            JobNotFound: There is no such call here.
        """
        followed = self._followed.get(call_id) or await self._found(call_id)
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
        followed = self._followed.get(call_id) or await self._found(call_id)
        if followed is None or followed.status.final:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await within(followed.sent.wait(), self.answered_within)
        if followed.job is not None:
            await followed.job.cancel()
        elif not followed.sent.is_set():
            raise TargetUnreachable(
                "The call has not reached its target yet, or the target cannot be reached now.",
                advice="Cancel it again in a moment.",
            )

    async def check(self, call_id: str) -> None:
        """Refuse the id of a call that this service does not have."""
        if call_id not in self._followed:
            await self._entry(call_id)

    def _id_of(self, key: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"comfy-remote:{self.source}:{key}")

    async def _is_known(self, call_id: str) -> bool:
        try:
            await self.check(call_id)
        except JobNotFound:
            return False
        return True

    async def _entry(self, call_id: str) -> JobEntry:
        if _CALL_ID.fullmatch(call_id) is not None:
            entry = await self.client.record.read(self.client.record.get, call_id)
            if entry.source == self.source:
                return entry
        raise JobNotFound("There is no such call here.", advice="Check its id.")

    async def _found(self, call_id: str) -> _Followed | None:
        """A call that an earlier process began, followed again; ``None`` if it has ended."""
        entry = await self._entry(call_id)
        if self.results.get(call_id) is not None:
            return None
        if entry.state.final and entry.state is not JobState.SUCCEEDED:
            return None
        return self._take_up(entry)

    def _take_up(self, entry: JobEntry) -> _Followed:
        followed = self._followed[entry.id] = _Followed()
        self._background.start(self._resume(entry, followed))
        return followed

    async def _run(
        self, call_id: str, followed: _Followed, arguments: Mapping[str, Argument]
    ) -> None:
        async with self._ending(call_id, followed):
            call = TargetCall(
                self.client, self.workflow, arguments, job_id=call_id, source=self.source
            )
            await call.start()
            await self._follow(followed, call.job, self.workflow.interface)

    async def _resume(self, entry: JobEntry, followed: _Followed) -> None:
        async with self._ending(entry.id, followed):
            interface = Interface.of(entry.prompt, self.workflow.schemas)
            while not followed.status.final:
                try:
                    async with resume(
                        entry.id, record=self.client.record, on_interrupt=None
                    ) as job:
                        await self._follow(followed, job, interface)
                except (TargetUnreachable, RateLimited) as error:
                    followed.message = str(error)
                    await asyncio.sleep(self.again_after)

    async def _follow(self, followed: _Followed, job: Job, interface: Interface) -> None:
        followed.job = job
        followed.sent.set()
        while True:
            try:
                async for event in job:
                    _note(followed, event)
                await self._fetch(job, interface)
                break
            except TargetError as error:
                # The job may well go on, and its results may well be there; both are asked for
                # again as long as somebody serves.
                followed.message = str(error)
                await asyncio.sleep(self.again_after)
        finished = job.finished
        if finished is not None and finished.error is not None:
            raise finished.error
        followed.status = CallStatus.COMPLETED

    async def _fetch(self, job: Job, interface: Interface) -> None:
        if await asyncio.to_thread(self.results.get, job.id) is not None:
            return  # another process of this service has followed the call, too
        with private_folder(self.results.folder.path) as folder:
            results = await value_files(job, interface, folder, even_if_failed=True)
            if results:
                await asyncio.to_thread(self.results.keep, job.id, folder, results)

    @contextlib.asynccontextmanager
    async def _ending(self, call_id: str, followed: _Followed) -> AsyncIterator[None]:
        """Note how it ends, whatever happens, and wake those who wait for that."""
        try:
            yield
        except ComfyRemoteError as error:
            followed.status, followed.error = CallStatus.FAILED, error
        except Exception as error:  # noqa: BLE001  somebody waits for an answer, whatever it is
            _log.exception("A call failed unexpectedly.")
            followed.status = CallStatus.FAILED
            followed.error = ComfyRemoteError(
                f"The service failed: {type(error).__name__}.", advice="Its log has more."
            )
        finally:
            followed.sent.set()
            followed.ended.set()
            if followed.status is CallStatus.COMPLETED:
                self._followed.pop(call_id, None)  # its results have all there is to know
            self._forget_some()

    def _forget_some(self) -> None:
        """Forget the oldest failures, which the record has as well."""
        failed = [name for name, one in self._followed.items() if one.status is CallStatus.FAILED]
        for name in failed[:-_RECENT]:
            del self._followed[name]


def _note(followed: _Followed, event: Event) -> None:
    match event:
        case Queued(position):
            followed.status = CallStatus.PENDING
            followed.message = f"Queued, {position} ahead" if position else "Queued"
        case Started():
            followed.status, followed.message = CallStatus.RUNNING, "Running"
        case Progress():
            followed.status = CallStatus.RUNNING
            if event.nodes_total > 0:
                done = event.fraction * event.nodes_total
                followed.progress = CallProgress(value=done, max=event.nodes_total)
            followed.message = event.message or event.node_class or "Running"
        case Log():
            _log.info("%s", event.message)


def _results_gone() -> ComfyRemoteError:
    return OutputLost(
        "The call's results are not here any more.",
        advice="Results are deleted some time after the call; call again.",
    )
