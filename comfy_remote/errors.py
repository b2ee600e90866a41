"""The errors Comfy Remote raises, one small family.

```
ComfyRemoteError
├── ConfigurationError      a setting here is wrong or missing
│   └── NotTrusted          … or named by a file that the owner has not trusted
├── SpendingCap             it might cost more than its user allows
├── AuthenticationError     the target refused the key (401, 403)
├── TargetError             the target and this machine did not understand each other
│   ├── TargetUnreachable   no answer: refused, timed out, dropped, 5xx
│   ├── TargetNotFound      no such endpoint (404)
│   ├── RateLimited         429 for longer than we were willing to wait
│   ├── TargetStalled       it accepts jobs and runs none
│   ├── SubmissionUnknown   the answer to a submission was lost; it may have been accepted
│   └── DeploymentFailed    a workflow could not be deployed there
├── WorkflowInvalid         the workflow cannot run as it is
│   ├── InputFileMissing    a file that the workflow loads is not here
│   ├── CutImpossible       the marked part of it cannot run elsewhere
│   ├── LockNotMet          the target is not what a lock says
│   ├── RequestTooLarge     the request is larger than the target accepts
│   └── ValueCannotTravel   a value (a model, a function) exists only where it was made
├── ExecutionFailed         the target ran the job, and the job failed
│   ├── OutOfMemory         … because the GPU (or the machine) ran out of memory
│   ├── EngineCrashed       … because the ComfyUI process died
│   ├── ModelUnavailable    … because a model could not be fetched
│   └── NodesUnavailable    … because node packs could not be installed
├── JobTimedOut             no result within the time the caller allowed
├── JobCancelled            somebody cancelled it
├── JobExpired              the target dropped the job before it ran, or no longer has its result
├── OutputError             the job ran, but its outputs could not be fetched completely
│   ├── OutputTooLarge      the result does not fit what the target may return
│   ├── OutputLost          the target no longer has the output, or the job made none
│   └── OutputCorrupt       length or SHA-256 differ from what was announced
├── ValueInvalid            a received value is damaged, too large, or not in our format
├── LocalStorageError       this machine could not write (disk full, no permission)
└── JobNotFound             the record has no such job
```

Every error has a stable ``code`` (what scripts test for), a ``message`` (what happened and
why), an ``advice`` (what to do next) and JSON-able ``details``. The command line's exit
status and the bodies of HTTP answers derive from them alone.

Advice that a command or ComfyUI's page words in its own way (a flag, a button) is a `Hint` with
facts; see `advice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from .advice import Advice, advice_from_json
from .types import JsonValue

__all__ = [
    "AuthenticationError",
    "ComfyRemoteError",
    "ConfigurationError",
    "CutImpossible",
    "DeploymentFailed",
    "EngineCrashed",
    "ExecutionFailed",
    "InputFileMissing",
    "JobCancelled",
    "JobExpired",
    "JobNotFound",
    "JobTimedOut",
    "LocalStorageError",
    "LockNotMet",
    "ModelUnavailable",
    "NodesUnavailable",
    "NotTrusted",
    "OutOfMemory",
    "OutputCorrupt",
    "OutputError",
    "OutputLost",
    "OutputTooLarge",
    "RateLimited",
    "RequestTooLarge",
    "SpendingCap",
    "SubmissionUnknown",
    "TargetError",
    "TargetNotFound",
    "TargetStalled",
    "TargetUnreachable",
    "ValueCannotTravel",
    "ValueInvalid",
    "WorkflowInvalid",
    "error_codes",
    "error_from_json",
    "node_problems",
]


class ComfyRemoteError(Exception):
    """Base of all errors of this package.

    Args:
        message: What happened and why, in a sentence or two.
        advice: What to do next, in words that suit everybody: ``Hint.RESUME(job_id=…)`` where a
            face has its own, else a plain string; empty when there is nothing to add.
        details: JSON-able facts for programs (node ids, sizes, HTTP status).
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        details: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.details: dict[str, JsonValue] = dict(details or {})

    def __init_subclass__(
        cls, *, code: str = "", exit_status: int | None = None, http_status: int | None = None
    ) -> None:
        super().__init_subclass__()
        cls.code = code or cls.code
        cls.exit_status = exit_status or cls.exit_status
        cls.http_status = http_status or cls.http_status

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".rstrip()

    def to_json(self) -> dict[str, JsonValue]:
        """``{"code", "message", "advice", "details"}``; the inverse of `error_from_json`.

        Where the advice is a `Hint`, also ``"hint": {"code", "facts"}``.
        """
        data: dict[str, JsonValue] = {
            "code": self.code,
            "message": self.message,
            "advice": self.advice,
            "details": self.details,
        }
        if isinstance(self.advice, Advice):
            data["hint"] = self.advice.to_json()
        return data


class ConfigurationError(ComfyRemoteError, code="configuration", exit_status=2, http_status=400):
    """A setting, flag or environment variable is wrong or missing."""


class NotTrusted(ConfigurationError, code="not_trusted", http_status=403):
    """Named by something that the owner has not trusted: a folder's file, a workflow, a page.

    ``details`` has ``path`` and ``names`` where a file can be trusted.
    """

    asks_for: tuple[Path, tuple[str, ...]] | None = None
    """The same, for code that asks a person. Never from JSON: no remote may make us ask."""

    page_asks: dict[str, JsonValue] | None = None
    """Where it is an address: what ComfyUI's page asks about, ``address`` and ``nodes``. Not from
    JSON, either."""


class SpendingCap(ComfyRemoteError, code="spending_cap", exit_status=2, http_status=402):
    """A job might cost more than its user allows, or its price is not known. Nothing was sent.

    ``details`` may hold, in US dollars, ``cap``, ``spent`` and ``reserved``, and ``target`` and
    ``span`` (``job``, ``day``, ``month``, ``batch``).
    """


class AuthenticationError(ComfyRemoteError, code="authentication", exit_status=3, http_status=401):
    """The target refused the key (HTTP 401 or 403)."""


class TargetError(ComfyRemoteError, code="target", exit_status=3, http_status=502):
    """The target answered in a way that cannot be used, or not at all."""


class TargetUnreachable(TargetError, code="target_unreachable"):
    """No usable answer: connection refused or lost, timeout, HTTP 5xx."""


class TargetNotFound(TargetError, code="target_not_found", http_status=404):
    """The address answers, but has no such endpoint (HTTP 404)."""


class RateLimited(TargetError, code="rate_limited", http_status=429):
    """HTTP 429 for longer than we were willing to wait."""


class TargetStalled(TargetError, code="target_stalled"):
    """The target answers and accepts jobs, but runs none: the job may still be in its queue."""


class SubmissionUnknown(TargetError, code="submission_unknown"):
    """The answer to a submission was lost. It is not sent again: it might run twice."""


class DeploymentFailed(TargetError, code="deployment_failed"):
    """A workflow could not be deployed. ``details["log"]`` may hold the last lines of the log."""


class WorkflowInvalid(ComfyRemoteError, code="workflow_invalid", exit_status=4, http_status=400):
    """The workflow cannot run as it is.

    ``details["node_errors"]``, when present, has ComfyUI's own shape:
    ``{node id: {"class_type", "errors": [{"type", "message", "details", "extra_info"}]}}``.
    """


class InputFileMissing(WorkflowInvalid, code="input_file_missing"):
    """A file that the workflow loads was found neither here nor on the target."""


class CutImpossible(WorkflowInvalid, code="cut_impossible"):
    """The nodes that are marked to run elsewhere cannot be separated from the others."""


class LockNotMet(WorkflowInvalid, code="lock_not_met"):
    """The target lacks what a lock names, or has another version of it. Nothing was sent.

    ``details["problems"]`` has each thing with its ``target``: see `ready.plan.Item`.
    """


class RequestTooLarge(WorkflowInvalid, code="request_too_large", http_status=413):
    """The request exceeds what the target accepts (RunPod: 10 MB for ``/run``)."""


class ValueCannotTravel(WorkflowInvalid, code="value_cannot_travel"):
    """A value that should go to another machine is an object that exists only on this one.

    ``details`` have ``path`` (where in the value: ``conditioning[0][1].control``) and ``class``.
    """


class ExecutionFailed(ComfyRemoteError, code="execution_failed", exit_status=5):
    """The target ran the job and the job failed.

    ``details`` may hold ``node_id``, ``node_class``, ``exception_type`` and ``traceback``.
    """


class OutOfMemory(ExecutionFailed, code="out_of_memory"):
    """The GPU or the machine ran out of memory."""


class EngineCrashed(ExecutionFailed, code="engine_crashed"):
    """The ComfyUI process (or the worker around it) died while the job ran."""


class ModelUnavailable(ExecutionFailed, code="model_unavailable"):
    """A model that the job needs is missing and cannot be fetched.

    ``details`` may hold ``http_status`` and ``model``.
    """


class NodesUnavailable(ExecutionFailed, code="nodes_unavailable"):
    """Node packs could not be installed; those that were there before still run.

    ``details`` may hold ``pack``, ``step`` (``request``, ``registry``, ``git``, ``requirements``,
    ``install.py``, ``import``, ``start``, ``classes``) and ``log`` (the last lines).
    """


class JobTimedOut(ComfyRemoteError, code="timed_out", exit_status=6, http_status=504):
    """No result within the time allowed."""


class JobCancelled(ComfyRemoteError, code="cancelled", exit_status=130, http_status=409):
    """The job was cancelled."""


class JobExpired(ComfyRemoteError, code="expired", exit_status=7, http_status=410):
    """The target dropped the job before it ran, or no longer has its result."""


class OutputError(ComfyRemoteError, code="output", exit_status=7, http_status=502):
    """The job ran, but its outputs could not be fetched completely."""


class OutputTooLarge(OutputError, code="output_too_large", http_status=413):
    """The result is larger than the target can return."""


class OutputLost(OutputError, code="output_lost", http_status=410):
    """The job succeeded, but there is nothing to fetch."""


class OutputCorrupt(OutputError, code="output_corrupt"):
    """An output's length or SHA-256 differs from what was announced."""


class ValueInvalid(ComfyRemoteError, code="value_invalid", exit_status=7, http_status=400):
    """A received value is damaged, too large, or not in our format."""


class LocalStorageError(ComfyRemoteError, code="local_storage", exit_status=7, http_status=507):
    """This machine could not write a file (disk full, no permission, path too long)."""


class JobNotFound(ComfyRemoteError, code="job_not_found", exit_status=2, http_status=404):
    """The record on this machine has no such job."""


def node_problems(error: ComfyRemoteError) -> Iterator[tuple[str, str, str]]:
    """What ComfyUI found wrong with each node: its id, its class, and the message.

    From ``details["node_errors"]`` (see `WorkflowInvalid`), which may have come from another
    machine: anything of another shape is ignored.
    """
    nodes = error.details.get("node_errors")
    for node_id, node in nodes.items() if isinstance(nodes, dict) else ():
        problems = node.get("errors") if isinstance(node, dict) else None
        for problem in problems if isinstance(problems, list) else ():
            if isinstance(node, dict) and isinstance(problem, dict):
                words = [str(problem[key]) for key in ("message", "details") if problem.get(key)]
                yield node_id, str(node.get("class_type", "?")), ": ".join(words)


def error_codes() -> frozenset[str]:
    """The codes of all our errors."""
    return frozenset(kind.code for kind in _family(ComfyRemoteError))


def _family(root: type[ComfyRemoteError]) -> Iterator[type[ComfyRemoteError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


def error_from_json(data: Mapping[str, JsonValue]) -> ComfyRemoteError:
    """Rebuild the error that `ComfyRemoteError.to_json` described.

    An unknown ``code`` gives `ExecutionFailed` with that code in ``details``, since only
    errors of runs arrive from elsewhere.
    """
    code = str(data.get("code", ""))
    details = data.get("details")
    kind = next((c for c in _family(ComfyRemoteError) if c.code == code), None)
    facts = dict(details) if isinstance(details, dict) else {}
    if kind is None:
        kind = ExecutionFailed
        facts.setdefault("code", code)
    return kind(
        str(data.get("message", "The target reported an error without a message.")),
        advice=advice_from_json(data.get("hint"), str(data.get("advice", ""))),
        details=facts,
    )
