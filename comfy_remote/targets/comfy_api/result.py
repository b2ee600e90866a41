"""How a job has ended, as events. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pydantic import JsonValue

from ...errors import ComfyRemoteError, JobCancelled, JobExpired
from ...events import DidItRun, Event, Finished, JobState, Log, Progress
from ...outputs import RemoteOutput
from ...wire.comfy_api import ApiJob, ApiStatus
from ...workflow.output_nodes import OUTPUT_NODES
from ...workflow.prompt import Prompt
from .outputs import not_returned
from .refusals import failure

__all__ = ["JobResult", "forgotten"]

_SOON = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class JobResult:
    """The end of a job.

    Attributes:
        job: The server's answer, with a final status.
        name: Of the target.
        outputs: Those in the answer.
        nodes: How many the prompt has, as far as the server counts them.
        began: Whether it was seen to run.
        cancelled: Whether the job waited when this client cancelled it; ``None`` if it did not
            cancel.
    """

    job: ApiJob
    name: str
    prompt: Prompt
    outputs: tuple[RemoteOutput, ...]
    nodes: int
    began: bool
    cancelled: bool | None

    def events(self) -> Iterator[Event]:
        """What is said of it; `Finished` last."""
        job, details = self.job, _details(self.job)
        if job.status is ApiStatus.SUCCEEDED:
            yield Progress(nodes_done=self.nodes, nodes_total=self.nodes)
            if self._soon_gone():
                yield Log(f"{self.name} has the outputs until {_moment(job.expires_at)}.")
            missing = not_returned(self.prompt, self.outputs, self.name)
            only_shown = [one for one in missing if OUTPUT_NODES[one.node_class or ""].preview]
            for one in only_shown:
                yield Log(f"{one}.", "warning")
            if only_shown:
                details["warnings"] = [f"{one}." for one in only_shown]
            problems = tuple(one for one in missing if one not in only_shown)
            yield Finished(JobState.SUCCEEDED, None, self.outputs, details, problems)
            return
        error: ComfyRemoteError
        match job.status:
            case ApiStatus.CANCELED:
                state, error = JobState.CANCELLED, JobCancelled("The job was cancelled.")
            case ApiStatus.EXPIRED if self.cancelled is not None and not self.began:
                # comfy-api-proxy forgets a job that it has taken out of ComfyUI's queue; one that
                # had begun, it calls canceled.
                state, error = JobState.CANCELLED, JobCancelled("The job was cancelled.")
            case ApiStatus.EXPIRED:
                state, error = JobState.EXPIRED, self._expired()
            case _:
                state, error = JobState.FAILED, failure(job.error)
        yield Finished(state, error, self.outputs, details, did_it_run=self._did_it_run())

    def _did_it_run(self) -> DidItRun:
        job = self.job
        at_a_node = job.error is not None and job.error.node_id is not None
        if self.began or (job.status is ApiStatus.FAILED and at_a_node):
            return DidItRun.STOPPED
        # A server that does not note when a job ended does not note when it began, either.
        never_began = job.status is ApiStatus.CANCELED and job.completed_at is not None
        forgotten_by_cancel = job.status is ApiStatus.EXPIRED and self.cancelled is True
        return DidItRun.WITHDRAWN if never_began or forgotten_by_cancel else DidItRun.UNKNOWN

    def _expired(self) -> JobExpired:
        until = self.job.expires_at
        if until <= datetime.now(timezone.utc):
            return JobExpired(
                f"{self.name} had the job until {_moment(until)}, and has deleted it.",
                advice="Run it again.",
            )
        return JobExpired(
            f"{self.name} no longer has the job.",
            advice="It may have been restarted, or have dropped the job before it ran. Run it "
            "again.",
        )

    def _soon_gone(self) -> bool:
        left = self.job.expires_at - datetime.now(timezone.utc)
        return bool(self.job.outputs) and left <= _SOON


def forgotten(name: str) -> Finished:
    """The end of a job that the server answers 404 for."""
    return Finished(
        JobState.EXPIRED,
        JobExpired(
            f"{name} no longer knows the job.",
            advice="Its jobs and their outputs are deleted after a while, and a self-hosted server "
            "may forget them when it is restarted. Run it again.",
        ),
        did_it_run=DidItRun.UNKNOWN,
    )


def _details(job: ApiJob) -> dict[str, JsonValue]:
    metrics = job.metrics or {}
    queued, ran = metrics.get("queue_ms"), metrics.get("execution_ms")
    if queued is None and job.started_at is not None:
        queued = _milliseconds(job.created_at, job.started_at)
    if ran is None and job.started_at is not None and job.completed_at is not None:
        ran = _milliseconds(job.started_at, job.completed_at)
    details: dict[str, JsonValue] = {"expires_at": job.expires_at.isoformat()}
    if queued is not None:
        details["queue_seconds"] = queued / 1000
    if ran is not None:
        details["run_seconds"] = ran / 1000
    return details


def _milliseconds(since: datetime, until: datetime) -> int:
    return max(0, round((until - since).total_seconds() * 1000))


def _moment(at: datetime) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
