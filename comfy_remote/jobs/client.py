"""Submitting prompts, and resuming jobs.

The one way in: the command line, the page and the nodes all start jobs through `Client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..advice import Hint
from ..aio import Background, Deadline
from ..clean import clean
from ..config.settings import Configuration
from ..errors import (
    ConfigurationError,
    JobCancelled,
    JobNotFound,
    JobTimedOut,
    OutputLost,
    SpendingCap,
)
from ..events import DidItRun, JobState
from ..media.temporary import remove_leftovers
from ..schedule.money import Allowance
from ..targets.base import (
    InputFile,
    KeepsJournal,
    Recalls,
    RemoteRef,
    RunRequest,
    Target,
    server_of,
)
from ..targets.kinds import Can, kinds
from ..targets.opening import open_target, reopen
from ..types import JsonValue
from ..workflow.change.prepare import Changes, ChangeWords
from ..workflow.files import FileSearch
from ..workflow.load import LoadedWorkflow
from ..workflow.models import find_models
from ..workflow.prompt import Prompt, check_texts
from ..workflow.repo_list import find_repo_list, without_repo_list
from ..workflow.schema import Schemas
from .billed import billed
from .interruption import PATIENCE, OnInterrupt, Patience, end_jobs, is_interruption, started
from .job import Job
from .record import JobEntry, Record
from .recorded_request import request_from_json, request_to_json
from .sent_inputs import SentInputs, check_unchanged
from .submission import Submission, Workflow, not_recorded, opened, prepared, read, send

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..config.cache_settings import CacheMode
    from ..schemas.finding import Found
    from .cache.asking import Answers
    from .cache.keeping import Keeper
    from .cache.results import CacheAnswer, ResultCache
    from .charges import Allowed
    from .route_journal import RouteJournal

__all__ = ["Client", "attach", "new_job_id", "not_in_time", "resume"]

_log = logging.getLogger(__name__)

_LATELY = 1.0
"""Seconds for which what a target said of itself serves the next run of a batch."""


class PrepareWords(ChangeWords, total=False):
    """The keywords of `Client.prepare` that `Client.submit` passes on."""

    changes: Changes | None
    base: Path | None
    schemas: Schemas | None
    value_files: Sequence[InputFile]
    only_base: bool


class Client:
    """A connection to one target, and the record of what was sent there.

    Used as an asynchronous context manager::

        async with Client("runpod:abc123") as client:
            job = await client.submit("workflow.json")
            async for event in job:
                ...
            outputs = await job.outputs()

    Left by an error that is not one of `comfy_remote.errors` (Ctrl-C, a cancelled task, a timeout
    around it, the program's own exception), it cancels the jobs it has submitted and that have not
    ended, or leaves them to the target; the log says which.

    Args:
        target: A name from ``comfy-remote.toml``, ``runpod:ENDPOINT``, a ComfyUI URL,
            ``sandbox``, or a `Target`. ``None`` takes the configured default, else the
            sandbox.
        record: Where jobs are recorded; the user's own record by default.
        config: A ``comfy-remote.toml`` to take names from, whatever the current folder has.
        configured: Reads the configuration that says what a job may cost, before each one;
            by default, that of ``config`` and the current folder.
        schemas: Node schemas to read workflows in UI format by, instead of the target's: the
            address of a ComfyUI, or a file saved from its ``/object_info``.
        on_interrupt: ``"cancel"`` or ``"leave"``, as said above; ``None`` for callers that handle
            it themselves.
        patience: How long it waits when it is interrupted.

    Attributes:
        configured: As it was given, or made of ``config``.
        named: The name or address of its target; ``None`` if it was given a `Target`.
        background: What goes on beside its jobs, and ends with it.

    Raises:
        ConfigurationError: The target is unknown, or its key is missing.
        NotTrusted: The target is named by a ``comfy-remote.toml`` in the current folder or above
            it, and the owner has not trusted that; ``config`` names the file instead.
        ValueError: ``on_interrupt`` is neither of the two.
    """

    def __init__(
        self,
        target: str | Target | None = None,
        *,
        record: Record | None = None,
        config: Path | str | None = None,
        configured: Callable[[], Configuration] | None = None,
        schemas: Schemas | Path | str | None = None,
        on_interrupt: OnInterrupt | None = "cancel",
        patience: Patience = PATIENCE,
    ) -> None:
        if on_interrupt not in ("cancel", "leave", None):
            raise ValueError(f"on_interrupt is 'cancel' or 'leave', not {on_interrupt!r}")
        address = None
        self.named: str | None = None
        if target is None or isinstance(target, str):
            configuration = Configuration.load(file=config)
            chosen = configuration.choose(target)
            address = configuration.address_of(chosen)
            target = open_target(chosen, configuration)
            self.named = chosen
        self.target = target
        self.address = address or target.name
        self._given = schemas
        self.config = config
        self.configured = configured or partial(Configuration.load, file=config)
        self.patience = patience
        self._own_record = record is None
        self._record = record
        self.on_interrupt = on_interrupt
        self._jobs: list[Job] = []
        self._tidying: asyncio.Future[list[Path]] | None = None
        self._journal: RouteJournal | None = None
        self._answers: Answers | None = None
        self.background = Background()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target.name!r})"

    @property
    def record(self) -> Record:
        """Where its jobs are recorded; there once the client is open."""
        if self._record is None:
            raise RuntimeError("the client is not open: use it in `async with`")
        return self._record

    async def __aenter__(self) -> Self:
        if self._own_record:
            self._record = await asyncio.to_thread(Record)
        if isinstance(self.target, KeepsJournal):
            from .route_journal import RouteJournal  # here: most targets are no route

            self._journal = RouteJournal(self.record, self.configured, self.background)
            self.target.use_journal(self._journal)
        self._tidying = asyncio.ensure_future(asyncio.to_thread(remove_leftovers))
        try:
            self.target = await self.target.__aenter__()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.on_interrupt is not None and is_interruption(error):
                await end_jobs(self._jobs, self.target.name, self.on_interrupt, self.patience)
        finally:
            try:
                await self.background.stop()
                await self.target.__aexit__(kind, error, traceback)
            finally:
                await self._close()

    def leaving_jobs(self) -> Self:
        """This client, open as long as it is, whose jobs go on when it is left by an error."""
        other = copy.copy(self)
        other.on_interrupt = None
        return other

    async def schemas(self, prompt: Prompt | None = None) -> Schemas:
        """The node schemas that were given, else the target's.

        If it cannot be asked: what it last reported, else the bundled ones.

        Args:
            prompt: Asks for the schemas of its nodes only, which is much quicker.

        Raises:
            ConfigurationError: What was given has none.
            TargetError: The target cannot be reached or used.
        """
        return (await self._found(prompt)).schemas

    async def schemas_for(self, loaded: LoadedWorkflow) -> Found:
        """As `schemas`, for a workflow, with what the Comfy Registry knows of classes it needs."""
        from ..schemas.finding import from_registry  # as below: a prompt in API format needs none

        return await from_registry(
            await self._found(loaded.prompt), loaded, folder=self.record.path.parent
        )

    async def _found(self, prompt: Prompt | None) -> Found:
        from ..schemas.finding import Found, given_schemas, target_schemas

        if isinstance(self._given, str | Path):
            self._given = await given_schemas(self._given)
        if self._given is not None:
            return Found(self._given)
        classes = None if prompt is None else {node["class_type"] for node in prompt.values()}
        return await target_schemas(
            self.target, self.address, classes, folder=self.record.path.parent
        )

    def use_schemas(self, schemas: Schemas) -> None:
        """Read workflows by these from now on, and ask the target for none."""
        self._given = schemas

    async def given_schemas(self) -> Schemas | None:
        """The node schemas that the client was made with; ``None`` if it asks its target."""
        return None if self._given is None else await self.schemas()

    async def prepare(
        self,
        workflow: Workflow,
        *,
        changes: Changes | None = None,
        inputs: Sequence[Path | str] | Path | str = (),
        source: str | None = None,
        base: Path | None = None,
        schemas: Schemas | None = None,
        value_files: Sequence[InputFile] = (),
        only_base: bool = False,
        **words: Unpack[ChangeWords],
    ) -> Submission:
        """What `submit` would send: the workflow converted and changed, and its files.

        Args:
            workflow: The path of a file that `load_workflow` reads (JSON, a picture that ComfyUI
                saved, and so on), or a dictionary in API or UI format.
            changes: What to change in it.
            inputs: Files that the prompt's Load nodes name, from anywhere; matched by their
                file names. Files below the workflow's folder or the current one (or below an
                ``input`` folder there) are found without. No others are taken: neither hidden
                ones, nor what a workflow names with ``..``, an absolute path, or a link that
                leads out of these folders.
            source: A word for where the prompt came from, for the record.
            base: Folder in which to look for files first; the workflow file's own, or the
                current one, by default.
            schemas: To convert it by, instead of the client's.
            value_files: Files that the prompt's Remote Input nodes name, under those names.
            only_base: Take no file but those below ``base`` and the ones in ``inputs``: for a
                prompt that somebody else may have written, who could name any file of this
                machine.
            words: Changes as keywords, beside ``changes``: see `ChangeWords`.

        Raises:
            WorkflowInvalid: It cannot be read or converted, or a change does not fit.
            InputFileMissing: A file is neither here nor there, or is not taken from where it is.
            TargetError: The target cannot be reached or used.
        """
        whole = Changes.of(words, changes)
        if isinstance(workflow, str | Path):
            workflow = await asyncio.to_thread(opened, workflow)
            loaded = await asyncio.to_thread(read, workflow, whole, source)
        else:
            loaded = read(workflow, whole, source)
        if base is None and isinstance(workflow, str | Path):
            base = Path(workflow).absolute().parent
        search = FileSearch.beside(base, inputs)
        if only_base:
            search = FileSearch(search.given, search.roots[:1], may_name=False)

        async def schemas_for(loaded: LoadedWorkflow) -> Found:
            from ..schemas.finding import Found

            return await self.schemas_for(loaded) if schemas is None else Found(schemas)

        return await prepared(
            loaded,
            whole,
            self.target,
            search,
            schemas_for=schemas_for,
            schemas_of=self.schemas,
            value_files=value_files,
        )

    async def submit(
        self,
        workflow: Workflow | Submission,
        *,
        folder: Path | None = None,
        embed: Mapping[str, JsonValue] | None = None,
        repo_list: str | None = None,
        timeout: float | None = None,
        begun: float | None = None,
        job_id: str | None = None,
        retry_lost: bool = True,
        followed: bool = True,
        of_batch: str | None = None,
        cache: CacheMode | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        cap: float | None = None,
        over_cap: bool = False,
        ends_after: float | None = None,
        inputs: Sequence[Path | str] | Path | str = (),
        source: str | None = None,
        **words: Unpack[PrepareWords],
    ) -> Job:
        """Record a job, send its files and its prompt.

        With ``cache="use"``, a job whose result is stored is not sent: it has succeeded at once.

        Args:
            workflow: As for `prepare`, or what that gave.
            folder: Where the outputs are wanted; recorded, so that a resumed job finds it.
            embed: UI-format workflow to embed in saved images; that of the file, if it has
                one, by default.
            repo_list: The models that the worker is to have, a ``kind URL`` a line; by default
                what the workflow lists, ``""`` for none.
            timeout: Seconds from now within which the job must end and its outputs must be here;
                submitting or following it, or fetching, raises `JobTimedOut` after that. The job
                itself continues.
            begun: When ``timeout`` began to run, by `time.monotonic`; now by default.
            job_id: A lower-case UUID, for callers who must know it if this raises.
            retry_lost: Whether a gateway of ours may start the job once more if its worker is
                proven dead. It never does if nodes cost money elsewhere (API nodes).
            followed: Whether somebody is there to send a file that the target is thought to have,
                and no longer has. Else all files are sent.
            of_batch: The id of the batch that it belongs to.
            cache: ``"use"`` to take a stored result and to store a new one, ``"refresh"`` only to
                store it, ``"off"`` for neither; as the owner's configuration says by default.
            on_sent: Called while files are being sent by themselves, with the number of bytes that
                are there, and of all.
            cap: The most that it may cost, in US dollars, beside the caps that are configured; of
                a run of a batch, the most that all of its runs may cost together.
            over_cap: Whether it may cost more than any cap allows.
            ends_after: Seconds after which the caller will stop the job, if it does that: then no
                more has to be reserved.
            inputs: As for `prepare`, like the rest.

        Raises:
            SpendingCap: It might cost more than a cap allows. Nothing was sent.
            WorkflowInvalid: As `prepare`; or the target refuses the prompt.
            InputFileMissing: As `prepare`.
            TargetError: The target cannot be reached or used.
            SubmissionUnknown: The target may or may not have the job; it is not sent again.
            JobTimedOut: The target did not answer in time; it may have the job.
        """
        deadline = Deadline(timeout, begun)
        if not isinstance(workflow, Submission):
            preparing = self.prepare(workflow, inputs=inputs, source=source, **words)
            try:
                ready = await deadline.within(preparing)
            except asyncio.TimeoutError:
                raise not_in_time(self.target.name, deadline) from None
            for note in ready.notes:
                _log.info("%s", note)
            for doubt in ready.doubts:
                _log.warning("%s", doubt.sentence)
            for path in ready.unused:
                _log.warning("%s was not sent: no Load node names %r.", path, path.name)
            if not isinstance(workflow, str | Path | LoadedWorkflow):
                ready = replace(ready, source=source or "library")
        else:
            ready = workflow
        request = RunRequest(
            job_id or new_job_id(),
            ready.prompt,
            ready.files,
            embed or ready.workflow,
            repo_list=repo_list,
            retry_lost=retry_lost and not ready.paid,
            batch=of_batch,
            on_sent=on_sent,
        )
        return await self.send(
            request,
            source=source or ready.source,
            folder=folder,
            followed=followed,
            cache=cache,
            timeout=timeout,
            begun=deadline.begun,
            allowance=Allowance(cap, over_cap, ends_after),
        )

    async def send(
        self,
        request: RunRequest,
        *,
        source: str,
        folder: Path | None = None,
        page: Mapping[str, JsonValue] | None = None,
        again: str | None = None,
        followed: bool = True,
        cache: CacheMode | None = "off",
        timeout: float | None = None,
        begun: float | None = None,
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
    ) -> Job:
        """Record a request that is complete, and submit it.

        Args:
            request: The prompt in API format, and the files it loads. Its ``repo_list`` and
                ``models`` are taken from the workflow, unless they are given; the node that
                only holds the list is not sent. Files that the target has from earlier jobs are
                named by their SHA-256 alone.
            source: As for `prepare`.
            folder: As for `submit`.
            page: See `Record.add`; ``again``, too.
            followed: As for `submit`, like ``cache``, ``timeout`` and ``begun``.
            allowance: What may be spent on it.

        Raises:
            ComfyRemoteError: As `submit`.
        """
        deadline = Deadline(timeout, begun)
        record, target = self.record, self.target
        request = await self.completed(request, followed=followed)
        configuration = await asyncio.to_thread(self.configured)
        keeper = None
        cache = cache or configuration.cache.mode
        if cache != "off":
            results = self._results(configuration)
            found = await self._cached(request, results, cache, source, folder, page)
            if isinstance(found, Job):
                return found  # it costs nothing
            keeper = found
        allowed = await self._allowed(request, configuration, allowance)
        try:
            await record.write(
                record.add,
                request.job_id,
                target=target.name,
                source=clean(source),  # a file's name need not be UTF-8
                folder=folder.absolute() if folder else None,
                prompt=request.prompt,
                page=page,
                request=request_to_json(request, whole=True) if request.known_inputs else None,
                sent=request_to_json(request, whole=False),
                batch=request.batch,
                again=again,
                charge=None if allowed is None else allowed.charge,
                caps=() if allowed is None else allowed.caps,
                allowance=allowance,
            )
        except asyncio.CancelledError:
            stopped = JobCancelled("The job was cancelled before it was sent.")
            DidItRun.NEVER_ACCEPTED.noted_in(stopped)
            record.post(not_recorded, record.state, request.job_id, JobState.CANCELLED, stopped)
            raise
        _log.debug(
            "Job %s to %s: %d nodes, %d files (%d bytes, %d of them there), %d models named.",
            request.job_id,
            target.name,
            len(request.prompt),
            len(request.files),
            sum(file.size for file in request.files),
            sum(file.size for file in request.files if file.sha256 in request.known_inputs),
            len(request.models),
        )

        async def undo(ref: RemoteRef) -> None:
            job = Job(target, record, ref, request.prompt)
            await end_jobs([job], target.name, "cancel", self.patience)

        sending = send(target, record, request, deadline)
        if self.on_interrupt == "cancel":
            ref = await started(sending, undo, self.patience)
        else:
            ref = await sending
        return self._followed(ref, request.prompt, deadline, allowed=allowed, keeper=keeper)

    async def refused_by_cap(
        self, request: RunRequest, *, cap: float | None = None
    ) -> SpendingCap | None:
        """Why a request would not be sent now: a cap on spending. ``None`` if none forbids it.

        Of a route, only its members know, when one is chosen: ``None``.

        Args:
            cap: As for `submit`.
        """
        configuration = await asyncio.to_thread(self.configured)
        allowed = await self._allowed(request, configuration, Allowance(cap))
        if allowed is None:
            return None
        try:
            await self.record.read(
                lambda: self.record.ledger.check(allowed.charge, allowed.caps, request.batch)
            )
        except SpendingCap as error:
            return error
        return None

    async def _allowed(
        self, request: RunRequest, configuration: Configuration, allowance: Allowance
    ) -> Allowed | None:
        if self._journal is None and billed(self.target, configuration)[1] is None:
            return None
        from .charges import charge_of  # here: most targets cost nothing

        if self._journal is not None:
            # What it may cost is reserved for each member, as it is sent there.
            self._journal.allow(request.job_id, allowance)
            return None
        return await charge_of(
            *(self.target, self.record, request.prompt, configuration, allowance),
            batch=request.batch,
            background=self.background,
        )

    async def _cached(
        self,
        request: RunRequest,
        results: ResultCache,
        cache: CacheMode,
        source: str,
        folder: Path | None,
        page: Mapping[str, JsonValue] | None,
    ) -> Job | Keeper | None:
        """The job, if its result is stored; else what stores the result, where it can be."""
        # The runs of a batch begin by themselves, so nobody has changed anything just before one.
        lately = _LATELY if request.batch is not None else 0.0
        verdict = await results.verdict(request, lately=lately)
        for doubt in verdict.doubts:
            _log.info("Not cached: %s", doubt)
        if not results.may_store(verdict, request):
            return None
        result = await results.find(verdict) if cache == "use" else None
        if result is None:
            return results.keeper(request, clean(source), verdict)
        from .cache.hit import ref_of  # as above

        taken = await results.take(result)
        record, ref = self.record, ref_of(request.job_id, server_of(self.target))
        await record.write(
            record.add,
            request.job_id,
            target=self.target.name,
            source=clean(source),
            folder=folder.absolute() if folder else None,
            prompt=request.prompt,
            page=page,
            sent=request_to_json(request, whole=False),
            batch=request.batch,
            cached=taken.cached,
        )
        record.post(not_recorded, record.submitted, ref)
        return Job(taken, record, ref, request.prompt)

    async def would_hit(self, ready: Submission, *, repo_list: str | None = None) -> CacheAnswer:
        """Whether what `prepare` gave would be taken from the cache, and if not, why.

        Nothing is run or recorded.

        Args:
            repo_list: As for `submit`.
        """
        request = RunRequest(
            new_job_id(), ready.prompt, ready.files, ready.workflow, repo_list=repo_list
        )
        return await (await self.results()).answer(await self.completed(request, followed=False))

    async def results(self) -> ResultCache:
        """The stored results, as far as they can serve this client's target."""
        return self._results(await asyncio.to_thread(self.configured))

    def _results(self, configuration: Configuration) -> ResultCache:
        from .cache.asking import Answers  # here, like the next: most runs use none
        from .cache.results import ResultCache

        self._answers = self._answers or Answers()
        return ResultCache(
            *(self.target, self.record, configuration, self.named), answers=self._answers
        )

    async def completed(self, request: RunRequest, *, followed: bool = True) -> RunRequest:
        """A request as `send` sends it, with what its workflow says of models.

        Args:
            followed: As for `submit`.

        Raises:
            WorkflowInvalid: A text in it cannot be sent.
        """
        check_texts(request.prompt)
        if request.repo_list is None:
            repo_list = find_repo_list(request.prompt, request.workflow)
            request = replace(request, repo_list=repo_list)
        request = replace(request, prompt=without_repo_list(request.prompt))
        if not request.models:
            models = find_models(request.prompt, request.workflow)
            sources = [model.source for model in models if model.source is not None]
            request = replace(request, models=sources)
        sent = SentInputs(self.record, self.target)
        if not (followed and request.files and sent.remembered):
            return request
        return await self.record.read(sent.without_known, request)

    async def interrupted(self, job: Job, error: BaseException) -> None:
        """See to a job that nobody waits for any more, as leaving the client by this error does.

        At once, since the client may stay open for long.
        """
        if self.on_interrupt is not None and is_interruption(error):
            await end_jobs([job], self.target.name, self.on_interrupt, self.patience)
            self._jobs = [other for other in self._jobs if other is not job]

    def _followed(
        self,
        ref: RemoteRef,
        prompt: Prompt,
        deadline: Deadline,
        entry: JobEntry | None = None,
        allowed: Allowed | None = None,
        keeper: Keeper | None = None,
    ) -> Job:
        """The job, remembered for an interruption."""

        async def reserved() -> Allowed | None:
            if entry is None and self._journal is None:
                return allowed
            from .charges import still_allowed

            # In a thread, since the configuration is read.
            return await self.record.read_at_once(
                lambda: still_allowed(self.record, ref.job_id, self.configured)
            )

        job = Job(
            *(self.target, self.record, ref, prompt, deadline),
            entry=entry,
            patience=self.patience,
            reserved=reserved if entry or allowed or self._journal else None,
            keeper=keeper,
        )
        if self.on_interrupt is not None:
            self._jobs = [*(known for known in self._jobs if not known.state.final), job]
        return job

    async def retry(
        self,
        job: JobEntry | str,
        *,
        folder: Path | None = None,
        followed: bool = True,
        timeout: float | None = None,
        begun: float | None = None,
        job_id: str | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        cap: float | None = None,
        over_cap: bool = False,
    ) -> Job:
        """Run a recorded job once more: the same prompt, with the same files.

        It is a further attempt, with an id of its own, on this client's target. The workflow in UI
        format is not recorded, so it is not embedded in saved images.

        Args:
            job: Its id, at least the first four characters of it, or its entry in the record.
            folder: As for `submit`, like the rest; where the first was to put its outputs by
                default.

        Raises:
            JobNotFound: The record has no such job.
            ConfigurationError: It has not ended.
            InputFileMissing: One of its files is no longer there, or has changed.
            ComfyRemoteError: As `submit`.
        """
        entry = await self.record.read(self.record.get, job) if isinstance(job, str) else job
        request = await self.request_again(entry, job_id or new_job_id())
        return await self.send(
            replace(request, on_sent=on_sent),
            source=entry.source,
            folder=folder or entry.folder,
            again=entry.id,
            followed=followed,
            timeout=timeout,
            begun=begun,
            allowance=Allowance(cap, over_cap),
        )

    async def request_again(self, entry: JobEntry, job_id: str) -> RunRequest:
        """What `retry` sends: a recorded job's prompt and files, for a job of another id.

        Raises:
            ConfigurationError: It has not ended.
            InputFileMissing: One of its files is no longer there, or has changed.
        """
        if not entry.state.final:
            raise ConfigurationError(
                f"Job {entry.id} has not ended, as far as is known.",
                advice=Hint.FIND_JOB(job_id=entry.id),
            )
        return await self._recorded(entry, job_id)

    async def _recorded(self, entry: JobEntry, job_id: str) -> RunRequest:
        sent = await self.record.read(self.record.sent, entry.id)
        request = RunRequest(job_id, entry.prompt, repo_list="")
        if sent is not None:
            request = request_from_json(job_id, entry.prompt, sent) or request
        await asyncio.to_thread(check_unchanged, request.files)
        return request

    async def resend(self, entry: JobEntry) -> Job:
        """Send a recorded job that its target never got, as it was recorded and under its own id.

        Whoever calls it has made sure of that (`Target.find`), and that nobody else does.

        Raises:
            InputFileMissing: One of its files is no longer there, or has changed.
            ComfyRemoteError: As `submit`.
        """
        request = await self._recorded(entry, entry.id)
        deadline = Deadline(None)
        ref = await send(self.target, self.record, request, deadline)
        return self._followed(ref, entry.prompt, deadline, entry)

    async def resume(
        self, job: JobEntry | str, *, timeout: float | None = None, begun: float | None = None
    ) -> Job:
        """A job from the record, to be followed again. Nothing is submitted.

        Args:
            job: Of this client's target: its id, at least the first four characters of it, or its
                entry in the record.
            timeout: As for `submit`, like ``begun``.

        Raises:
            JobNotFound: The record has no such job.
            OutputLost: The target never received it.
            SubmissionUnknown: The target cannot say whether it received it.
            ComfyRemoteError: The target refused it; the error is the one recorded then.
        """
        deadline = Deadline(timeout, begun)
        entry = await self.record.read(self.record.get, job) if isinstance(job, str) else job
        if entry.cached is not None:
            from .cache.hit import ref_of, reopened  # here: most jobs are none

            stored = await reopened(self.record, entry)
            return Job(stored, self.record, ref_of(entry.id), entry.prompt, deadline, entry=entry)
        if entry.ref is None and entry.state.final and entry.error is not None:
            raise entry.error
        try:
            ref = entry.ref or await deadline.within(self.target.find(entry.id))
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"{self.target.name} did not say within {deadline} whether it has the job.",
                advice=Hint.FIND_JOB(job_id=entry.id),
                details={"job_id": entry.id},
            ) from None
        if ref is None:
            error = OutputLost(
                f"{self.target.name} never received the job.", advice="Run the workflow again."
            )
            await self.record.write(self.record.state, entry.id, JobState.FAILED, error)
            raise error
        if entry.ref is None:
            await self.record.write(self.record.submitted, ref)
        return self._followed(ref, entry.prompt, deadline, entry)

    async def attach(
        self, remote_id: str, *, folder: Path | None = None, timeout: float | None = None
    ) -> Job:
        """A job that the record does not know, by the target's id: it is recorded and followed.

        Also one that was sent from another machine, or from ComfyUI's own page.

        Args:
            folder: As for `submit`, like ``timeout``.

        Raises:
            JobNotFound: The target does not know it.
            ConfigurationError: Targets of this kind cannot be asked.
        """
        if not isinstance(self.target, Recalls):
            recalling = ", ".join(kind.title for kind in kinds() if Can.RECALL in kind.can)
            raise ConfigurationError(
                f"{self.target.name} cannot be asked about jobs that were not sent from here.",
                advice=f"These can: {recalling}.",
            )
        deadline = Deadline(timeout)
        try:
            recalled = await deadline.within(self.target.recall(remote_id))
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"{self.target.name} did not say within {deadline} whether it has that job.",
                advice=Hint.SLOW_ANSWER(),
            ) from None
        if recalled is None:
            raise JobNotFound(
                f"{self.target.name} has no job {remote_id!r}, neither in its queue nor in its "
                "history.",
                advice="ComfyUI forgets its history when it is restarted. The files may still be "
                "in its output folder.",
            )
        ref, prompt = recalled
        with contextlib.suppress(JobNotFound):  # else it was sent from here, or attached before
            entry = await self.record.read(self.record.get, ref.job_id)
            return await self.resume(entry, timeout=timeout, begun=deadline.begun)
        await self.record.write(
            self.record.add,
            ref.job_id,
            target=self.target.name,
            source=f"prompt {remote_id}",
            folder=folder,
            prompt=prompt,
        )
        await self.record.write(self.record.submitted, ref)
        return self._followed(ref, prompt, deadline)

    async def take_up(
        self, entry: JobEntry, *, timeout: float | None = None, begun: float | None = None
    ) -> Job:
        """The former name of `resume`."""
        _renamed("take_up", "resume")
        return await self.resume(entry, timeout=timeout, begun=begun)

    async def adopt(
        self, remote_id: str, *, folder: Path | None = None, timeout: float | None = None
    ) -> Job:
        """The former name of `attach`."""
        _renamed("adopt", "attach")
        return await self.attach(remote_id, folder=folder, timeout=timeout)

    async def _close(self) -> None:
        if self._tidying is not None:
            await asyncio.wait([self._tidying])
        await self.record.written()
        if self._own_record:
            await asyncio.to_thread(self.record.close)


def new_job_id() -> str:
    """An id for a job: a lower-case UUID."""
    return str(uuid.uuid4())


def not_in_time(target: str, deadline: Deadline) -> JobTimedOut:
    """The error where the target did not answer before anything was sent."""
    return JobTimedOut(
        f"{target} did not answer within {deadline}. Nothing was sent.",
        advice=Hint.SLOW_ANSWER(),
    )


def _renamed(old: str, new: str) -> None:
    warnings.warn(
        f"Client.{old} is called {new} now, and goes with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )


@asynccontextmanager
async def resume(
    job_id: str,
    *,
    target: str | Target | None = None,
    record: Record | None = None,
    timeout: float | None = None,
    config: Path | str | None = None,
    on_interrupt: OnInterrupt | None = "leave",
) -> AsyncIterator[Job]:
    """A job from the record, to be followed again: `Client.resume`, with a client of its own.

    Args:
        job_id: Its id, or at least the first four characters.
        target: Where it is now, if not where it was sent: its address has changed, say.
        record: As for `Client`, like ``config``.
        timeout: As for `Client.submit`.
        on_interrupt: As for `Client`; by default, the job continues.
    """
    begun = time.monotonic()
    opened = record if record is not None else await asyncio.to_thread(Record)
    try:
        entry = await opened.read(opened.get, job_id)
        if entry.cached is not None:
            from .cache.hit import reopened  # here: most jobs are none

            target = await reopened(opened, entry)
        there = reopen(entry.target, entry.ref, config=config) if target is None else target
        async with Client(there, record=opened, config=config, on_interrupt=on_interrupt) as client:
            yield await client.resume(entry, timeout=timeout, begun=begun)
    finally:
        if opened is not record:
            await asyncio.to_thread(opened.close)


@asynccontextmanager
async def attach(
    target: str | Target,
    remote_id: str,
    *,
    record: Record | None = None,
    folder: Path | None = None,
    timeout: float | None = None,
    config: Path | str | None = None,
    on_interrupt: OnInterrupt | None = "leave",
) -> AsyncIterator[Job]:
    """A job that the record does not have: `Client.attach`, with a client of its own.

    Args:
        target: As for `Client`, like ``record`` and ``config``.
        remote_id: The target's id of the job; at a ComfyUI, that of the prompt.
        folder: As for `Client.submit`, like ``timeout``.
        on_interrupt: As for `resume`.
    """
    async with Client(target, record=record, config=config, on_interrupt=on_interrupt) as client:
        yield await client.attach(remote_id, folder=folder, timeout=timeout)
