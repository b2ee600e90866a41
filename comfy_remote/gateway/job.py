"""A job in the queue, and what a client sends to put it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    SkipValidation,
    ValidationError,
)
from pydantic_core import from_json

from ..errors import TargetError, WorkflowInvalid
from ..json_text import check_json_values, problems_in
from ..wire.runpod import RunPodState, error_from_runpod
from .limits import GatewayLimits
from .offers import Needs
from .webhook import WEBHOOK, webhook_guard

__all__ = ["Attempt", "Ending", "Job", "Lease", "Policy", "Submission"]

_MOST_MILLISECONDS = 10**15
"""Far above every limit, and a number that can still be divided."""

_Milliseconds = Annotated[int, Field(ge=0, le=_MOST_MILLISECONDS)]
_LONGEST_ADDRESS = 2048
_LONGEST_WORD = 64
_MOST_LABELS = 16
_MOST_MEMORY = 2**50
_LARGEST_SIZE = 2**60


def _printable(word: str) -> str:
    if not word.isprintable():
        raise ValueError("only printable characters are allowed")
    return word


_Word = Annotated[str, Field(min_length=1, max_length=_LONGEST_WORD), AfterValidator(_printable)]


class Policy(BaseModel):
    """RunPod's ``policy``, and keys of ours.

    Attributes:
        execution_timeout: Milliseconds the job may run.
        time_to_live: Milliseconds the job may exist, in the queue and running together.
        low_priority: Wait behind all jobs that are not. (At RunPod: start no worker for it.)
        retry_lost: Whether it is started once more when its first start is proven dead. Ours.
        client: Whose job it is: workers are shared fairly among clients. Ours, as the rest.
        batch: Which of the client's batches it belongs to.
        priority: Jobs with a higher one are taken first.
        front: Take it before the client's other jobs.
        labels: Labels that its worker must have.
        memory: Bytes of GPU memory that its worker must have.
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    execution_timeout: _Milliseconds | None = Field(default=None, alias="executionTimeout")
    time_to_live: _Milliseconds | None = Field(default=None, alias="ttl")
    low_priority: bool = Field(default=False, alias="lowPriority")
    retry_lost: bool = Field(default=True, alias="retryLost")
    client: _Word | None = None
    batch: _Word | None = None
    priority: int = Field(default=0, ge=-100, le=100)
    front: bool = False
    labels: frozenset[_Word] = Field(default=frozenset(), max_length=_MOST_LABELS)
    memory: int = Field(default=0, ge=0, le=_MOST_MEMORY)


class Submission(BaseModel):
    """The body of ``/run`` and ``/runsync``."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    input: SkipValidation[JsonValue]  # it has just been read as JSON
    policy: Policy = Field(default_factory=Policy)  # a default would be copied deeply
    webhook: str | None = Field(default=None, max_length=_LONGEST_ADDRESS)
    s3_config: dict[str, JsonValue] | None = Field(default=None, alias="s3Config", repr=False)
    _size: int = PrivateAttr(default=0)

    @property
    def size(self) -> int:
        """Bytes that it had; 0 if it was not sent."""
        return self._size

    @classmethod
    def parse(cls, body: bytes, limits: GatewayLimits) -> Submission:
        """Validate a request's body.

        Raises:
            WorkflowInvalid: Names what is wrong.
        """
        check_json_values(body, limits.json_values)
        try:
            # In two steps: only this reader can refuse NaN and Infinity.
            submission = cls.model_validate(from_json(body, allow_inf_nan=False))
        except ValidationError as error:
            raise WorkflowInvalid(
                f"The request is not valid: {problems_in(error, 'body')}.",
                advice='Send JSON with the key "input".',
            ) from None
        except ValueError as error:
            raise WorkflowInvalid(f"The request's body is not JSON: {error}.") from None
        submission._size = len(body)
        submission._check(limits)
        if submission.s3_config is not None and isinstance(submission.input, dict):
            # Beside the input, as RunPod's documentation has it; the worker reads it in there.
            submission.input.setdefault("s3Config", submission.s3_config)
        return submission

    def _check(self, limits: GatewayLimits) -> None:
        policy, most = self.policy, limits.longest_time_to_live * 1000
        for name, given, seconds in (
            ("executionTimeout", policy.execution_timeout, limits.shortest_execution_timeout),
            ("ttl", policy.time_to_live, limits.shortest_time_to_live),
        ):
            least = seconds * 1000
            if given is not None and not least <= given <= most:
                raise WorkflowInvalid(
                    f"policy.{name} is {given} ms, which is out of range.",
                    advice=f"Give {least:.0f} to {most:.0f} ms.",
                )
        if self.webhook is not None:
            try:
                webhook_guard(limits).check(self.webhook, WEBHOOK)
            except TargetError as error:
                raise WorkflowInvalid(error.message, advice=error.advice) from None


@dataclass(frozen=True, slots=True)
class Ending:
    """What a log says of a job's end, besides its state.

    Attributes:
        code: The error's code (`errors`), if the job failed.
        files: How many outputs are files.
        size: Bytes of those.
    """

    code: str = ""
    files: int = 0
    size: int = 0

    @classmethod
    def of(cls, output: JsonValue, error: JsonValue) -> Ending:
        """How a job ended, from what its worker gave: `wire.answer.Answer`, or another worker's
        shape, of which only the error is known.
        """
        code = "" if error is None else error_from_runpod(error, output).code
        outputs = output.get("outputs") if isinstance(output, dict) else None
        listed = outputs if isinstance(outputs, list) else []
        sizes = [
            size
            for one in listed
            if isinstance(one, dict) and isinstance(size := one.get("size"), int)
        ]
        total = sum(size for size in sizes if 0 <= size <= _LARGEST_SIZE)
        return cls(code, len(sizes), min(total, _LARGEST_SIZE))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job that was proven dead: its result is taken if it comes after all.

    Attributes:
        number: 1 for the first start.
        worker_id: The worker that had it.
    """

    number: int
    worker_id: str


@dataclass(slots=True, eq=False)
class Job:
    """One job. Times are the queue's clock, in seconds; only the queue changes a job.

    Attributes:
        number: Its place in the order of arrival; the journal gives it.
        created_at: When it was submitted, by the system's clock, in UTC; for people.
        attempt: How often it was started; 0 before the first time.
        boot: Which start of its worker it was given to; see `workers.Worker`.
        lost: How many of its starts were proven dead since it was submitted or retried.
        earlier: Those starts, newest last, for results that come after all.
        repeat_lost: Whether it may be started once more then.
        client: Whose it is: what the client calls itself, else its address.
        needs: Nodes and models that its worker should have.
        expires: When it is dropped, whatever its state.
        execution_timeout: Seconds it may run.
        retention: Seconds its result is stored.
        result_limit: Bytes of the largest result it may have.
        low_priority: Whether it waits behind the others.
        queued: When it was last put into the queue.
        finished: When it became final.
        forgotten: When its result went; it is known for its key's sake from then on.
        more: What `status` has besides, as a JSON object: ``output``, the newest progress, while
            it runs; ``error`` where the gateway itself ended it.
        input: What the client sent, as JSON; ``None`` where that is a file, or not needed any
            more.
        input_file: The SHA-256 of the file with it instead, if it is large.
        input_files: The SHA-256 of the files that the client sent by themselves. They stay in the
            store while they are here; so do the others.
        output_files: The SHA-256 of the outputs that its worker sent by themselves.
        has_used_files: Whether it has ever been on disk with a file that it needs.
        owed: Whether its webhook has yet to be called: until then its result stays.
        result: The name of the file in the store with its result instead, if that is large.
        stream: Chunks that no client has fetched yet, each as JSON.
        ending: How it ended, for the log. In memory only.
    """

    id: str
    created: float
    expires: float
    execution_timeout: float
    retention: float
    result_limit: int
    low_priority: bool = False
    webhook: str | None = None
    idempotency_key: str | None = None
    number: int = 0
    created_at: str = ""
    attempt: int = 0
    boot: str = ""
    lost: int = 0
    earlier: tuple[Attempt, ...] = ()
    repeat_lost: bool = True
    client: str = ""
    batch: str = ""
    priority: int = 0
    front: bool = False
    labels: frozenset[str] = frozenset()
    memory: int = 0
    needs: Needs = field(default_factory=Needs)
    state: RunPodState = RunPodState.IN_QUEUE
    queued: float = 0.0
    started: float | None = None
    finished: float | None = None
    worker_id: str | None = None
    forgotten: float | None = None
    input: bytes | None = None
    input_file: str | None = None
    input_files: frozenset[str] = frozenset()
    output_files: frozenset[str] = frozenset()
    has_used_files: bool = False
    owed: bool = False
    more: bytes = b"{}"
    result: str | None = None
    stream: list[bytes] = field(default_factory=list)
    stream_bytes: int = 0
    ending: Ending = Ending()

    @property
    def may_be_retried(self) -> bool:
        """Whether a client may have it run again; its input stays for that."""
        return self.state in (RunPodState.FAILED, RunPodState.TIMED_OUT)

    def status(self) -> dict[str, JsonValue]:
        """What ``/status`` answers: `wire.runpod.JobStatus`, without ``output`` and ``error``, and
        without the keys that are empty.
        """
        answer: dict[str, JsonValue] = {"id": self.id, "status": self.state.value}
        if self.started is not None:
            answer["delayTime"] = round((self.started - self.queued) * 1000)
            answer["workerId"] = self.worker_id
            if self.attempt > 1:
                answer["attempt"] = self.attempt
            if self.finished is not None:
                answer["executionTime"] = round((self.finished - self.started) * 1000)
        return answer


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker was given. What the worker says of it counts while the job has that
    worker and that attempt.
    """

    job: Job
    worker_id: str
    attempt: int
