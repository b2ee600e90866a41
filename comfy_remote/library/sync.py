"""The client without ``await``: the same methods, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from ..aio import Background
from ..events import DidItRun, Event, EventOf, Finished, JobState, OutputReady
from ..jobs.estimate import RunEstimate
from ..jobs.interruption import PATIENCE, OnInterrupt, Patience
from ..jobs.job import Job
from ..jobs.output import JobOutput, Output
from ..jobs.record import BatchEntry, Record, SavedOutput
from ..jobs.submission import Submission, Workflow
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import Target
from ..types import JsonValue
from ..workflow.change.prepare import Changes, ChangeWords
from ..workflow.schema import Schemas
from .client import Client, RowResult

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..batch.draft import BatchOptions
    from ..batch.events import BatchEvent
    from ..batch.manifest import RunLine
    from ..batch.plan import Rows, Vary
    from ..calls.values import ValueForm
    from ..calls.workflow import CallableWorkflow
    from ..config.cache_settings import CacheMode
    from ..media.values import DecodedValue
    from ..workflow.check import Report
    from ..workflow.cut import Cut
    from .batch import Batch

__all__ = ["SyncBatch", "SyncClient", "SyncJob", "SyncJobOutput"]

_T = TypeVar("_T")
_LOOK_EVERY = 0.25


class SyncClient:
    """`Client` for programs that are not asynchronous, and for notebooks.

    ::

        with SyncClient("runpod:abc123") as client:
            for event in (job := client.submit("workflow.json", seed=5)):
                print(event)
            job.outputs()[0].save("output")

    Without ``with``, it opens when it is first used; `close` it. Interrupted (Ctrl-C, a notebook's
    stop button, an exception in the ``with`` block), it cancels its jobs, or leaves them, as
    `Client` does. May be used where an event loop runs already, and by several threads. What is
    called in its own thread (``on_event`` of `map` and `call`) cannot use it.

    Args:
        target: As for `Client`, like the rest.

    Raises:
        ConfigurationError: As `Client`.
    """

    def __init__(
        self,
        target: str | Target | None = None,
        *,
        record: Record | None = None,
        config: Path | str | None = None,
        schemas: Schemas | Path | str | None = None,
        on_interrupt: OnInterrupt = "cancel",
        patience: Patience = PATIENCE,
    ) -> None:
        self._client = Client(
            target,
            record=record,
            config=config,
            schemas=schemas,
            on_interrupt=on_interrupt,
            patience=patience,
        )
        self._loop: _LoopThread | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"SyncClient({self._client.target.name!r})"

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._opening:
            loop = self._loop
            if loop is None:
                return
            try:
                loop.run(self._client.__aexit__(kind, error, traceback))
            finally:
                self._loop = None
                loop.close()

    def close(self) -> None:
        """Close the connection, and end the thread. Jobs that have not ended go on."""
        self.__exit__(None, None, None)

    def _opened(self) -> _LoopThread:
        if (opened := self._loop) is not None:
            return opened
        with self._opening:
            if self._loop is None:
                loop = _LoopThread()
                try:
                    loop.run(self._client.__aenter__())
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    @property
    def target(self) -> Target:
        """Where it runs. Its methods are not for this thread."""
        return self._client.target

    @property
    def record(self) -> Record:
        """Where its jobs are recorded."""
        self._opened()
        return self._client.record

    def schemas(self) -> Schemas:
        """See `Client.schemas`."""
        return self._opened().run(self._client.schemas())

    def prepare(
        self,
        workflow: Workflow,
        *,
        inputs: Sequence[Path | str] | Path | str = (),
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> Submission:
        """See `Client.prepare`."""
        return self._opened().run(
            self._client.prepare(workflow, inputs=inputs, changes=changes, **words)
        )

    def submit(
        self,
        workflow: Workflow | Submission,
        *,
        folder: Path | None = None,
        embed: Mapping[str, JsonValue] | None = None,
        repo_list: str | None = None,
        timeout: float | None = None,
        job_id: str | None = None,
        retry_lost: bool = True,
        cache: CacheMode | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        cap: float | None = None,
        over_cap: bool = False,
        inputs: Sequence[Path | str] | Path | str = (),
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> SyncJob:
        """See `Client.submit`. ``on_sent`` is called in the client's own thread."""
        loop = self._opened()
        submitting = self._client.submit(
            workflow,
            folder=folder,
            embed=embed,
            repo_list=repo_list,
            timeout=timeout,
            job_id=job_id,
            retry_lost=retry_lost,
            cache=cache,
            on_sent=on_sent,
            cap=cap,
            over_cap=over_cap,
            inputs=inputs,
            changes=changes,
            **words,
        )
        return SyncJob(loop.run(submitting), loop)

    def run(
        self,
        workflow: Workflow,
        *,
        inputs: Sequence[Path | str] | Path | str = (),
        timeout: float | None = None,
        on_event: Callable[[EventOf[SyncJobOutput]], object] | None = None,
        retry_lost: bool = True,
        cache: CacheMode | None = None,
        cap: float | None = None,
        over_cap: bool = False,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> list[Output]:
        """See `Client.run`."""
        loop = self._opened()
        job = loop.run(
            self._client.submit(
                workflow,
                inputs=inputs,
                timeout=timeout,
                retry_lost=retry_lost,
                cache=cache,
                cap=cap,
                over_cap=over_cap,
                changes=changes,
                **words,
            )
        )
        try:
            for event in SyncJob(job, loop):
                if on_event is not None:
                    on_event(event)
            return loop.run(job.outputs())
        except BaseException as error:
            if loop.alive:
                loop.run(self._client.interrupted(job, error))
            raise

    def map(
        self,
        workflow: Workflow,
        rows: Iterable[ChangeWords],
        *,
        at_most: int = 4,
        inputs: Sequence[Path | str] | Path | str = (),
        timeout: float | None = None,
        on_event: Callable[[int, Event], object] | None = None,
        retry_lost: bool = True,
        changes: Changes | None = None,
    ) -> Iterator[RowResult]:
        """See `Client.map`. ``on_event`` is called in the client's own thread."""
        loop = self._opened()
        results = self._client.map(
            workflow,
            rows,
            at_most=at_most,
            inputs=inputs,
            timeout=timeout,
            on_event=on_event,
            retry_lost=retry_lost,
            changes=changes,
        )
        return loop.iterate(results)

    def batch(
        self,
        workflow: Workflow,
        *,
        vary: Vary = (),
        zipped: Sequence[str] = (),
        rows: Rows | None = None,
        repeat: int | None = None,
        sample: int | None = None,
        sample_seed: int | None = None,
        inputs: Sequence[Path | str] | Path | str = (),
        options: BatchOptions | None = None,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> SyncBatch:
        """See `Client.batch`."""
        loop = self._opened()
        making = self._client.batch(
            workflow,
            vary=vary,
            zipped=zipped,
            rows=rows,
            repeat=repeat,
            sample=sample,
            sample_seed=sample_seed,
            inputs=inputs,
            options=options,
            changes=changes,
            **words,
        )
        return SyncBatch(loop.run(making), loop)

    def open_batch(self, batch: str) -> SyncBatch:
        """See `Client.open_batch`."""
        loop = self._opened()
        return SyncBatch(loop.run(self._client.open_batch(batch)), loop)

    def call(
        self,
        workflow: CallableWorkflow | Workflow,
        inputs: Mapping[str, object],
        *,
        form: ValueForm | None = None,
        on_event: Callable[[Event], object] | None = None,
        timeout: float | None = None,
    ) -> dict[str, DecodedValue]:
        """See `Client.call`. ``on_event`` is called in the client's own thread."""
        return self._opened().run(
            self._client.call(workflow, inputs, form=form, on_event=on_event, timeout=timeout)
        )

    def check(
        self,
        workflow: Workflow,
        *,
        inputs: Sequence[Path | str] | Path | str = (),
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> Report:
        """See `Client.check`."""
        return self._opened().run(
            self._client.check(workflow, inputs=inputs, changes=changes, **words)
        )

    def estimate(
        self,
        workflow: Workflow,
        *,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> RunEstimate:
        """See `Client.estimate`."""
        return self._opened().run(self._client.estimate(workflow, changes=changes, **words))

    def cut(
        self,
        workflow: Workflow,
        nodes: Collection[str] | str = (),
        *,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> Cut:
        """See `Client.cut`."""
        return self._opened().run(self._client.cut(workflow, nodes, changes=changes, **words))

    def resume(self, job: str, *, timeout: float | None = None) -> SyncJob:
        """See `Client.resume`."""
        loop = self._opened()
        return SyncJob(loop.run(self._client.resume(job, timeout=timeout)), loop)

    def attach(
        self, remote_id: str, *, folder: Path | None = None, timeout: float | None = None
    ) -> SyncJob:
        """See `Client.attach`."""
        loop = self._opened()
        attaching = self._client.attach(remote_id, folder=folder, timeout=timeout)
        return SyncJob(loop.run(attaching), loop)


class SyncJob:
    """`Job` without ``await``. Iterate over it for its events, then call `outputs`.

    Attributes:
        id: A lower-case UUID.
    """

    def __init__(self, job: Job, loop: _LoopThread) -> None:
        self.id = job.id
        self._job = job
        self._loop = loop

    def __repr__(self) -> str:
        return f"Sync{self._job!r}"

    def __iter__(self) -> Iterator[EventOf[SyncJobOutput]]:
        """See `Job.__aiter__`."""
        with closing(self._loop.iterate(self._job.__aiter__())) as events:
            for event in events:
                if isinstance(event, OutputReady):
                    yield OutputReady(SyncJobOutput.of(event.output, self._loop))
                else:
                    yield event

    @property
    def state(self) -> JobState:
        """The last state that was seen."""
        return self._job.state

    @property
    def finished(self) -> Finished | None:
        """The last event, once the job has ended."""
        return self._job.finished

    @property
    def did_it_run(self) -> DidItRun | None:
        """See `Job.did_it_run`."""
        return self._job.did_it_run

    @property
    def problems(self) -> list[OutputProblem]:
        """See `Job.problems`."""
        return self._job.problems

    def wait(self) -> Finished:
        """Follow the job to its end."""
        return self._loop.run(self._job.wait())

    def outputs(self, *, even_if_failed: bool = False) -> list[Output]:
        """See `Job.outputs`."""
        return self._loop.run(self._job.outputs(even_if_failed=even_if_failed))

    def output(self, output: RemoteOutput) -> Output:
        """See `Job.output`."""
        return self._loop.run(self._job.output(output))

    def save_outputs(
        self, folder: Path | str, *, even_if_failed: bool = False
    ) -> list[SavedOutput]:
        """See `Job.save_outputs`."""
        return self._loop.run(self._job.save_outputs(Path(folder), even_if_failed=even_if_failed))

    def cancel(self) -> None:
        """Ask the target to stop it. Follow the job to see how it ends."""
        self._loop.run(self._job.cancel())


class SyncBatch:
    """`Batch` without ``await``. Iterate over it, or call `run`, to have it run.

    Attributes:
        id, name, folder: As a `Batch` has them.
    """

    def __init__(self, batch: Batch, loop: _LoopThread) -> None:
        self.id = batch.id
        self.name = batch.name
        self.folder = batch.folder
        self._batch = batch
        self._loop = loop

    def __repr__(self) -> str:
        return f"Sync{self._batch!r}"

    def __iter__(self) -> Iterator[BatchEvent]:
        """See `Batch.__aiter__`."""
        return self._loop.iterate(self._batch.__aiter__())

    def run(self) -> BatchEntry:
        """See `Batch.run`."""
        return self._loop.run(self._batch.run())

    def entry(self) -> BatchEntry:
        """See `Batch.entry`."""
        return self._loop.run(self._batch.entry())

    def lines(self) -> list[RunLine]:
        """See `Batch.lines`."""
        return self._loop.run(self._batch.lines())

    def pause(self) -> None:
        """See `Batch.pause`."""
        self._loop.run(self._batch.pause())

    def cancel(self) -> None:
        """See `Batch.cancel`."""
        self._loop.run(self._batch.cancel())

    def retry(self) -> int:
        """See `Batch.retry`."""
        return self._loop.run(self._batch.retry())

    def remove(self) -> None:
        """See `Batch.remove`."""
        self._loop.run(self._batch.remove())


class SyncJobOutput(RemoteOutput):
    """`JobOutput` without ``await``, as an `OutputReady` of a `SyncJob` has it."""

    __slots__ = ("_loop", "_output")

    _loop: _LoopThread
    _output: JobOutput

    @classmethod
    def of(cls, output: JobOutput, loop: _LoopThread) -> Self:
        """The same output, for other threads than the job's."""
        made = cls(*(getattr(output, one.name) for one in fields(RemoteOutput)))
        object.__setattr__(made, "_loop", loop)
        object.__setattr__(made, "_output", output)
        return made

    def fetch(self) -> Output:
        """See `JobOutput.fetch`."""
        return self._loop.run(self._output.fetch())

    def save(self, folder: Path | str) -> Path:
        """See `JobOutput.save`."""
        return self._loop.run(self._output.save(folder))


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="comfy-remote", daemon=True
        )
        self._thread.start()
        self._background = Background()
        self._cancels = _cancels_seen()

    @property
    def alive(self) -> bool:
        """Whether work that it is given is done; a daemon's is not once the program ends."""
        return self._thread.is_alive() and not sys.is_finalizing()

    def _wait_for(self, running: Future[_T]) -> None:
        """Wait, and let signals in: on Windows, a lock without a timeout would keep Ctrl-C out.

        Raises:
            RuntimeError: The client was closed meanwhile.
            KeyboardInterrupt: It was pressed. Under `asyncio.run`, it cancels the main task
                instead of raising, and that waits for us here.
        """
        ended = False
        while not ended:
            if (cancels := _cancels_seen()) > self._cancels:
                self._cancels = cancels
                raise KeyboardInterrupt
            ended = bool(wait({running}, timeout=_LOOK_EVERY).done)
            if not (ended or self.alive):
                raise RuntimeError("the client is closed: use its jobs inside `with`")

    def run(self, work: Coroutine[object, object, _T]) -> _T:
        """What ``work`` gives. An interruption here is one there, and is waited for.

        Raises:
            RuntimeError: The client is closed, or this is its own thread.
        """
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed: use its jobs inside `with`")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the client waits for this thread: use it in another")
        begun: Future[asyncio.Task[_T] | None] = Future()

        async def whole() -> _T:
            begun.set_result(asyncio.current_task())
            return await work

        running = asyncio.run_coroutine_threadsafe(whole(), self._loop)
        try:
            self._wait_for(running)
        except BaseException:
            if self.alive and not running.done():
                task = begun.result()
                if task is not None:
                    self._loop.call_soon_threadsafe(task.cancel)
                wait({running})
            raise
        return running.result()

    def iterate(self, items: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
        """Its items; it is closed with the iterator."""

        async def next_item() -> list[_T]:
            try:
                return [await items.__anext__()]
            except StopAsyncIteration:
                return []

        try:
            while found := self.run(next_item()):
                yield found[0]
        finally:
            # An iterator that nobody holds any more may be closed anywhere: at the program's end,
            # and by the garbage collector in the loop's own thread.
            if threading.current_thread() is self._thread:
                self._background.start(items.aclose())
            elif self.alive:
                self.run(items.aclose())

    def close(self) -> None:
        """End the thread, when what still runs there has been cancelled."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _cancels_seen() -> int:
    """How often the task that runs here, if there is one, has been asked to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    # New in Python 3.11, with what counts on it: see `_LoopThread._wait_for`.
    cancelling: Callable[[], int] = getattr(task, "cancelling", int)
    return cancelling()
