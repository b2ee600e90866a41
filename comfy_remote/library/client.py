"""The client that programs use: jobs, and what can be asked about a workflow before it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..config.settings import Configuration
from ..errors import ComfyRemoteError, ConfigurationError
from ..events import Event
from ..jobs import client as jobs
from ..jobs.estimate import RunEstimate, estimate_on
from ..jobs.interruption import call_off
from ..jobs.job import Job
from ..jobs.output import Output
from ..jobs.submission import Workflow, opened, read
from ..workflow.change.prepare import Changes, ChangeWords
from ..workflow.files import FileSearch

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..batch.draft import BatchOptions
    from ..batch.plan import Rows, Vary
    from ..calls.values import ValueForm
    from ..calls.workflow import CallableWorkflow
    from ..config.cache_settings import CacheMode
    from ..media.values import DecodedValue
    from ..workflow.check import Report
    from ..workflow.cut import Cut
    from ..workflow.load import LoadedWorkflow
    from .batch import Batch

__all__ = ["Client", "RowResult"]


@dataclass(frozen=True, slots=True)
class RowResult:
    """How one of many runs went.

    Attributes:
        index: Of its row, from 0.
        row: The changes that it ran with.
        job: ``None`` if it was not sent.
        outputs: What it made; of a run that failed, none.
        error: Why it failed; ``None`` if it did not.
    """

    index: int
    row: ChangeWords
    job: Job | None = field(default=None, repr=False)
    outputs: Sequence[Output] = ()
    error: ComfyRemoteError | None = None


class Client(jobs.Client):
    __doc__ = jobs.Client.__doc__

    _rows: set[asyncio.Task[RowResult]]

    async def __aenter__(self) -> Self:
        self._rows = set()
        return await super().__aenter__()

    async def run(
        self,
        workflow: Workflow,
        *,
        inputs: Sequence[Path | str] | Path | str = (),
        timeout: float | None = None,
        on_event: Callable[[Event], object] | None = None,
        retry_lost: bool = True,
        cache: CacheMode | None = None,
        cap: float | None = None,
        over_cap: bool = False,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> list[Output]:
        """Submit a workflow, follow it, and bring what it made.

        Args:
            workflow: As for `submit`, like the rest.
            on_event: Called with each event.

        Raises:
            ComfyRemoteError: Whatever went wrong.
        """
        job = await self.submit(
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
        try:
            async for event in job:
                if on_event is not None:
                    on_event(event)
            return await job.outputs()
        except BaseException as error:
            await self.interrupted(job, error)
            raise

    async def map(
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
    ) -> AsyncGenerator[RowResult, None]:
        """Run a workflow many times with other changes, and give each result as it comes.

        A run that fails is a result with an ``error``; the others go on. Closed early, or
        interrupted, the runs that have not ended are cancelled.

        Args:
            workflow: As for `submit`; it is read once.
            rows: The changes of each run: ``({"seed": n} for n in range(100))``. Taken one by one.
            at_most: How many runs at a time.
            inputs: As for `submit`.
            timeout: Seconds for each run.
            on_event: Called with the index of the row, and the event.
            retry_lost: As for `submit`.
            changes: What to change in all of them.

        Raises:
            WorkflowInvalid: The workflow cannot be read.
        """
        if at_most < 1:
            raise ValueError("at_most is at least 1")
        waiting = enumerate(rows)
        first = next(waiting, None)
        if first is None:
            return
        loaded = await asyncio.to_thread(read, workflow, Changes.of(first[1], changes))
        is_file = isinstance(workflow, str | Path)
        base = Path(workflow).absolute().parent if is_file else None  # type: ignore[arg-type]
        # A file with variables of its own is read for each row.
        given = workflow if loaded.variables else loaded
        schemas = (await self.schemas_for(loaded)).schemas

        async def one(index: int, row: ChangeWords) -> RowResult:
            job = None
            try:
                job = await self.submit(
                    given,
                    inputs=inputs,
                    base=base,
                    schemas=schemas,
                    timeout=timeout,
                    retry_lost=retry_lost,
                    changes=changes,
                    **row,
                )
                async for event in job:
                    if on_event is not None:
                        on_event(index, event)
                return RowResult(index, row, job, await job.outputs())
            except ComfyRemoteError as error:
                return RowResult(index, row, job, error=error)
            except BaseException:
                if job is not None and self.on_interrupt == "cancel":
                    await call_off(job, self.patience)
                raise

        upcoming = chain([first], waiting)
        running: set[asyncio.Task[RowResult]] = set()
        try:
            while True:
                for index, row in islice(upcoming, at_most - len(running)):
                    running.add(asyncio.create_task(one(index, row)))
                self._rows |= running
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                self._rows -= done
                for task in done:
                    yield task.result()
        finally:
            await self._stop(running)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._stop(set(self._rows))  # of a `map` that nobody reads any more
        finally:
            await super().__aexit__(kind, error, traceback)

    async def _stop(self, rows: set[asyncio.Task[RowResult]]) -> None:
        self._rows -= rows
        for task in rows:
            task.cancel()
        await asyncio.gather(*rows, return_exceptions=True)

    async def batch(
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
    ) -> Batch:
        """Make a batch: many runs that last, whatever happens to this program. Nothing is sent yet.

        Unlike `map`, whose runs end with the program, and are not on the disk.

        Args:
            workflow: As for `submit`.
            vary: What varies: ``{"KSampler.seed": "1..8", "prompt": ["a cat", "a dog"]}``.
            zipped, rows, repeat, sample, sample_seed: See `Variation`.
            inputs: As for `submit`, like ``changes`` and ``words``, which hold for all runs.
            options: How it is run.

        Raises:
            WorkflowInvalid: The workflow cannot be read or converted, or something does not fit it.
            ConfigurationError: What varies, or an option, cannot be read.
            InputFileMissing: A file is not here.
        """
        from ..batch.draft import BatchOptions, draft
        from ..batch.plan import Variation
        from ..batch.store import make
        from .batch import Batch

        drafted = await draft(
            self,
            workflow,
            Variation(vary, zipped, rows, repeat, sample, sample_seed),
            target=self.named,
            changes=Changes.of(words, changes),
            inputs=inputs,
            options=options or BatchOptions(),
            config=None if self.config is None else Path(self.config),
        )
        return Batch(self, await make(drafted, self))

    async def open_batch(self, batch: str) -> Batch:
        """A batch that was made before, by its name, its id or the beginning of that.

        It runs on this client's target.

        Raises:
            JobNotFound: There is none.
        """
        from .batch import Batch

        return Batch(self, await self.record.read(self.record.batches.get, batch))

    async def call(
        self,
        workflow: CallableWorkflow | Workflow,
        inputs: Mapping[str, object],
        *,
        form: ValueForm | None = None,
        on_event: Callable[[Event], object] | None = None,
        timeout: float | None = None,
    ) -> dict[str, DecodedValue]:
        """Call a workflow with Remote Input and Remote Output nodes like a function.

        Args:
            workflow: As for `submit`.
            inputs: Values by key: numbers, texts, NumPy's and PyTorch's tensors, and lists, tuples
                and dicts of them.
            form: How values travel, and what the results become.
            on_event: Called with each event.
            timeout: As for `submit`.

        Returns:
            By key; the ``value`` of each is a list, mostly of one.

        Raises:
            ComfyRemoteError: Whatever went wrong.
        """
        from ..calls.target import call
        from ..calls.values import ValueForm
        from ..calls.workflow import CallableWorkflow

        if not isinstance(workflow, CallableWorkflow):
            loaded = await asyncio.to_thread(read, workflow, Changes())
            is_file = isinstance(workflow, str | Path)
            base = Path(workflow).absolute().parent if is_file else Path.cwd()  # type: ignore[arg-type]
            workflow = await CallableWorkflow.of(loaded, self, name=loaded.source, base=base)
        return await call(
            self, workflow, inputs, form=form or ValueForm(), on_event=on_event, timeout=timeout
        )

    async def check(
        self,
        workflow: Workflow,
        *,
        inputs: Sequence[Path | str] | Path | str = (),
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> Report:
        """Whether a workflow would run on the target, and what it could cost less. Sends nothing.

        Args:
            workflow: As for `submit`, like the rest.

        Raises:
            WorkflowInvalid: It cannot be read or converted at all.
            TargetError: The target cannot be asked.
        """
        from ..jobs.forecast import ask_target, report_on

        whole = Changes.of(words, changes)
        loaded, search = await self._read(workflow, whole, inputs)
        given = await self.given_schemas()
        folder = self.record.path.parent
        known = await ask_target(self.target, self.address, loaded, whole, search, given, folder)
        return await asyncio.to_thread(report_on, known, search)

    async def estimate(
        self,
        workflow: Workflow,
        *,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> RunEstimate:
        """About how long a run takes and what it costs, by past runs of the same workflow.

        Args:
            workflow: As for `submit`, like the rest. Its files need not be here.

        Raises:
            WorkflowInvalid: It cannot be read or converted.
            TargetError: The target cannot be asked.
        """
        from ..workflow.change.prepare import prepare

        whole = Changes.of(words, changes)
        loaded, _ = await self._read(workflow, whole, ())
        found = await self.schemas_for(loaded) if whole or loaded.prompt is None else None
        prompt = prepare(loaded, whole, None if found is None else found.schemas).prompt
        configuration = await asyncio.to_thread(Configuration.load, file=self.config)
        return await estimate_on(
            *(self.target, self.record, prompt, configuration), background=self.background
        )

    async def cut(
        self,
        workflow: Workflow,
        nodes: Collection[str] | str = (),
        *,
        changes: Changes | None = None,
        **words: Unpack[ChangeWords],
    ) -> Cut:
        """What would run where if some nodes of a workflow ran on the target. Runs nothing.

        Args:
            workflow: As for `submit`.
            nodes: Id, title or class of the node that would run there, or of several; those that
                the workflow marks by default.

        Raises:
            WorkflowInvalid: It cannot be read or converted, or cannot be cut so.
            ConfigurationError: No node is named or marked.
        """
        from ..jobs.forecast import cut_for, prepared_for_check

        nodes = [nodes] if isinstance(nodes, str) else nodes
        whole = Changes.of(words, changes)
        loaded, search = await self._read(workflow, whole, ())
        there = (await self.schemas_for(loaded)).schemas
        prompt = prepared_for_check(loaded, whole, there).prompt
        cut = await asyncio.to_thread(
            cut_for, loaded, prompt, there, search, nodes=nodes, target=self.target.name
        )
        if cut is None:
            raise ConfigurationError(
                "No node of the workflow is marked to run elsewhere.",
                advice="Name some, or mark them in ComfyUI's page.",
            )
        return cut

    async def _read(
        self,
        workflow: Workflow,
        changes: Changes,
        inputs: Sequence[Path | str] | Path | str | Path | str,
    ) -> tuple[LoadedWorkflow, FileSearch]:
        workflow = await asyncio.to_thread(opened, workflow)
        loaded = await asyncio.to_thread(read, workflow, changes)
        base = Path(workflow).absolute().parent if isinstance(workflow, str | Path) else None
        return loaded, FileSearch.beside(base, inputs)
