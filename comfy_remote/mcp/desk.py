"""Does what the tools ask for, within the bounds: starts jobs, follows them, finds them again.

The record is the one of the command line: a job that was started here is found by
``comfy-remote jobs``, and the other way round. Each job is followed in the background, so that its
cap holds and its outputs are saved even if nobody waits. When the server ends, jobs go on at their
targets.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..aio import Background, Signal, within
from ..clean import one_line
from ..config.settings import Configuration
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    JobNotFound,
    OutputCorrupt,
    OutputError,
    OutputLost,
    OutputTooLarge,
    SpendingCap,
    TargetUnreachable,
)
from ..events import Event, Finished, Progress
from ..jobs.billed import billed
from ..jobs.client import new_job_id
from ..jobs.client import resume as take_up
from ..jobs.estimate import RunEstimate
from ..jobs.job import Job
from ..jobs.record import JobEntry, JobFilter, Record
from ..jobs.status import JobStatus, statuses
from ..jobs.submission import Submission
from ..library.client import Client
from ..targets.base import RunRequest
from ..units import dollars
from ..workflow.change.prepare import Changes
from ..workflow.paid_nodes import any_paid, any_paid_known
from .bounds import Bounds
from .pictures import small_picture

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..jobs.doctor import Finding
    from ..jobs.record import SavedOutput
    from ..jobs.record.ledger import Booking
    from ..types import JsonValue
    from ..wire.models import ModelsAnswer
    from ..workflow.check import Report
    from ..workflow.summary import Summary

__all__ = ["Desk", "Followed", "Question", "Wanted"]

_log = logging.getLogger(__name__)

_MOST_FOLLOWED = 32
_CANCEL_PATIENCE = 15.0  # seconds
_LONGEST_NAME = 80
_LARGEST_PICTURE = 64 * 1024 * 1024  # bytes of the file


@dataclass(frozen=True, slots=True)
class Wanted:
    """A workflow, where it is to run, and what to change in it.

    Attributes:
        workflow: The path of a file below the folders, or the workflow itself.
        target: See `Bounds.target`.
        inputs: Files below the folders that its Load nodes name.
        folder: For the outputs.
    """

    workflow: str | Mapping[str, JsonValue]
    target: str | None = None
    changes: Changes = field(default_factory=Changes)
    inputs: Sequence[str] = ()
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked before a job goes over a limit of the server.

    Attributes:
        dollars: What they would agree to.
        text: For them.
    """

    dollars: float
    text: str


class Followed:
    """A job that this server follows.

    Attributes:
        progress: The newest snapshot.
        problem: Why it could not be followed, or its outputs not be saved.
        done: Whether it has ended and its outputs are here, or it is no longer followed.
    """

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.changed = Signal()
        self.progress: Progress | None = None
        self.problem: ComfyRemoteError | None = None
        self.done = False

    def note(self, event: Event) -> None:
        """See an event of the job."""
        if isinstance(event, Progress):
            self.progress = event
        self.changed.notify()


class Desk:
    """Jobs of this machine's record, for agents.

    Args:
        bounds: What the person who started the server allows.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._record: Record | None = None
        self._following: dict[str, Followed] = {}
        self._background = Background()

    @property
    def record(self) -> Record:
        """There once the desk is open."""
        if self._record is None:
            raise RuntimeError("the desk is not open: use it in `async with`")
        return self._record

    async def __aenter__(self) -> Self:
        self._record = await asyncio.to_thread(Record)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._background.stop()  # its jobs go on at their targets
            await self.record.written()
        finally:
            await asyncio.to_thread(self.record.close)

    # Before a run

    async def configuration(self) -> Configuration:
        """As it is now, without the server's caps."""
        return await asyncio.to_thread(Configuration.load)

    @contextlib.asynccontextmanager
    async def client(
        self, named: str | None, agreed: float | None = None
    ) -> AsyncGenerator[Client, None]:
        """A client of a target that the owner has named; jobs go on when it is left.

        Args:
            agreed: See `Bounds.caps`.
        """
        name = self.bounds.target(named, await self.configuration())
        configured = partial(self.bounds.configured, agreed)
        client = Client(name, record=self.record, configured=configured, on_interrupt=None)
        async with client:
            yield client

    async def check(self, wanted: Wanted) -> tuple[str, Report]:
        """Whether it would run; the target's name, and what was found."""
        workflow, inputs = await asyncio.to_thread(self._files, wanted)
        async with self.client(wanted.target) as client:
            report = await client.check(workflow, inputs=inputs, changes=wanted.changes)
            return client.target.name, report

    async def show(self, wanted: Wanted) -> tuple[str, Summary]:
        """The workflow's file, and what it is."""
        from ..schemas.finding import Found
        from ..workflow.schema import Schemas
        from ..workflow.summary import summarize

        workflow, _ = await asyncio.to_thread(self._files, wanted)
        found = Found(await asyncio.to_thread(Schemas.bundled))
        if wanted.target is not None:
            async with self.client(wanted.target) as client:
                found = Found(await client.schemas())

        def read() -> tuple[str, Summary]:
            from ..jobs.submission import opened, read
            from ..workflow.change.prepare import prepare

            loaded = read(opened(workflow), wanted.changes)
            ready = prepare(loaded, wanted.changes, found.schemas)
            summary = summarize(ready.prompt, schemas=found.schemas, workflow=loaded.workflow)
            return loaded.source, summary

        return await asyncio.to_thread(read)

    async def estimate(self, wanted: Wanted) -> tuple[RunEstimate, SpendingCap | None]:
        """How long it takes and what it costs; and why it would be refused now, if it would."""
        workflow, _ = await asyncio.to_thread(self._files, wanted)
        async with self.client(wanted.target) as client:
            estimate = await client.estimate(workflow, changes=wanted.changes)
            ready = await self._prepared(client, wanted)
            refused = await self._refused(client, ready)
            return estimate, refused

    async def question(self, wanted: Wanted) -> Question | None:
        """What to ask a person before this runs; ``None`` where there is nothing to agree to.

        Only a limit of the server can be gone over so, by an amount that is known; never one of
        the owner's files.
        """
        if not (self.bounds.asks and self.bounds.limited):
            return None
        async with self.client(wanted.target) as client:
            ready = await self._prepared(client, wanted)
            refused = await self._refused(client, ready)
            reserved = None if refused is None else refused.details.get("reserved")
            if not isinstance(reserved, float | int):
                return None
            agreed = math.ceil(reserved * 100) / 100
            client.configured = partial(self.bounds.configured, agreed)
            if await self._refused(client, ready) is not None:
                return None
            name = one_line(Path(ready.source).name)[:_LONGEST_NAME]
            return Question(
                agreed,
                f"An agent wants to run {name!r} on {client.target.name}, which may cost up to "
                f"{dollars(agreed)}. That is over the limit that you gave to comfy-remote mcp. "
                "Allow this one job?",
            )

    # Jobs

    async def run(self, wanted: Wanted, agreed: float | None = None) -> Followed:
        """Send a job; it is followed in the background.

        Args:
            agreed: What a person has agreed to: see `question`.

        Raises:
            ComfyRemoteError: It was not sent.
        """
        folder = await asyncio.to_thread(self.bounds.folder, wanted.folder)
        followed = Followed(new_job_id())

        async def send() -> None:
            async with self.client(wanted.target, agreed) as client:
                ready = await self._prepared(client, wanted)
                if (refused := await self._not_by_price(client, ready)) is not None:
                    raise refused
                # In the record, so that it holds for whoever follows the job after this server.
                cap = self.bounds.per_job if agreed is None else agreed
                job = await client.submit(ready, folder=folder, job_id=followed.id, cap=cap)
                followed.sent.set_result(None)
                await self._to_its_end(job, followed, folder)

        self._follow(followed, send())
        await asyncio.shield(followed.sent)
        return followed

    async def follow(self, job_id: str) -> Followed | None:
        """A recorded job, followed in the background; ``None`` if there is nothing to follow."""
        entry = await self.record.read(self.record.get, job_id)
        if (known := self._following.get(entry.id)) is not None:
            return known
        if not entry.owed:
            return None
        folder = await asyncio.to_thread(self._folder_of, entry)
        followed = Followed(entry.id)

        async def again() -> None:
            async with take_up(entry.id, record=self.record, on_interrupt=None) as job:
                followed.sent.set_result(None)
                await self._to_its_end(job, followed, folder)

        self._follow(followed, again())
        return followed

    async def wait(
        self,
        followed: Followed,
        seconds: float,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """Return when it is done, or after so long. The job goes on."""
        until = time.monotonic() + seconds
        last = None
        while not followed.done and (left := until - time.monotonic()) > 0:
            if followed.progress is not last and on_progress is not None:
                last = followed.progress
                if last is not None:
                    on_progress(last)
            await followed.changed.wait(left)

    async def jobs(self, wanted: JobFilter, limit: int) -> list[JobStatus]:
        """The newest jobs, as their targets say now."""
        entries = await self.record.read(self.record.newest, limit, wanted)
        return await statuses(self.record, entries)

    async def job(self, job_id: str) -> JobStatus:
        """One job, as its target says now."""
        entry = await self.record.read(self.record.get, job_id)
        if entry.id in self._following:
            return JobStatus(entry)
        [status] = await statuses(self.record, [entry])
        return status

    async def booking(self, job_id: str) -> Booking | None:
        """What a job costs."""
        return await self.record.read(self.record.ledger.of, job_id)

    async def cancel(self, job_id: str) -> JobEntry:
        """Cancel a job at its target.

        Raises:
            TargetUnreachable: The target has not confirmed it in time.
        """
        entry = await self.record.read(self.record.get, job_id)
        if entry.state.final:
            return entry
        async with take_up(entry.id, record=self.record, on_interrupt=None) as job:
            await job.cancel()
            try:
                await within(job.wait(), _CANCEL_PATIENCE)
            except asyncio.TimeoutError:
                raise TargetUnreachable(
                    f"{entry.target} was asked to cancel job {entry.id}, and has not confirmed it "
                    f"within {_CANCEL_PATIENCE:.0f} s.",
                    advice="Look again later: job.",
                ) from None
        return await self.record.read(self.record.get, entry.id)

    async def pictures(self, entry: JobEntry, most: int) -> list[tuple[int, bytes]]:
        """Small copies of the first pictures that a job made, each with its place among them.

        Only of those that still are what the job made.
        """
        found: list[tuple[int, bytes]] = []
        for number, output in enumerate(entry.outputs):
            if output.kind != "image" or len(found) == most:
                continue
            with contextlib.suppress(OutputError):
                await asyncio.to_thread(self._content, output, _LARGEST_PICTURE)
                small = await asyncio.to_thread(small_picture, output.path)
                if small is not None:
                    found.append((number, small))
        return found

    async def models(self, named: str | None) -> tuple[str, ModelsAnswer]:
        """The target's name, and the models that it has."""
        from ..targets.models import list_models

        async with self.client(named) as client:
            return client.target.name, await list_models(client.target)

    async def doctor(self, named: str | None, workflow: str | None) -> tuple[str, list[Finding]]:
        """The target's name, and what each check between here and the GPU has found."""
        from ..jobs.doctor import examine

        configuration = await self.configuration()
        name = self.bounds.target(named, configuration)
        path = None if workflow is None else await asyncio.to_thread(self.bounds.file, workflow)
        checks = examine(name, path, configuration=configuration)
        return name, [finding async for finding in checks]

    async def content(self, job_id: str, number: str, most: int) -> bytes:
        """The bytes of a saved output, if it still is what the job made.

        Args:
            number: Its place among the job's outputs, from 0.
            most: Bytes; a larger one is refused.

        Raises:
            JobNotFound: The record has no such output.
            OutputError: It is elsewhere, too large, or another file by now.
        """
        entry = await self.record.read(self.record.get, job_id)
        if not number.isdecimal() or int(number) >= len(entry.outputs):
            raise JobNotFound(
                f"Job {entry.id} has {len(entry.outputs)} outputs, numbered from 0.",
                advice="`outputs` lists them.",
            )
        return await asyncio.to_thread(self._content, entry.outputs[int(number)], most)

    def _content(self, output: SavedOutput, most: int) -> bytes:
        if not self.bounds.may_read(output.path):
            raise OutputError(f"{output.path} is outside of the folders of this server.")
        if output.size > most:
            raise OutputTooLarge(f"{output.path} is too large to be sent.", advice="Read the file.")
        try:
            with output.path.open("rb") as file:
                data = file.read(output.size + 1)
        except OSError as error:
            raise OutputLost(f"{output.path} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != output.sha256:
            raise OutputCorrupt(f"{output.path} is another file than the one that the job made.")
        return data

    async def ready(
        self, client: Client, wanted: Wanted
    ) -> tuple[Path | Mapping[str, JsonValue], tuple[Path, ...]]:
        """A workflow and its inputs, once it is sure that they may be used and sent.

        Raises:
            ComfyRemoteError: They may not.
        """
        ready = await self._prepared(client, wanted)
        if (refused := await self._refused(client, ready)) is not None:
            raise refused
        return await asyncio.to_thread(self._files, wanted)

    # Inside

    def _files(self, wanted: Wanted) -> tuple[Path | Mapping[str, JsonValue], tuple[Path, ...]]:
        """The workflow, and its files, if they may be used. Blocking."""
        inputs = tuple(self.bounds.file(one) for one in wanted.inputs)
        if isinstance(wanted.workflow, str):
            return self.bounds.file(wanted.workflow), inputs
        return wanted.workflow, inputs

    async def _prepared(self, client: Client, wanted: Wanted) -> Submission:
        workflow, inputs = await asyncio.to_thread(self._files, wanted)
        return await client.prepare(
            workflow,
            changes=wanted.changes,
            inputs=inputs,
            base=None if isinstance(workflow, Path) else self.bounds.folders[0],
            source=None if isinstance(workflow, Path) else "agent",
            only_base=True,
        )

    async def _refused(self, client: Client, ready: Submission) -> SpendingCap | None:
        """Why a job would not be sent now."""
        if (refused := await self._not_by_price(client, ready)) is not None:
            return refused
        request = RunRequest(new_job_id(), ready.prompt, ready.files, ready.workflow)
        return await client.refused_by_cap(request)

    async def _not_by_price(self, client: Client, ready: Submission) -> SpendingCap | None:
        """Why a job is refused that no cap covers."""
        prompt = ready.prompt
        paid = ready.paid or any_paid_known(prompt)
        if paid or any_paid(prompt, await client.schemas(prompt)):
            return SpendingCap(
                "The workflow has nodes that buy something from a service each time they run. What "
                "that costs is not known before, so no limit can hold it.",
                advice="No tool runs it. A person can: comfy-remote run",
            )
        configuration = await asyncio.to_thread(client.configured)
        if not self.bounds.limited and billed(client.target, configuration)[1] == "by hour":
            return SpendingCap(
                f"{client.target.name} costs money by the hour, and this server was started "
                "without a limit on spending.",
                advice="A person can start it with --cap-per-job or --cap-per-day.",
            )
        return None

    def _folder_of(self, entry: JobEntry) -> Path:
        """Where a job's outputs are saved: where they were wanted, if that may be used."""
        if entry.folder is not None and self.bounds.may_read(entry.folder):
            return entry.folder
        return self.bounds.folder(None)

    def _follow(self, followed: Followed, work: Coroutine[object, object, None]) -> None:
        if len(self._following) >= _MOST_FOLLOWED:
            work.close()
            raise ConfigurationError(
                f"{_MOST_FOLLOWED} jobs are under way here.",
                advice="Wait for one of them, or cancel one. For many runs: batch.",
            )
        self._following[followed.id] = followed
        self._background.start(self._guarded(followed, work))

    async def _guarded(self, followed: Followed, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except ComfyRemoteError as error:
            if followed.sent.done():
                followed.problem = error
            else:
                followed.sent.set_exception(error)
        except BaseException as error:
            if not followed.sent.done():
                followed.sent.set_exception(error)
                followed.sent.exception()  # it is also raised here
            raise
        finally:
            followed.done = True
            self._following.pop(followed.id, None)
            followed.changed.notify()

    async def _to_its_end(self, job: Job, followed: Followed, folder: Path) -> None:
        async for event in job:
            followed.note(event)
            if isinstance(event, Finished) and event.error is not None and not event.outputs:
                return  # its error is in the record
        await job.save_outputs(folder, even_if_failed=True)
