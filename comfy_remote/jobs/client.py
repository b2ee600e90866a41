"""Submitting prompts, and taking jobs up again.

The one way in: the command line, the page and the nodes all start jobs through `Client`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from ..advice import Hint
from ..aio import Deadline
from ..clean import clean
from ..config.places import home
from ..config.settings import Configuration
from ..errors import (
    ConfigurationError,
    JobNotFound,
    JobTimedOut,
    OutputLost,
)
from ..events import JobState
from ..media.files import sha256_of
from ..media.temporary import remove_leftovers
from ..schemas.finding import Found, from_registry, given_schemas, target_schemas
from ..targets.base import InputFile, Recalls, RemoteRef, RunRequest, Target, input_errors
from ..targets.opening import open_target, reopen
from ..workflow.change.prepare import Changes, PreparedWorkflow, prepare
from ..workflow.files import FileSearch, FileUse, file_uses, missing_file, possible_uses
from ..workflow.load import LoadedWorkflow, load_workflow, parse_workflow
from ..workflow.models import find_models
from ..workflow.prompt import Prompt, check_texts
from ..workflow.repo_list import find_repo_list
from ..workflow.schema import Schemas
from .found_files import FoundFiles
from .interruption import SUBMIT_PATIENCE, OnInterrupt, end_jobs, is_interruption
from .job import Job
from .record import JobEntry, Record
from .sent_inputs import SentInputs, request_to_json
from .submission import submit

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Client", "resume"]

_log = logging.getLogger(__name__)


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
        schemas: Node schemas to read workflows in UI format by, instead of the target's: the
            address of a ComfyUI, or a file saved from its ``/object_info``.
        on_interrupt: ``"cancel"`` or ``"leave"``, as said above; ``None`` for callers that see to
            it themselves.

    Raises:
        ConfigurationError: The target means nothing, or its key is missing.
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
        schemas: Schemas | Path | str | None = None,
        on_interrupt: OnInterrupt | None = "cancel",
    ) -> None:
        if on_interrupt not in ("cancel", "leave", None):
            raise ValueError(f"on_interrupt is 'cancel' or 'leave', not {on_interrupt!r}")
        address = None
        if target is None or isinstance(target, str):
            configuration = Configuration.load(file=config)
            chosen = configuration.choose(target)
            address = configuration.address_of(chosen)
            target = open_target(chosen, configuration)
        self.target = target
        self.address = address or target.name
        self._given = schemas
        self._own_record = record is None
        self._record = record or Record(home())
        self._on_interrupt = on_interrupt
        self._jobs: list[Job] = []

    async def __aenter__(self) -> Client:
        try:
            await asyncio.to_thread(remove_leftovers)
            await self.target.__aenter__()
        except BaseException:
            await self._close_record()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._on_interrupt is not None and is_interruption(error):
                await end_jobs(self._jobs, self.target.name, self._on_interrupt)
        finally:
            try:
                await self.target.__aexit__(kind, error, traceback)
            finally:
                await self._close_record()

    async def schemas(self, prompt: Prompt | None = None) -> Schemas:
        """The node schemas that were given, else the target's.

        Where it cannot say, what it said the last time, or the bundled ones.

        Args:
            prompt: Asks for the schemas of its nodes only, which is much quicker.

        Raises:
            ConfigurationError: There are none in what was given.
            TargetError: The target cannot be reached or used.
        """
        return (await self._found(prompt)).schemas

    async def schemas_for(self, loaded: LoadedWorkflow) -> Found:
        """The same for a workflow, with what the Comfy Registry knows of classes it needs.

        Raises:
            ComfyRemoteError: As `schemas`.
        """
        return await from_registry(
            await self._found(loaded.prompt), loaded, folder=self._record.path.parent
        )

    async def _found(self, prompt: Prompt | None) -> Found:
        if isinstance(self._given, str | Path):
            self._given = await given_schemas(self._given)
        if self._given is not None:
            return Found(self._given)
        classes = None if prompt is None else {node["class_type"] for node in prompt.values()}
        return await target_schemas(
            self.target, self.address, classes, folder=self._record.path.parent
        )

    async def submit(
        self,
        prompt: Prompt | Mapping[str, JsonValue] | Path | str,
        *,
        inputs: Sequence[Path | str] = (),
        folder: Path | None = None,
        workflow: Mapping[str, JsonValue] | None = None,
        source: str | None = None,
        base: Path | None = None,
        timeout: float | None = None,
        job_id: str | None = None,
        value_files: Sequence[InputFile] = (),
        only_base: bool = False,
        begun: float | None = None,
    ) -> Job:
        """Record a job, send its files and its prompt.

        Args:
            prompt: A dictionary in API or UI format; or the path of a file that
                `load_workflow` reads: JSON, a picture that ComfyUI saved, and so on.
            inputs: Files that the prompt's Load nodes name, from anywhere; matched by their
                file names. Files below the workflow's folder or the current one (or below an
                ``input`` folder there) are found without. No others are taken: neither hidden
                ones, nor what a workflow names with ``..``, an absolute path, or a link that
                leads out of these folders.
            folder: Where the outputs are wanted; recorded, so that a resumed job finds it.
            workflow: UI-format workflow to embed in saved images; that of the file, if it has
                one, by default.
            source: A word for where the prompt came from, for the record.
            base: Folder in which to look for files first; the workflow file's own, or the
                current one, by default.
            timeout: Seconds from now within which the job must end and its outputs must be here;
                submitting or following it, or fetching, raises `JobTimedOut` after that. The job
                itself goes on.
            job_id: A lower-case UUID, for callers who must know it if this raises.
            value_files: Files that the prompt's Remote Input nodes name, under those names.
            only_base: Take no file but those below ``base`` and the ones in ``inputs``: for a
                prompt that somebody else may have written, who could name any file of this
                machine.
            begun: When ``timeout`` began to run, by `time.monotonic`; now by default.

        Raises:
            WorkflowInvalid: The prompt is no prompt, cannot be converted, or the target
                refuses it.
            InputFileMissing: A file is neither here nor there, or is not taken from where it is.
            TargetError: The target cannot be reached or used.
            SubmissionUnknown: The target may or may not have the job; it is not sent again.
            JobTimedOut: The target did not answer in time; it may have the job.
        """
        deadline = Deadline(timeout, begun)
        if isinstance(prompt, str | Path):
            source = source or str(prompt)
            base = base or Path(prompt).absolute().parent
            loaded = load_workflow(prompt)
        else:
            loaded = parse_workflow(cast("JsonValue", prompt), source or "The prompt")
        search = FileSearch.beside(base, [Path(path) for path in inputs])
        if only_base:
            search = FileSearch(search.given, search.roots[:1], may_name=False)
        try:
            prepared, files = await deadline.within(self._prepared(loaded, search, value_files))
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"{self.target.name} did not answer within {deadline}. Nothing was sent.",
                advice="Check that it runs and that the address is right, or give it more time.",
            ) from None
        request = RunRequest(
            job_id or str(uuid.uuid4()), prepared.prompt, files, workflow or prepared.workflow
        )
        return await self.send(
            request,
            source=source or "library",
            folder=folder,
            timeout=timeout,
            begun=deadline.begun,
        )

    async def _prepared(
        self, loaded: LoadedWorkflow, search: FileSearch, value_files: Sequence[InputFile]
    ) -> tuple[PreparedWorkflow, list[InputFile]]:
        """The workflow as it is sent, and its files."""
        found = await self.schemas_for(loaded) if loaded.prompt is None else None
        if found is not None:
            for note in found.notes:
                _log.info("%s", note)
            _log.debug("The workflow is converted with the nodes of %s.", found.schemas.source)
        prepared = prepare(loaded, Changes(), found.schemas if found is not None else None)
        for doubt in prepared.doubts:
            _log.warning("%s", doubt.sentence)
        prompt, files = await self._files(prepared.prompt, search, value_files)
        return replace(prepared, prompt=prompt), files

    async def send(
        self,
        request: RunRequest,
        *,
        source: str,
        folder: Path | None = None,
        page: Mapping[str, JsonValue] | None = None,
        timeout: float | None = None,
        begun: float | None = None,
    ) -> Job:
        """Record a request that is complete, and submit it.

        Args:
            request: The prompt in API format, and the files it loads. Its ``repo_list`` and
                ``models`` are taken from the workflow, unless they are given. Files that the
                target keeps from before are named by their SHA-256 alone.
            source: As for `submit`.
            folder: As for `submit`.
            page: See `Record.add`.
            timeout: As for `submit`.
            begun: When that time began to run, by `time.monotonic`; now by default.

        Raises:
            ComfyRemoteError: As `submit`.
        """
        check_texts(request.prompt)
        if not request.repo_list:
            repo_list = find_repo_list(request.prompt, request.workflow)
            request = replace(request, repo_list=repo_list)
        if not request.models:
            models = find_models(request.prompt, request.workflow)
            sources = [model.source for model in models if model.source is not None]
            request = replace(request, models=sources)
        sent = SentInputs(self._record, self.target)
        request = await self._record.read(sent.without_known, request)
        await self._record.write(
            self._record.add,
            request.job_id,
            target=self.target.name,
            source=clean(source),  # a file's name need not be UTF-8
            folder=folder.absolute() if folder else None,
            prompt=request.prompt,
            page=page,
            request=request_to_json(request) if request.known_inputs else None,
        )
        _log.debug(
            "Job %s to %s: %d nodes, %d files (%d bytes, %d of them kept there), %d models named.",
            request.job_id,
            self.target.name,
            len(request.prompt),
            len(request.files),
            sum(file.size for file in request.files),
            sum(file.size for file in request.files if file.sha256 in request.known_inputs),
            len(request.models),
        )
        deadline = Deadline(timeout, begun)
        submission = submit(self.target, self._record, request, deadline)
        ref = await self._submitted(request, submission)
        inputs = [file.path for file in request.files]
        return self._followed(
            Job(self.target, self._record, ref, request.prompt, deadline, inputs=inputs)
        )

    async def _submitted(
        self, request: RunRequest, submission: Coroutine[object, object, RemoteRef]
    ) -> RemoteRef:
        """The answer to a submission; interrupted, it is waited for, since the job may be there."""
        if self._on_interrupt != "cancel":
            return await submission
        sending = asyncio.ensure_future(submission)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=SUBMIT_PATIENCE)
            if not sending.done():
                sending.cancel()
            [ref] = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(ref, RemoteRef):
                job = Job(self.target, self._record, ref, request.prompt)
                await end_jobs([job], self.target.name, "cancel")
            raise

    def _followed(self, job: Job) -> Job:
        """Remember it, for an interruption."""
        if self._on_interrupt is not None:
            self._jobs = [*(known for known in self._jobs if not known.state.final), job]
        return job

    async def take_up(
        self, entry: JobEntry, *, timeout: float | None = None, begun: float | None = None
    ) -> Job:
        """A job from the record, to be followed again. Nothing is submitted.

        Raises:
            OutputLost: The target never got it.
            SubmissionUnknown: The target cannot tell whether it got it.
            ComfyRemoteError: The target refused it; the error is the one recorded then.
        """
        if entry.ref is None and entry.state.final and entry.error is not None:
            raise entry.error
        deadline = Deadline(timeout, begun)
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
                f"{self.target.name} never got the job.", advice="Run the workflow again."
            )
            await self._record.write(self._record.state, entry.id, JobState.FAILED, error)
            raise error
        if entry.ref is None:
            await self._record.write(self._record.submitted, ref)
        return self._followed(
            Job(self.target, self._record, ref, entry.prompt, deadline, entry=entry)
        )

    async def adopt(
        self, remote_id: str, *, folder: Path | None = None, timeout: float | None = None
    ) -> Job:
        """A job that the record does not know, by the target's id: it is recorded and followed.

        Also one that was sent from another machine, or from ComfyUI's own page.

        Raises:
            JobNotFound: The target does not know it.
            ConfigurationError: Targets of this kind cannot be asked.
        """
        if not isinstance(self.target, Recalls):
            raise ConfigurationError(
                f"{self.target.name} cannot be asked about jobs that were not sent from here.",
                advice="A ComfyUI can: give its address.",
            )
        deadline = Deadline(timeout)
        try:
            recalled = await deadline.within(self.target.recall(remote_id))
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"{self.target.name} did not say within {deadline} whether it has that job.",
                advice="Check that it runs and that the address is right, or give it more time.",
            ) from None
        if recalled is None:
            raise JobNotFound(
                f"{self.target.name} has no job {remote_id!r}, neither in its queue nor in its "
                "history.",
                advice="ComfyUI forgets its history when it is restarted. The files may still be "
                "in its output folder.",
            )
        ref, prompt = recalled
        await self._record.write(
            self._record.add,
            ref.job_id,
            target=self.target.name,
            source=f"prompt {remote_id}",
            folder=folder,
            prompt=prompt,
        )
        await self._record.write(self._record.submitted, ref)
        return self._followed(Job(self.target, self._record, ref, prompt, deadline))

    async def _close_record(self) -> None:
        await self._record.written()
        if self._own_record:
            await asyncio.to_thread(self._record.close)

    async def _files(
        self,
        prompt: Prompt,
        search: FileSearch,
        complete: Sequence[InputFile],
    ) -> tuple[Prompt, list[InputFile]]:
        """The files that are here, and the prompt with the names they get on the target."""
        found = FoundFiles(complete)
        for use in await self._file_uses(prompt, search):
            if found.has(use):
                continue
            path = search.find(use.name)
            if path is not None:
                with input_errors(path):
                    digest = await asyncio.to_thread(sha256_of, path)
                    found.add(use, path, path.stat().st_size, digest)
            elif use.on_target:
                continue
            elif search.refusal(use.name) or not await self.target.has_input(use.name):
                raise missing_file(use, prompt, search)
            else:
                found.leave(use)
        return found.named_in(prompt), found.files

    async def _file_uses(self, prompt: Prompt, search: FileSearch) -> list[FileUse]:
        """What the prompt loads, also by nodes of packs.

        The target is asked for the schemas of those whose values are names of files here. Where
        nobody knows a node, it loads what the user has named.
        """
        possible = await asyncio.to_thread(possible_uses, prompt, search)
        if not possible:
            return list(file_uses(prompt))
        nodes: Prompt = {use.node_id: prompt[use.node_id] for use in possible}
        schemas = await asyncio.to_thread(Schemas.bundled)
        if any(node["class_type"] not in schemas for node in nodes.values()):
            schemas = await self.schemas(nodes)
        named = [
            use
            for use in possible
            if prompt[use.node_id]["class_type"] not in schemas and search.named(use.name)
        ]
        return [*file_uses(prompt, schemas), *named]


@asynccontextmanager
async def resume(
    job_id: str,
    *,
    record: Record | None = None,
    timeout: float | None = None,
    config: Path | str | None = None,
    on_interrupt: OnInterrupt | None = "leave",
) -> AsyncIterator[Job]:
    """A job from the record, followed again from where it stands. Nothing runs twice.

    Args:
        job_id: Its id, or at least the first four characters.
        record: The user's own by default.
        timeout: As for `Client.submit`.
        config: As for `Client`.
        on_interrupt: As for `Client`; the job goes on, unless it is asked to be cancelled.

    Raises:
        JobNotFound: The record has no such job.
        OutputLost: The target never got it.
        TargetError: The target cannot be reached.
    """
    begun = time.monotonic()
    opened = record if record is not None else await asyncio.to_thread(Record, home())
    try:
        entry = await opened.read(opened.get, job_id)
        target = reopen(entry.target, entry.ref, config=config)
        async with Client(target, record=opened, on_interrupt=on_interrupt) as client:
            yield await client.take_up(entry, timeout=timeout, begun=begun)
    finally:
        if opened is not record:
            await asyncio.to_thread(opened.close)
