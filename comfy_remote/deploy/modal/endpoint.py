"""RunPod's endpoint over Modal's calls: the `gateway.endpoint.Endpoint` of an app.

It stores nothing itself, so any front container can answer for any job: a job's id is its call's.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from pydantic_core import from_json, to_json

from ...aio import in_thread
from ...errors import (
    ExecutionFailed,
    JobNotFound,
    JobTimedOut,
    SubmissionUnknown,
    WorkflowInvalid,
)
from ...gateway.endpoint import Status
from ...gateway.job import Submission
from ...gateway.limits import GatewayLimits
from ...gateway.needs import needs_of
from ...targets.modal import BODY_LIMIT
from ...wire.modal import Hardware
from ...wire.runpod import EndpointHealth, RunPodState, failure_to_runpod
from .calls import CallResult, ModalCalls
from .notes import CallNote, Notes, RunNote
from .outputs import OutputVolume, read_output

__all__ = ["ModalEndpoint"]


# A web request ends after 150 s (modal.com/docs/guide/webhook-timeouts).
_LIMITS = GatewayLimits(
    run_bytes=BODY_LIMIT, runsync_bytes=BODY_LIMIT, runsync_wait=60.0, runsync_longest_wait=120.0
)


@dataclass(frozen=True)
class ModalEndpoint:
    """One app.

    Args:
        idle_timeout: Seconds that an idle container waits for a call.
        hardware: What a container has.
        poll: Seconds between two looks at a call.
        submit_patience: Seconds to wait for another request with the same key that is submitting.
    """

    calls: ModalCalls
    notes: Notes
    outputs: OutputVolume
    idle_timeout: float | None = None
    hardware: Hardware | None = None
    poll: float = 0.5
    submit_patience: float = 20.0

    @property
    def limits(self) -> GatewayLimits:
        return _LIMITS

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """See `Endpoint.submit`.

        Raises:
            SubmissionUnknown: Another request with the same key is submitting, and does not end.
            WorkflowInvalid: It asks for what this endpoint cannot do.
        """
        if submission.webhook is not None:
            raise WorkflowInvalid(
                "An app on Modal does not call webhooks.", advice="Omit webhook, and poll /status."
            )
        if idempotency_key is not None and not await self.notes.claim(idempotency_key):
            return _status(await self._known(idempotency_key), RunPodState.IN_QUEUE)
        call_id = await self.calls.spawn(_payload(submission))
        # What its nodes buy from a service would be paid for twice.
        needs = await in_thread(needs_of, submission.input)
        repeat_lost = submission.policy.retry_lost and not needs.may_cost
        await self.notes.queued(call_id, repeat_lost=repeat_lost)
        if idempotency_key is not None:
            await self.notes.submitted(idempotency_key, call_id)
        return _status(call_id, RunPodState.IN_QUEUE)

    async def _known(self, key: str) -> str:
        deadline = asyncio.get_running_loop().time() + self.submit_patience
        while asyncio.get_running_loop().time() < deadline:
            if (call_id := await self.notes.by_key(key)) is not None:
                return call_id
            await asyncio.sleep(self.poll)
        raise SubmissionUnknown(
            "Another request with the same key was submitting the job, and it is not known "
            "whether it did.",
            advice="Look at the app's calls at https://modal.com/apps; if it is not there, run "
            "the workflow again.",
        )

    async def wait(self, job_id: str, timeout: float) -> Status:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            status = await self.status(job_id)
            left = deadline - asyncio.get_running_loop().time()
            if RunPodState(str(status["status"])).final or left <= 0:
                return status
            await asyncio.sleep(min(self.poll, left))

    async def status(self, job_id: str) -> Status:
        return (await self._look(job_id))[1]

    async def _look(self, job_id: str) -> tuple[CallNote, Status]:
        # The notes first: without one, it may be anybody's call in the workspace.
        note, run = await asyncio.gather(self.notes.of_call(job_id), self.notes.of_run(job_id))
        if note is None:
            raise _not_here(job_id)
        result = await self.calls.result(job_id)
        if not result.known:
            raise _not_here(job_id)
        if result.ended:
            # What the container has written meanwhile, above all when it finished.
            run = await self.notes.of_run(job_id)
        return note, _described(job_id, note, run, result)

    async def stream(self, job_id: str) -> list[bytes]:
        """An empty list: our worker sends no chunks."""
        return []

    async def cancel(self, job_id: str) -> Status:
        note, status = await self._look(job_id)
        if RunPodState(str(status["status"])).final:
            return status
        await self.calls.cancel(job_id)
        await self.notes.cancelled(job_id, note)
        return _status(job_id, RunPodState.CANCELLED)

    async def retry(self, job_id: str) -> Status:
        """Refused: Modal stores no jobs that have ended."""
        raise WorkflowInvalid(
            f"Job {job_id} cannot be run again: Modal keeps no jobs once they have run.",
            advice="Submit it again.",
        )

    async def purge(self) -> int:
        """Refused: Modal does not list the jobs that wait."""
        raise WorkflowInvalid(
            "Modal has no list of the jobs that wait.", advice="Cancel them one by one."
        )

    async def health(self) -> EndpointHealth:
        """See `Endpoint.health`. Modal does not count jobs that have ended."""
        load = await self.calls.load()
        running = min(load.running, load.containers)
        return EndpointHealth.model_validate(
            {
                "jobs": {"inProgress": load.running, "inQueue": load.waiting},
                "workers": {
                    "idle": load.containers - running,
                    "running": running,
                    # Modal starts a container for each call that waits, and counts those that run.
                    "initializing": 1 if load.waiting and not load.containers else 0,
                },
                "idleTimeout": self.idle_timeout,
                "hardware": None if self.hardware is None else self.hardware.model_dump(),
            }
        )

    async def file(self, request: web.Request, job_id: str, sha256: str) -> web.StreamResponse:
        """See `Endpoint.file`. Always the whole file, whatever range was asked for."""
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private"}
        response = web.StreamResponse(headers=headers)
        async with aclosing(read_output(self.outputs, job_id, sha256)) as chunks:
            first = await anext(chunks, b"")  # before a status is sent: it may not be there
            await response.prepare(request)
            await response.write(first)
            async for chunk in chunks:
                await response.write(chunk)
        await response.write_eof()
        return response


def _payload(submission: Submission) -> str:
    """The input as text, with RunPod's limit of time where our worker reads it."""
    payload, limit = submission.input, submission.policy.execution_timeout
    if isinstance(payload, dict) and limit is not None:
        payload = {"timeout": limit / 1000, **payload}
    return to_json(payload).decode()


def _status(call_id: str, state: RunPodState) -> Status:
    return {"id": call_id, "status": state.value}


def _described(call_id: str, note: CallNote, run: RunNote | None, result: CallResult) -> Status:
    if note.cancelled is not None:
        state: RunPodState = RunPodState.CANCELLED
        said: Status = {}
    elif not result.ended:
        state = RunPodState.IN_QUEUE if run is None else RunPodState.IN_PROGRESS
        said = {} if run is None or run.progress is None else {"output": run.progress}
    elif result.error is not None:
        timed_out = isinstance(result.error, JobTimedOut)
        state = RunPodState.TIMED_OUT if timed_out else RunPodState.FAILED
        said = failure_to_runpod(result.error)
    else:
        state, said = _answer(result.text or "")
    return {**_status(call_id, state), **_times(note, run), **said}


def _answer(text: str) -> tuple[RunPodState, Status]:
    """What a RunPod handler returned: the output, and under ``error`` why it failed."""
    try:
        answer = from_json(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        lost = ExecutionFailed("The worker's answer is not JSON.", advice="Deploy the app again.")
        return RunPodState.FAILED, failure_to_runpod(lost)
    answer.pop("refresh_worker", None)
    error = answer.pop("error", None) or None
    output = cast("Status", {"output": answer} if answer else {})
    if error is not None:
        return RunPodState.FAILED, {**output, "error": error}
    return RunPodState.COMPLETED, output


def _times(note: CallNote, run: RunNote | None) -> Status:
    if run is None:
        return {}
    times: Status = {"delayTime": max(0, round((run.started - note.queued) * 1000))}
    if run.attempt > 1:
        times["attempt"] = run.attempt
    if run.worker is not None:
        times["workerId"] = run.worker
    if run.finished is not None:
        times["executionTime"] = round((run.finished - run.started) * 1000)
    return times


def _not_here(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"This app has no job {job_id}.",
        advice="Results are deleted after seven days at the latest.",
    )
