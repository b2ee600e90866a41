"""From a workflow to a job on its target: read, converted, changed and looked through once.

`read` and `prepared` make a `Submission` of what the user gave; `send` records a job and has its
target run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from ..advice import Hint
from ..aio import Deadline, within
from ..data_class import dataclass
from ..errors import (
    ComfyRemoteError,
    JobCancelled,
    JobTimedOut,
    LocalStorageError,
    SubmissionUnknown,
    WorkflowInvalid,
)
from ..events import DidItRun, JobState
from ..targets.base import InputFile, RemoteRef, RunRequest, Target
from ..targets.sending import Sending
from ..types import JsonValue
from ..workflow.change.prepare import Changes, prepare
from ..workflow.files import FileSearch, FileUse, every_file_use, possible_uses
from ..workflow.load import LoadedWorkflow, is_packed, load_workflow, parse_workflow
from ..workflow.paid_nodes import any_paid
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .inputs import InputSource, SearchedFolders, collect_inputs
from .record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..schemas.finding import Found
    from ..workflow.convert import Doubt

__all__ = ["Submission", "Workflow", "not_recorded", "opened", "prepared", "read", "send"]

_log = logging.getLogger(__name__)

_RECORD_SECONDS = 1.0

Workflow: TypeAlias = "Prompt | Mapping[str, JsonValue] | LoadedWorkflow | Path | str"
"""What a workflow is given as: a file's path, a document in API or UI format, or one that
`workflow.load` has read."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A workflow that is ready to be sent.

    Attributes:
        prompt: API format, changed; its files have the names that they travel under.
        files: What its Load nodes name, as far as it is here.
        workflow: In UI format, to embed in saved images; ``None`` if there is none.
        source: The workflow's file, or a word for where it came from.
        notes: What was found and done, a sentence each.
        doubts: Saved values that may not be where they belong; each is a note as well.
        unused: Files that the user named, and no Load node does.
        ignored: Changes that had nowhere to go, a sentence each.
        paid: Whether a node costs money elsewhere, as far as the schemas were asked and say it.
    """

    prompt: Prompt
    files: Sequence[InputFile] = ()
    workflow: Mapping[str, JsonValue] | None = None
    source: str = "library"
    notes: Sequence[str] = ()
    doubts: Sequence[Doubt] = ()
    unused: Sequence[Path] = ()
    ignored: Sequence[str] = ()
    paid: bool = False


def opened(workflow: Workflow) -> Workflow:
    """A packed workflow's file as what it was opened to; all else as it is. It blocks."""
    if isinstance(workflow, str | Path):
        path = Path(workflow)
        with contextlib.suppress(OSError, ValueError):  # reading it says what is wrong
            if path.is_file() and is_packed(path):
                from .unpacked import unpacked  # here: few are

                return unpacked(path).workflow
    return workflow


def read(workflow: Workflow, changes: Changes, source: str | None = None) -> LoadedWorkflow:
    """The workflow, with the variables of its file filled in. It blocks if it is a file."""
    if isinstance(workflow, LoadedWorkflow):
        return workflow
    if isinstance(workflow, str) and re.fullmatch(r"\s*\{.*\}\s*", workflow, re.DOTALL):
        raise WorkflowInvalid(
            "This is the text of a workflow, not the path of its file.",
            advice="Give it as a dictionary: json.loads(text).",
        )
    if isinstance(workflow, str | Path):
        return load_workflow(workflow, variables=changes.variables())
    if not isinstance(workflow, Mapping):
        raise WorkflowInvalid(
            f"A workflow is the path of a file or a dictionary, not a value of type "
            f"{type(workflow).__name__}."
        )
    return parse_workflow(cast("JsonValue", workflow), source or "The prompt")


async def prepared(
    loaded: LoadedWorkflow,
    changes: Changes,
    target: Target,
    search: FileSearch,
    *,
    schemas_for: Callable[[LoadedWorkflow], Awaitable[Found]],
    schemas_of: Callable[[Prompt], Awaitable[Schemas]],
    value_files: Sequence[InputFile] = (),
    source: InputSource | None = None,
) -> Submission:
    """The workflow converted and changed, and its files. Raises what `Client.prepare` raises.

    Args:
        search: Where its files may be taken from.
        source: Finds and describes them; by `search` if it is not given.
        schemas_for: Gives the schemas to convert a workflow by; asked only if they are needed.
        schemas_of: Gives the schemas of some nodes.
        value_files: Files that the prompt names already.
    """
    found = await schemas_for(loaded) if changes or loaded.prompt is None else None
    ready = prepare(loaded, changes, None if found is None else found.schemas)
    uses = await _file_uses(ready.prompt, search, schemas_of)
    prompt, files = await collect_inputs(
        ready.prompt, uses, target, source or SearchedFolders(search), value_files
    )
    sent = {file.path for file in files}
    return Submission(
        prompt,
        files,
        ready.workflow,
        loaded.source,
        (*(found.notes if found is not None else ()), *ready.notes),
        ready.doubts,
        [path for path in search.given if path not in sent],
        ready.ignored,
        found is not None and any_paid(prompt, found.schemas),
    )


async def _file_uses(
    prompt: Prompt, search: FileSearch, schemas_of: Callable[[Prompt], Awaitable[Schemas]]
) -> list[FileUse]:
    """What the prompt loads from this machine, also by nodes of packs.

    The target is asked for the schemas of nodes whose values are names of files here. An unknown
    node loads the files that the user named.
    """
    uses = list(every_file_use(prompt))
    possible = possible_uses(prompt, uses)
    if possible:
        possible = await asyncio.to_thread(search.those_here, possible)
    named: list[FileUse] = []
    if possible:
        nodes: Prompt = {use.node_id: prompt[use.node_id] for use in possible}
        schemas = await asyncio.to_thread(Schemas.bundled)
        if any(node["class_type"] not in schemas for node in nodes.values()):
            schemas = await schemas_of(nodes)
        uses = list(every_file_use(prompt, schemas))
        named = [
            use
            for use in possible
            if prompt[use.node_id]["class_type"] not in schemas and search.named(use.name)
        ]
    return [*uses, *named]


async def send(
    target: Target, record: Record, request: RunRequest, deadline: Deadline
) -> RemoteRef:
    """Have the target run a request whose job is recorded, and record how that went."""
    began, sent = time.monotonic(), Sending()
    try:
        with sent.watched():
            ref = await deadline.within(_submitted(target, request))
    except asyncio.CancelledError:
        # Whoever leaves without that sends it when it is back.
        if sent.stopped and sent.surely_not:
            stopped = JobCancelled("The job was cancelled before it was sent.")
            DidItRun.NEVER_ACCEPTED.noted_in(stopped)
            record.post(not_recorded, record.state, request.job_id, JobState.CANCELLED, stopped)
        raise
    except asyncio.TimeoutError:
        if sent.surely_not:
            unsent = JobTimedOut(
                f"Within {deadline}, the job could not be sent to {target.name}. It does not run.",
                advice="Give it more time, or look at what holds it up: files on a slow line, or "
                "a target that takes no more jobs.",
                details={"job_id": request.job_id},
            )
            DidItRun.NEVER_ACCEPTED.noted_in(unsent)
            record.post(not_recorded, record.state, request.job_id, JobState.FAILED, unsent)
            raise unsent from None
        late = JobTimedOut(
            f"{target.name} did not answer the submission within {deadline}. It may have the job.",
            advice=Hint.FIND_JOB(job_id=request.job_id),
            details={"job_id": request.job_id},
        )
        DidItRun.UNKNOWN.noted_in(late)
        record.post(not_recorded, record.state, request.job_id, JobState.QUEUED, late)
        raise late from None
    except SubmissionUnknown as error:
        # Still open: `resume` may find it.
        DidItRun.UNKNOWN.noted_in(error)
        record.post(not_recorded, record.state, request.job_id, JobState.QUEUED, error)
        raise
    except ComfyRemoteError as error:
        DidItRun.UNKNOWN.noted_in(error)  # unless the target knows better
        record.post(not_recorded, record.state, request.job_id, JobState.FAILED, error)
        raise

    def only_here(error: LocalStorageError) -> None:
        # The GPU is at work: a job that only this program knows is better than none.
        _log.warning("%s The job is %s at %s.", error, ref.remote_id, target.name)

    record.post(only_here, record.submitted, ref)
    # Not for as long as another program locks the record: an interrupted program that gave up
    # waiting here would not know what to cancel. It is written nevertheless.
    with contextlib.suppress(asyncio.TimeoutError):
        await within(record.written(), _RECORD_SECONDS)
    _log.debug(
        "%s has job %s as %s, %.2f s after its submission began.",
        target.name,
        request.job_id,
        ref.remote_id,
        time.monotonic() - began,
    )
    return ref


async def _submitted(target: Target, request: RunRequest) -> RemoteRef:
    try:
        return await target.submit(request)
    except WorkflowInvalid as error:
        from .refusals import explained

        fuller = await asyncio.to_thread(explained, error, request)
        if fuller is error:
            raise
        raise fuller from error


def not_recorded(error: LocalStorageError) -> None:
    """For `Record.post`, if the job continues without the record: the log says so."""
    _log.warning("%s", error)
