"""One run of a prompt: followed to its end, its outputs fetched."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..advice import Hint
from ..aio import Deadline, concurrent_map, off_the_loop, within
from ..data_class import dataclass
from ..errors import (
    ComfyRemoteError,
    InputFileMissing,
    JobCancelled,
    JobTimedOut,
    LocalStorageError,
    OutputLost,
    SubmissionUnknown,
)
from ..events import (
    DidItRun,
    Event,
    EventOf,
    Finished,
    JobState,
    Log,
    OutputReady,
    Progress,
    Queued,
    Started,
    cleaned,
    event_to_json,
)
from ..media.disk_space import DiskLimits
from ..media.files import place_below, safe_relative_path, storage_errors
from ..media.partial import partial_folder
from ..media.receive import Received
from ..media.remote_values import VALUES_KEY
from ..media.temporary import TemporaryFolder
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import RemoteRef, Target, located, release, server_of
from ..targets.download import download, download_value
from ..workflow.interface import REMOTE_OUTPUT, key_of
from ..workflow.prompt import Prompt
from ..workflow.workload import mostly_cached
from .guessed_progress import ProgressEstimate, estimate_progress, with_estimates
from .output import JobOutput, Output
from .phases import StartTime, with_phases
from .record import SAVED_BEFORE, JobEntry, Record, SavedOutput
from .sent_inputs import SentInputs, check_unchanged
from .submission import send

if TYPE_CHECKING:
    from ..media.values.limits import ValueLimits
    from .cache.keeping import Keeper
    from .charges import Allowed

__all__ = ["PATIENCE", "SAVED_BEFORE", "Job", "Patience"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PROGRESS_RECORDED_EVERY = 1.0
_MOST_WAITING = 3
"""Writes that wait for the record's lock: with more, progress is not recorded. Each may wait half a
minute when the program ends."""
_LOOK_EVERY = 0.25
_LOOK_PAUSE = 0.3
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds to wait for others where nothing else limits it.

    Attributes:
        submit: If interrupted, for the answer to a submission, which alone says how to cancel.
        cancel: If interrupted, for the target to confirm the cancel.
        end: After that, for the job to end, so that the record has its end.
        others: For another process that sends the same job again: 10 MB take time on a slow line.
    """

    submit: float = 10.0
    cancel: float = 10.0
    end: float = 10.0
    others: float = 120.0


PATIENCE = Patience()


class Job:
    """One run of a prompt.

    Iterate over it for its events (see `comfy_remote.events`), then call `outputs`; or call
    `outputs` at once. Made by `Client.submit` and `resume`.

    Attributes:
        id: A lower-case UUID.
        target: Who has it: the client's target, or a stored result (`cache.hit`).
        run_seconds: How long it ran, once it has ended, if that is known.
    """

    def __init__(
        self,
        target: Target,
        record: Record,
        ref: RemoteRef,
        prompt: Prompt,
        deadline: Deadline | None = None,
        *,
        entry: JobEntry | None = None,
        patience: Patience = PATIENCE,
        reserved: Callable[[], Awaitable[Allowed | None]] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.id = ref.job_id
        self.ref = ref
        self.target = target
        self._record = record
        self._prompt = prompt
        self._deadline = deadline or Deadline(None)
        self.run_seconds: float | None = None
        self._finished: Finished | None = None
        self._state = JobState.QUEUED
        self._recorded_progress = 0.0
        self._record_failed = False
        self._resumed = entry is not None
        self._ran_before = 0.0
        self._sent_at = None if entry is None else entry.created
        if entry is not None and entry.started is not None:
            self._ran_before = max(0.0, time.time() - entry.started)
        self._started: float | None = None
        self._reserved = reserved
        self._start = StartTime()
        self._sent = SentInputs(record, target)
        self._sending: asyncio.Future[RemoteRef] | None = None
        self._not_fetched: list[OutputProblem] = []
        self._cancelled = False
        self._patience = patience
        self._keeper = keeper

    def __repr__(self) -> str:
        return f"Job({self.id!r}, target={self.target.name!r}, state={self._state.value!r})"

    @property
    def state(self) -> JobState:
        """The last state that was seen."""
        return self._state

    @property
    def finished(self) -> Finished | None:
        """The last event, once the job has ended."""
        return self._finished

    @property
    def did_it_run(self) -> DidItRun | None:
        """Of a job that ended without a result, how certain it is that it did not run."""
        return None if self._finished is None else self._finished.did_it_run

    @property
    def problems(self) -> list[OutputProblem]:
        """What the workflow asked for and is not among its outputs, or is damaged.

        Complete once the job has ended and its outputs were fetched.
        """
        known = [] if self._finished is None else self._finished.problems
        return [*known, *self._not_fetched]

    async def __aiter__(self) -> AsyncGenerator[EventOf[JobOutput], None]:
        """Its events from now on; the last is `Finished`. A failed job raises nothing here.

        Raises:
            JobTimedOut: The time given to `Client.submit` is over.
            TargetError: The target can no longer be asked.
        """
        if self._finished is not None:
            yield self._finished
            return
        while True:
            await self._sent_again()
            followed = self.target.follow(self.ref, self._prompt)
            missed = False
            followed = with_phases(followed, self._prompt, self._usual_start)
            if self._reserved is not None:
                from .charges import with_top_ups  # here: most targets cost nothing

                followed = with_top_ups(
                    *(followed, self._record, self.id, self._reserved),
                    self._cancel_at_cap,
                    elapsed=self._ran_before,
                )
            async with aclosing(
                with_estimates(followed, self._estimated, elapsed=self._ran_before)
            ) as events:
                while not missed:
                    event = cleaned(await self._next(events))
                    if self._state is JobState.RUNNING and isinstance(event, Queued | Started):
                        continue  # followed again, as after a cancel: the target repeats them
                    if isinstance(event, Finished):
                        missed = await self._missed(event)
                        if missed and not self._cancelled:
                            continue
                        if missed:  # nothing has run, and nothing will
                            error = JobCancelled("The job was cancelled.")
                            grade = DidItRun.STOPPED  # a worker took it
                            event = Finished(JobState.CANCELLED, error, did_it_run=grade)
                    self._note(event)
                    if isinstance(event, OutputReady):
                        yield OutputReady(JobOutput.of(event.output, self))
                        continue
                    yield event
                    if isinstance(event, Finished):
                        return
            yield Log("The worker no longer has the input files: the job is sent again with them.")
            await self._send_whole()

    async def _estimated(self) -> ProgressEstimate:
        _, there = located(self.target, self.ref)
        return await self._record.read_at_once(
            estimate_progress, self._record, there.name, self._prompt, server_of(there)
        )

    async def _cancel_at_cap(self) -> str | None:
        """Why it goes on all the same."""
        try:
            await self.target.cancel(self.ref)
        except ComfyRemoteError as error:
            return error.message
        return None

    async def _usual_start(self) -> float | None:
        """Seconds that a worker took to start the last time."""
        _, there = located(self.target, self.ref)
        return await self._record.read_at_once(self._record.last_start, there.name)

    async def look(self) -> JobState:
        """Ask the target once for the state of the job, and record it; nothing is sent again.

        Raises:
            TargetError: The target cannot be asked.
        """
        # At the first question, a target sends all events so far at once.
        until: Deadline | None = None
        async with aclosing(self.target.follow(self.ref, self._prompt)) as events:
            while self._finished is None:
                patience = None if until is None else until.at_most(_LOOK_PAUSE)
                try:
                    event = await within(events.__anext__(), patience)
                except (asyncio.TimeoutError, StopAsyncIteration):
                    break
                if isinstance(event, Finished) and await self._missed(event):
                    break  # it is to be sent once more, by whoever follows it
                if isinstance(event, Progress) and self._state is not JobState.RUNNING:
                    self._note(Started())
                if isinstance(event, Queued | Started | Progress | Finished):
                    until = until or Deadline(_LOOK_SECONDS)
                    self._note(event)
        return self._state

    async def wait(self) -> Finished:
        """Follow the job to its end."""
        async for event in self:
            if isinstance(event, Finished):
                return event
        raise AssertionError("unreachable: a job's last event is Finished")

    async def outputs(
        self,
        on_bytes: Callable[[int], None] | None = None,
        *,
        even_if_failed: bool = False,
    ) -> list[Output]:
        """Wait for the job, and fetch all that it produced.

        In the order of the prompt's nodes and, within a node, of its list. Fetched side by
        side, each checked against the size and SHA-256 that the target announced. One that the
        target does not have is left out, as long as there are others: see `problems`.

        Args:
            on_bytes: Called with the number of bytes of each piece that arrives.
            even_if_failed: Of a job that failed, fetch what it had saved before, if anything,
                instead of raising its error, which is in `finished`.

        Raises:
            ComfyRemoteError: The job's own error if it did not succeed; `OutputError` if an
                output could not be fetched completely; `OutputLost` if there is none.
        """
        outputs = await self._made(even_if_failed=even_if_failed)
        spool = TemporaryFolder("outputs")
        local = []
        fetched = await self._fetch(outputs, Path(spool.name), on_bytes)
        await self.keep(outputs, fetched)
        for output, here in self._without_lost(outputs, fetched):
            if isinstance(here, ComfyRemoteError):
                raise here
            local.append(_local(_named_for_people(output, self._prompt), here, spool))
        await release(self.target, outputs)
        return local

    async def output(self, output: RemoteOutput) -> Output:
        """Fetch one output: of `Finished.outputs`, or of an `OutputReady` (or `fetch` that).

        Raises:
            OutputLost: The target does not have it.
            OutputError: It could not be fetched completely.
        """
        spool = TemporaryFolder("outputs")
        [here] = await self._fetch([output], Path(spool.name), None)
        if isinstance(here, ComfyRemoteError):
            raise here
        return _local(_named_for_people(output, self._prompt), here, spool)

    async def save_outputs(
        self,
        folder: Path,
        on_bytes: Callable[[int], None] | None = None,
        *,
        even_if_failed: bool = False,
    ) -> list[SavedOutput]:
        """Like `outputs`, written below ``folder`` and recorded.

        The bytes are written there once: beside, then linked to their final names. The record
        names the outputs of a job only when all of them are here. What had arrived when this was
        interrupted (cancelled, killed, the target out of reach) is not fetched again by the next
        try with the same folder.

        Raises:
            ComfyRemoteError: As `outputs`, and `LocalStorageError`. What could not be
                written leaves nothing; what could stays, for another try if it could not get its
                name.
        """
        outputs = await self._made(even_if_failed=even_if_failed)
        async with off_the_loop(_arriving(folder, self.id, self._prompt)) as arriving:
            fetched = await self._fetch(outputs, arriving.spool, on_bytes)
            await self.keep(outputs, fetched)
            arriving.here = self._without_lost(outputs, fetched)
        saved = arriving.saved
        try:
            await self._record.write(self._record.saved, self.id, saved)
        except LocalStorageError as error:
            self._goes_on_without_record(error)
        await release(self.target, outputs)
        return saved

    async def listed(self, *, even_if_failed: bool = False) -> tuple[RemoteOutput, ...]:
        """Wait for the job, and describe what it produced; nothing is fetched.

        Args:
            even_if_failed: As for `outputs`.

        Raises:
            ComfyRemoteError: The job's own error if it did not succeed; `OutputLost` if it made
                nothing.
        """
        return await self._made(even_if_failed=even_if_failed)

    async def fetch(
        self,
        outputs: Sequence[RemoteOutput],
        folder: Path,
        on_bytes: Callable[[int], None] | None = None,
    ) -> list[Received]:
        """Fetch some of the outputs that `listed` gave, checked, into files of that folder.

        Args:
            outputs: In the order in which the files are wanted.
            folder: There, empty, and private to the caller.

        Raises:
            ComfyRemoteError: One could not be fetched completely.
        """
        files = []
        fetched = await self._fetch(outputs, folder, on_bytes)
        await self.keep(outputs, fetched)
        for here in fetched:
            if isinstance(here, ComfyRemoteError):
                raise here
            files.append(here)
        await release(self.target, outputs)
        return files

    async def fetch_values(
        self, outputs: Sequence[RemoteOutput], limits: ValueLimits
    ) -> list[bytearray | memoryview]:
        """Like `fetch`, for value files, into memory.

        Raises:
            ComfyRemoteError: As `fetch`; `ValueInvalid` for one beyond the limits.
        """

        async def fetch(output: RemoteOutput) -> bytearray | memoryview:
            return await download_value(self.target, output, limits)

        values = await self._in_time(concurrent_map(fetch, outputs))
        await release(self.target, outputs)
        return values

    def address_of(self, output: RemoteOutput) -> str | None:
        """The URL that an output can be fetched from; ``None`` if it only came with the result."""
        source = output.source
        if source is None or source.path is None:
            return None if source is None else source.url
        ref, _ = located(self.target, self.ref)
        base = ref.details.get("url")
        return f"{base}/{source.path}" if base else None

    async def cancel(self) -> None:
        """Ask the target to stop it. Follow the job to see how it ends."""
        self._cancelled = True
        await self._sent_again()
        await self.target.cancel(self.ref)

    async def _send_whole(self) -> None:
        """Submit the job once more, with the bytes of all its files."""
        request = await self._record.write(self._sent.claim, self.ref, self._prompt)
        if request is None:
            self.ref = await self._sent_by_another()
            return
        try:
            await asyncio.to_thread(check_unchanged, request.files)
        except ComfyRemoteError as error:
            self._write(self._record.state, self.id, JobState.FAILED, error)
            raise
        # Not stopped half way, if whoever follows the job gives up: it may have arrived.
        self._sending = asyncio.ensure_future(
            send(self.target, self._record, request, self._deadline)
        )
        await self._sent_again()
        if self._cancelled:
            await self.target.cancel(self.ref)

    async def _sent_again(self) -> None:
        """Wait until the job has been sent once more, if that is under way."""
        sending = self._sending
        if sending is not None:
            self.ref = await asyncio.shield(sending)
            self._sending = None

    async def _sent_by_another(self) -> RemoteRef:
        """The answer to another process, which also follows the job.

        Raises:
            SubmissionUnknown: There is none; that process may have been killed.
        """
        deadline = Deadline(self._patience.others)
        while deadline.left:
            ref = (await self._record.read(self._record.get, self.id)).ref
            if ref is not None:
                return ref
            await asyncio.sleep(_LOOK_EVERY)
        raise SubmissionUnknown(
            "Another program was sending the job again, and how that ended is not known.",
            advice=Hint.FIND_JOB(job_id=self.id),
        )

    async def _next(self, events: AsyncGenerator[Event, None]) -> Event:
        if self._deadline.seconds is None:
            return await events.__anext__()
        try:
            return await self._deadline.within(events.__anext__())
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"The job did not end within {self._deadline}. It was not cancelled: it may "
                f"still be running at {self.target.name}.",
                advice=Hint.RESUME_OR_CANCEL(job_id=self.id),
                details={"job_id": self.id},
            ) from None

    async def _missed(self, end: Finished) -> bool:
        return isinstance(end.error, InputFileMissing) and await self._record.read(
            self._sent.missed, self.ref, end
        )

    def _write(self, method: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        self._record.post(self._goes_on_without_record, method, *args, **kwargs)

    def _goes_on_without_record(self, error: LocalStorageError) -> None:
        """If the record fails in the middle of a job, the job continues without it."""
        if not self._record_failed:
            self._record_failed = True
            _log.warning("%s Job %s continues; it cannot be resumed later.", error, self.id)

    def _note(self, event: Event) -> None:
        self._start.note(event)
        match event:
            case Queued():
                self._state = JobState.QUEUED
                self._write(self._record.state, self.id, self._state, at=time.time())
            case Started():
                self._started = time.monotonic()
                self._state = JobState.RUNNING
                _log.debug("Job %s runs.", self.id)
                self._write(self._record.state, self.id, self._state, at=time.time())
            case Log(level="warning"):
                self._write(self._record.warned, self.id, event.message, at=time.time())
            case Progress():
                now = time.monotonic()
                if now - self._recorded_progress >= _PROGRESS_RECORDED_EVERY:
                    self._recorded_progress = now
                    if self._record.waiting < _MOST_WAITING:
                        self._write(self._record.progress, self.id, event_to_json(event))
            case Finished():
                self._finished = event
                _log.debug(
                    "Job %s: %s after %.2f s, %d outputs; the target says %s.",
                    self.id,
                    event.state.value,
                    time.monotonic() - self._deadline.begun,
                    len(event.outputs),
                    event.details,
                )
                self._state = event.state
                if event.error is not None and event.did_it_run is not None:
                    event.did_it_run.noted_in(event.error)
                if event.error is not None and event.outputs:
                    event.error.details.setdefault(SAVED_BEFORE, len(event.outputs))
                self.run_seconds = self._run_seconds(event)
                self._write(
                    self._record.state,
                    *(self.id, event.state, event.error),
                    run_seconds=self.run_seconds,
                    typical=not self._mostly_cached(event),
                    billed=self._billed(event),
                    at=time.time(),
                )
                if self._sent.remembered:
                    self._write(self._sent.ended, self.id, self._prompt, event)

    def _mostly_cached(self, finished: Finished) -> bool:
        """Whether it says nothing of how long the next one takes, though what it cost is known."""
        details = finished.details
        said = details.get("mostly_cached") is True  # by a worker
        return said or mostly_cached(self._prompt, details.get("cached_nodes"))

    def _run_seconds(self, finished: Finished) -> float | None:
        """How long it ran: as the target says, else as seen, if it was seen from the start.

        Not longer than since it was sent, whatever the target says.
        """
        said = finished.details.get("run_seconds")
        since = self._since_sent()
        if isinstance(said, int | float) and said > 0 and since > 0:
            return min(float(said), since)
        if self._resumed or self._started is None:
            return None
        return time.monotonic() - self._started

    def _since_sent(self) -> float:
        if self._sent_at is None:
            return time.monotonic() - self._deadline.begun
        return time.time() - self._sent_at

    def _billed(self, finished: Finished) -> float | None:
        """How long it used a worker: also the one that was started for it."""
        ran = self._run_seconds(finished)
        return None if ran is None else ran + self._start.seconds

    async def _made(self, *, even_if_failed: bool = False) -> tuple[RemoteOutput, ...]:
        """Wait for the job; what there is to fetch."""
        finished = self._finished or await self.wait()
        if finished.error is not None and not (even_if_failed and finished.outputs):
            raise finished.error
        if not finished.outputs and not finished.problems:
            raise OutputLost(
                "The job succeeded, but it made no output.",
                advice="Add a node that saves what the workflow makes, such as Save Image. Files "
                "that a node wrote without reporting them are in ComfyUI's output folder; only a "
                "worker on that machine can fetch them.",
            )
        return finished.outputs

    def _without_lost(
        self, outputs: Sequence[RemoteOutput], fetched: Sequence[Received | ComfyRemoteError]
    ) -> list[tuple[RemoteOutput, Received | ComfyRemoteError]]:
        """All but those that the target does not have, unless it has none of them."""
        pairs = list(zip(outputs, fetched, strict=True))
        there = [pair for pair in pairs if not isinstance(pair[1], OutputLost)]
        for output, here in pairs:
            reason = here.doubt if isinstance(here, Received) else ""
            if isinstance(here, OutputLost) and there:
                reason = here.message
            if reason:
                node = self._prompt.get(output.node_id or "")
                node_class = node["class_type"] if node else None
                problem = OutputProblem(output.node_id, node_class, output.filename, reason)
                if problem not in self._not_fetched:
                    self._not_fetched.append(problem)
        return there or pairs

    async def _fetch(
        self,
        outputs: Sequence[RemoteOutput],
        spool: Path,
        on_bytes: Callable[[int], None] | None,
    ) -> list[Received | ComfyRemoteError]:
        """Each output in a file of ours, or why not: one that fails does not lose the others."""

        async def fetch(numbered: tuple[int, RemoteOutput]) -> Received | ComfyRemoteError:
            number, output = numbered
            began = time.monotonic()
            try:
                here = await download(self.target, output, spool / str(number), on_bytes)
            except ComfyRemoteError as error:
                _log.debug("%s could not be fetched: %s", output.filename, error)
                return error
            _log.debug(
                "%s is here: %d bytes, SHA-256 %s, in %.2f s.",
                output.filename,
                here.size,
                here.sha256,
                time.monotonic() - began,
            )
            return here

        with storage_errors(spool):
            whole = sum(output.size or 0 for output in outputs)
            DiskLimits.of().check_room(spool / "outputs", whole)
        return await self._in_time(concurrent_map(fetch, enumerate(outputs)))

    async def keep(
        self, outputs: Sequence[RemoteOutput], fetched: Sequence[Received | ComfyRemoteError]
    ) -> None:
        """Have what was fetched stored for other runs like this, if it is to be.

        For whoever fetches the outputs without `outputs`; once it has ended.
        """
        keeper, finished = self._keeper, self._finished
        if keeper is not None and finished is not None:
            self._keeper = None
            pairs = list(zip(outputs, fetched, strict=True))
            await keeper.keep(finished, pairs, self.run_seconds, self.ref)

    async def _in_time(self, fetching: Awaitable[_T]) -> _T:
        try:
            return await self._deadline.within(fetching)
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"The job has ended, but its outputs did not arrive within {self._deadline}.",
                advice=Hint.RESUME_WITH_TIME(job_id=self.id),
                details={"job_id": self.id},
            ) from None


def _named_for_people(output: RemoteOutput, prompt: Prompt) -> RemoteOutput:
    """A value file is called by its content on the target; here, by the key of its node."""
    node = prompt.get(output.node_id or "")
    if output.key != VALUES_KEY or node is None or node["class_type"] != REMOTE_OUTPUT:
        return output
    name = str(safe_relative_path(key_of(node).replace("/", "_").replace("\\", "_")))
    return replace(output, filename=f"{name}.safetensors", subfolder="")


def _local(remote: RemoteOutput, here: Received, spool: TemporaryFolder) -> Output:
    return Output(
        node_id=remote.node_id,
        kind=remote.kind,
        filename=remote.filename,
        subfolder=remote.subfolder,
        folder=remote.folder,
        media_type=remote.media_type,
        size=here.size,
        sha256=here.sha256,
        _path=here.path,
        _spool=spool,
    )


@dataclass(slots=True)
class _Arriving:
    """Outputs on their way into a folder.

    Attributes:
        spool: Where they are fetched to.
        here: What has been fetched; it gets its final names at the end.
        saved: What has them then.
    """

    spool: Path
    here: list[tuple[RemoteOutput, Received | ComfyRemoteError]] = field(default_factory=list)
    saved: list[SavedOutput] = field(default_factory=list)


@contextmanager
def _arriving(folder: Path, job_id: str, prompt: Prompt) -> Iterator[_Arriving]:
    """A folder for outputs, which go to their places when it ends. It blocks at both ends."""
    with partial_folder(folder, job_id) as spool:
        arriving = _Arriving(spool)
        yield arriving
        arriving.saved = _place_all(arriving.here, prompt, folder)


def _place_all(
    fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
    prompt: Prompt,
    folder: Path,
) -> list[SavedOutput]:
    """Give the files their final names, as many as can be. Raises the first error, after that."""
    saved: list[SavedOutput] = []
    failure: ComfyRemoteError | None = None
    for output, here in fetched:
        try:
            if isinstance(here, ComfyRemoteError):
                raise here
            saved.append(_place(_named_for_people(output, prompt), here, folder))
        except ComfyRemoteError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return saved


def _place(remote: RemoteOutput, here: Received, folder: Path) -> SavedOutput:
    relative = safe_relative_path(remote.filename, remote.subfolder)
    return SavedOutput(
        path=place_below(here.path, folder, relative, here.sha256),
        node_id=remote.node_id,
        kind=remote.kind,
        filename=remote.filename,
        sha256=here.sha256,
        size=here.size,
    )
