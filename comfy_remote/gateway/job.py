"""A job in the queue, and what a client sends to put it there."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..errors import TargetError, WorkflowInvalid
from ..wire.problems import problems_in
from ..wire.runpod import RunPodState
from .limits import GatewayLimits
from .webhook import WEBHOOK, webhook_guard

__all__ = ["Job", "Policy", "Submission"]


class Policy(BaseModel):
    """RunPod's ``policy``.

    Attributes:
        execution_timeout: Milliseconds the job may run.
        time_to_live: Milliseconds the job may exist, in the queue and running together.
        low_priority: Wait behind all jobs that are not. (At RunPod: start no worker for it.)
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    execution_timeout: int | None = Field(default=None, alias="executionTimeout")
    time_to_live: int | None = Field(default=None, alias="ttl")
    low_priority: bool = Field(default=False, alias="lowPriority")


class Submission(BaseModel):
    """The body of ``/run`` and ``/runsync``."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    input: JsonValue
    policy: Policy = Policy()
    webhook: str | None = None
    s3_config: dict[str, JsonValue] | None = Field(default=None, alias="s3Config", repr=False)

    @classmethod
    def parse(cls, body: bytes, limits: GatewayLimits) -> Submission:
        """Validate a request's body.

        Raises:
            WorkflowInvalid: Names what is wrong.
        """
        try:
            submission = cls.model_validate_json(body)
        except ValidationError as error:
            raise WorkflowInvalid(
                f"The request is not valid: {problems_in(error, 'body')}.",
                advice='Send JSON with the key "input".',
            ) from None
        submission._check(limits)
        if submission.s3_config is not None and isinstance(submission.input, dict):
            # Beside the input, as RunPod's documentation has it; the worker reads it in there.
            submission.input.setdefault("s3Config", submission.s3_config)
        return submission

    def _check(self, limits: GatewayLimits) -> None:
        timeout, ttl = self.policy.execution_timeout, self.policy.time_to_live
        if timeout is not None and timeout < limits.shortest_execution_timeout * 1000:
            raise WorkflowInvalid(
                f"policy.executionTimeout is {timeout} ms, which is too short.",
                advice=f"Give at least {limits.shortest_execution_timeout * 1000:.0f} ms.",
            )
        least, most = limits.shortest_time_to_live * 1000, limits.longest_time_to_live * 1000
        if ttl is not None and not least <= ttl <= most:
            raise WorkflowInvalid(
                f"policy.ttl is {ttl} ms, which is out of range.",
                advice=f"Give {least:.0f} to {most:.0f} ms.",
            )
        if self.webhook is not None:
            try:
                webhook_guard(limits).check(self.webhook, WEBHOOK)
            except TargetError as error:
                raise WorkflowInvalid(error.message, advice=error.advice) from None


@dataclass(slots=True, eq=False)
class Job:
    """One job. Times are the queue's clock, in seconds; only the queue changes a job.

    Attributes:
        id: Made here.
        payload: The client's ``input``; ``None`` once the job can no longer be retried.
        created: When it was submitted.
        expires: When it is dropped, whatever its state.
        execution_timeout: Seconds it may run.
        retention: Seconds its result is kept.
        result_limit: Bytes of the largest result it may have.
        low_priority: Whether it waits behind the others.
        webhook: Where to post the result.
        idempotency_key: As the client gave it.
        queued: When it was last put into the queue.
        started: When a worker took it.
        finished: When it became final.
        output: The newest progress while it runs, the result afterwards.
        error: Why it failed: a string, as RunPod carries it.
        stream: Chunks that no client has fetched yet.
    """

    id: str
    payload: JsonValue
    created: float
    expires: float
    execution_timeout: float
    retention: float
    result_limit: int
    low_priority: bool = False
    webhook: str | None = None
    idempotency_key: str | None = None
    state: RunPodState = RunPodState.IN_QUEUE
    queued: float = 0.0
    started: float | None = None
    finished: float | None = None
    worker_id: str | None = None
    output: JsonValue = None
    error: JsonValue = None
    stream: list[JsonValue] = field(default_factory=list)
    stream_bytes: int = 0

    def status(self) -> dict[str, JsonValue]:
        """What ``/status`` answers: `wire.runpod.JobStatus`, without the keys that are empty."""
        answer: dict[str, JsonValue] = {"id": self.id, "status": self.state.value}
        if self.started is not None:
            answer["delayTime"] = round((self.started - self.queued) * 1000)
            answer["workerId"] = self.worker_id
            if self.finished is not None:
                answer["executionTime"] = round((self.finished - self.started) * 1000)
        if self.output is not None:
            answer["output"] = self.output
        if self.error is not None:
            answer["error"] = self.error
        return answer
