"""The remote lane: prompts of pages whose Remote switch is on, run on their targets.

Beside the server's own queue, not in it: jobs of the lane run side by side, as many as the
target takes, while the server's own prompts run one after the other as usual.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

from ..aio import Background
from ..config.cache_settings import CacheMode
from ..errors import ComfyRemoteError, JobNotFound, WorkflowInvalid
from ..events import JobState
from ..jobs.client import Client
from ..jobs.interruption import call_off, started
from ..jobs.record import JobEntry
from ..jobs.submission import not_recorded
from ..schedule.money import Allowance
from ..targets.base import RunRequest
from ..targets.comfyui.queue import skipped_in
from ..targets.opening import reopen
from ..types import JsonValue, mapping
from ..workflow.graph import output_nodes
from ..workflow.paid_nodes import any_paid
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .host import Host, QueueEntry
from .input_files import InputFiles
from .lane_job import UNNAMED, LaneJob, Submitted
from .posted_prompt import Checked, PagePrompt, check
from .refusals import at_target, marked_nodes
from .target_models import could_be_fetched, with_fetched_models
from .target_pool import TargetPool

__all__ = ["RemoteLane"]

_log = logging.getLogger(__name__)

# How long a page waits for the target to refuse its prompt. After that the prompt counts as
# accepted, and a refusal becomes the job's error.
_ACKNOWLEDGE_WITHIN = 2.0
_SCHEMAS_WITHIN = 5.0


class RemoteLane:
    """All remote jobs of one server."""

    def __init__(self, host: Host, pool: TargetPool) -> None:
        self._host = host
        self._pool = pool
        self._inputs = InputFiles(host)
        self._jobs: dict[str, LaneJob] = {}
        # Perhaps in the record and not yet among the jobs: not to be taken up again.
        self._arriving: set[str] = set()
        self._following, self._submissions, self._asking = Background(), Background(), Background()
        # A batch runs in the order in which the page queued it.
        self._order: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def jobs(self) -> list[JsonValue]:
        """Those that have not ended, oldest first; see `LaneJob.to_json`."""
        return [job.to_json() for job in self._jobs.values()]

    def in_progress(self) -> list[LaneJob]:
        """Those that have not ended, oldest first."""
        return list(self._jobs.values())

    def has(self, prompt_id: object) -> bool:
        """Whether that is a remote job that has not ended."""
        return isinstance(prompt_id, str) and prompt_id in self._jobs

    async def submit(
        self,
        body: Mapping[str, JsonValue],
        target: str,
        peer: object = None,
        *,
        with_repo_list: bool = True,
        cache: CacheMode | None = None,
        over_cap: bool = False,
    ) -> dict[str, JsonValue]:
        """Run what a page posted to ``/prompt``; the answer to it, as ComfyUI gives it.

        Args:
            peer: The browser it comes from, for `interrupt`.
            with_repo_list: Whether the models of a node titled ``repo_list`` are asked for.
            cache: Whether a stored result is used; ``None`` for what is configured.
            over_cap: Whether it may go over the caps on spending.
        """
        wanted = PagePrompt.parse(body, target, with_repo_list=with_repo_list)
        await self._check_new(wanted.prompt_id)
        schemas, checked = await self._checked(wanted, target)
        number = wanted.number
        if number is None:
            number = self._host.next_number(front=wanted.front)
        entry = QueueEntry(
            number, wanted.prompt_id, wanted.prompt, wanted.extra_data, checked.outputs
        )
        sending = asyncio.ensure_future(
            self._send(wanted, checked.prompt, schemas, entry, target, cache, over_cap)
        )
        try:
            await self._accept(entry, target, sending, peer)
        except ComfyRemoteError as error:
            raise at_target(error, target, wanted.prompt, wanted.workflow, schemas) from error
        return {
            "prompt_id": entry.prompt_id,
            "number": entry.number,
            "node_errors": marked_nodes(
                checked.node_errors or _skipped_by_target(sending), target, wanted.prompt, schemas
            ),
        }

    async def run_again(
        self,
        recorded: JobEntry,
        client_id: str | None,
        peer: object = None,
        *,
        over_cap: bool = False,
    ) -> str:
        """Run a job of the record once more, as if a page had posted it; the id of the new one.

        Raises:
            ConfigurationError: It has not ended.
            InputFileMissing: One of its files is no longer there, or has changed.
            ComfyRemoteError: The target cannot be reached or used, or refuses it at once.
        """
        prompt_id = str(uuid.uuid4())
        client = await self._pool.client(recorded.target)
        request = await client.request_again(recorded, prompt_id)
        posted = self._host.posted(recorded.id)
        now = int(time.time() * 1000)
        if posted is None:
            shown, outputs = recorded.prompt, output_nodes(recorded.prompt)
            extra: dict[str, JsonValue] = {"create_time": now}
        else:
            shown, outputs = posted.prompt, posted.outputs
            extra = {**posted.extra_data, "create_time": now}
        if client_id is not None:
            extra["client_id"] = client_id
        number = self._host.next_number(front=False)
        entry = QueueEntry(number, prompt_id, shown, extra, outputs)
        workflow = mapping(extra.get("extra_pnginfo")).get("workflow")
        request = replace(
            request,
            workflow=workflow if isinstance(workflow, dict) else None,
            on_sent=partial(self._note_sent, prompt_id),
        )

        async def send() -> Submitted:
            async with self._order[recorded.target]:
                return await self._send_by(
                    client, request, entry, recorded.source, recorded.id, over_cap=over_cap
                )

        sending = asyncio.ensure_future(send())
        await self._accept(entry, recorded.target, sending, peer, recorded.source)
        return prompt_id

    async def cancel(self, prompt_id: object) -> bool:
        """Stop a job, wherever it is; ``False`` if it is not ours, or has ended."""
        job = self._jobs.get(prompt_id) if isinstance(prompt_id, str) else None
        if job is None:
            return False
        job.cancel()
        return True

    def waiting(self) -> set[str]:
        """The ids of those that have not begun."""
        return {i for i, job in self._jobs.items() if job.state is JobState.QUEUED}

    def cancel_waiting(self) -> None:
        """Stop all that have not begun."""
        for prompt_id in self.waiting():
            self._jobs[prompt_id].cancel()

    def interrupt(self, peer: object) -> bool:
        """Stop a browser's longest-running job, or its oldest waiting one; ``False`` if none."""
        theirs = [job for job in self._jobs.values() if job.peer == peer]
        running = [job for job in theirs if job.state is JobState.RUNNING]
        for job in (running or theirs)[:1]:
            job.cancel()
            return True
        return False

    def show_running(self, client_id: str) -> None:
        """Send a page that has just connected the state of its jobs."""
        for job in list(self._jobs.values()):
            if job.entry.client_id == client_id:
                job.repeat()

    async def take_up(self) -> None:
        """Show and follow the jobs that were running when the server last ended."""
        record = self._pool.record
        for recorded in await record.read(record.unshown, "host"):
            entry = _entry(recorded)
            served_here = (recorded.page or {}).get("host") == self._host.identity
            ours = recorded.id in self._jobs or recorded.id in self._arriving
            if entry is None or not served_here or ours:
                continue
            _log.info("Remote job %s is taken up again", recorded.id)
            record = self._pool.record
            job = LaneJob(self._host, entry, recorded.target, record, name=recorded.source)
            self._begin(job, asyncio.ensure_future(self._found_again(recorded)))

    async def close(self) -> None:
        """Stop following. The jobs go on, and are taken up when the server starts again."""
        await self._submissions.wait(_ACKNOWLEDGE_WITHIN)
        await asyncio.gather(self._following.stop(), self._submissions.stop())

    async def _accept(
        self,
        entry: QueueEntry,
        target: str,
        sending: asyncio.Future[Submitted],
        peer: object,
        name: str = UNNAMED,
    ) -> None:
        """Show a job that its target has taken, or has not refused within two seconds.

        Raises:
            ComfyRemoteError: The target does not have it.
        """
        self._arriving.add(entry.prompt_id)
        try:
            await asyncio.wait({sending}, timeout=_ACKNOWLEDGE_WITHIN)
            if sending.done():
                await self._sent(sending, entry.prompt_id)
        finally:
            self._arriving.discard(entry.prompt_id)
        job = LaneJob(self._host, entry, target, self._pool.record, peer, name=name)
        self._begin(job, sending)

    def _begin(self, job: LaneJob, submission: asyncio.Future[Submitted]) -> None:
        self._jobs[job.entry.prompt_id] = job
        self._submissions.start(submission)
        following = self._following.start(job.run(submission))
        following.add_done_callback(lambda _: self._ended(job))

    def _ended(self, job: LaneJob) -> None:
        """Show the page another job of its own that runs: it follows one at a time.

        At the end of any job, a page forgets which one it follows, and its *Cancel current run*
        is dead until the next one starts.
        """
        self._jobs.pop(job.entry.prompt_id, None)
        self._asking.start(job.keep())
        client_id = job.entry.client_id
        for other in self._jobs.values():
            if other.state is JobState.RUNNING and other.entry.client_id == client_id is not None:
                other.repeat()
                return

    async def _sent(self, sending: asyncio.Future[Submitted], prompt_id: str) -> None:
        """Raises:
        ComfyRemoteError: The target does not have the job.
        """
        try:
            await sending
        except ComfyRemoteError:
            # The page gets this error now: after a restart there is nothing left to show.
            record = self._pool.record
            record.post(not_recorded, record.mark_shown, prompt_id)
            raise

    async def _checked(self, wanted: PagePrompt, target: str) -> tuple[Schemas | None, Checked]:
        """The target's schemas, if it answers soon, and the prompt checked by them."""
        schemas = await self._schemas(target, wanted)
        try:
            checked = check(wanted, schemas)
            if not checked.node_errors:
                return schemas, checked
        except WorkflowInvalid:
            if schemas is None:
                raise
        # What the schemas of some minutes ago refuse may be valid by now.
        schemas = await self._schemas(target, wanted, renew=True)
        try:
            return schemas, check(wanted, schemas)
        except WorkflowInvalid as error:
            marked = at_target(error, target, wanted.prompt, wanted.workflow, schemas)
            if schemas is None or (await self._pool.capabilities(target)).fetches_models is None:
                raise marked from error
            raise could_be_fetched(marked, wanted.prompt, wanted.workflow) from error

    async def _schemas(
        self, target: str, wanted: PagePrompt, *, renew: bool = False
    ) -> Schemas | None:
        asking = self._asking.start(self._asked(target, wanted, renew))
        await asyncio.wait({asking}, timeout=_SCHEMAS_WITHIN)
        # Not stopped if it takes longer: the next prompt will have them.
        return asking.result() if asking.done() else None

    async def _asked(self, target: str, wanted: PagePrompt, renew: bool) -> Schemas | None:
        try:
            capabilities = await self._pool.capabilities(target, renew=renew)
            schemas = await self._pool.schemas(target)
            if schemas is None or not capabilities.fetches_models:
                return schemas
            return with_fetched_models(schemas, wanted.prompt, wanted.workflow)
        except ComfyRemoteError as error:
            # If this lasts, sending the prompt fails for the same reason.
            _log.info("%s does not list its nodes: %s", target, error)
            return None

    async def _send(
        self,
        wanted: PagePrompt,
        prompt: Prompt,
        schemas: Schemas | None,
        entry: QueueEntry,
        target: str,
        cache: CacheMode | None,
        over_cap: bool,
    ) -> Submitted:
        async with self._order[target]:
            client = await self._pool.client(target)
            changed, files = await self._inputs.collect(prompt, client.target, schemas)
            request = RunRequest(
                wanted.prompt_id,
                changed,
                files,
                wanted.workflow,
                front=wanted.front,
                repo_list=wanted.repo_list,
                retry_lost=schemas is None or not any_paid(changed, schemas),
                on_sent=partial(self._note_sent, wanted.prompt_id),
            )
            return await self._send_by(client, request, entry, cache=cache, over_cap=over_cap)

    async def _send_by(
        self,
        client: Client,
        request: RunRequest,
        entry: QueueEntry,
        source: str = UNNAMED,
        again: str | None = None,
        cache: CacheMode | None = "off",
        over_cap: bool = False,
    ) -> Submitted:
        sending = client.send(
            request,
            source=source,
            folder=self._host.folder("output"),
            page=_page(entry, self._host.identity),
            again=again,
            cache=cache,
            allowance=Allowance(over_cap=over_cap),
        )
        return Submitted(client, await started(sending, call_off))

    def _note_sent(self, prompt_id: str, sent: int, total: int) -> None:
        if (job := self._jobs.get(prompt_id)) is not None:
            job.sending(sent, total)

    async def _found_again(self, recorded: JobEntry) -> Submitted:
        target = await asyncio.to_thread(reopen, recorded.target, recorded.ref)
        client = Client(target, record=self._pool.record, on_interrupt=None)
        await self._pool.keep(client)
        return Submitted(client, await client.resume(recorded))

    async def _check_new(self, prompt_id: str) -> None:
        """Raises:
        WorkflowInvalid: The record has such a job already.
        """
        record = self._pool.record
        try:
            await record.read(record.get, prompt_id)
        except JobNotFound:
            return
        raise WorkflowInvalid(
            f"There is already a job {prompt_id}.",
            advice="Omit prompt_id: every job has an id of its own.",
        )


def _page(entry: QueueEntry, host: str) -> dict[str, JsonValue]:
    """What the record stores so that the page can show a job after a restart."""
    return {
        "host": host,
        "number": entry.number,
        "prompt": cast("JsonValue", entry.prompt),  # a TypedDict is a dict
        "extra_data": entry.extra_data,
        "outputs": [*entry.outputs],
    }


def _skipped_by_target(sending: asyncio.Future[Submitted]) -> dict[str, JsonValue]:
    """The nodes that the target has already refused to run, in the form of ComfyUI's answer."""
    skipped = skipped_in(sending.result().job.ref.details) if sending.done() else []
    return {
        problem.node_id: {
            "errors": [
                {"type": "skipped", "message": problem.reason, "details": "", "extra_info": {}}
            ],
            "dependent_outputs": [],
            "class_type": problem.node_class,
        }
        for problem in skipped
        if problem.node_id is not None
    }


def _entry(recorded: JobEntry) -> QueueEntry | None:
    """The inverse of `_page`; ``None`` for what somebody else wrote there."""
    match recorded.page:
        case {
            "number": int() | float() as number,
            "prompt": dict(prompt),
            "extra_data": dict(extra_data),
            "outputs": list(outputs),
        }:
            return QueueEntry(
                number,
                recorded.id,
                cast("Prompt", prompt),
                dict(extra_data),
                [str(output) for output in outputs],
            )
        case _:
            return None
