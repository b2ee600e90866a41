"""Run ComfyUI workflows on a GPU elsewhere.

The public face of the library::

    import comfy_remote

    for output in comfy_remote.run("workflow.json", "runpod:abc123", seed=5):
        output.save("output")

Names are loaded when they are first used, so that the command line can show its help without
importing an HTTP stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .batch.draft import BatchOptions
    from .calls.service import call_service
    from .calls.values import ValueForm
    from .errors import (
        AuthenticationError,
        ComfyRemoteError,
        ConfigurationError,
        ExecutionFailed,
        InputFileMissing,
        JobCancelled,
        JobNotFound,
        JobTimedOut,
        LocalStorageError,
        NotTrusted,
        OutOfMemory,
        OutputError,
        OutputLost,
        SpendingCap,
        SubmissionUnknown,
        TargetError,
        TargetUnreachable,
        WorkflowInvalid,
    )
    from .events import (
        DidItRun,
        Event,
        Finished,
        JobState,
        Log,
        NodeText,
        OutputReady,
        Phase,
        Preview,
        Progress,
        Queued,
        Shown,
        Started,
    )
    from .jobs.client import attach, resume
    from .jobs.job import Job
    from .jobs.output import JobOutput, Output
    from .jobs.record import Record
    from .jobs.submission import Submission
    from .library.batch import Batch
    from .library.client import Client, RowResult
    from .library.run import run
    from .library.sync import SyncBatch, SyncClient, SyncJob, SyncJobOutput
    from .workflow.change.prepare import Changes

_NAMES = {
    ".batch.draft": ("BatchOptions",),
    ".calls.service": ("call_service",),
    ".calls.values": ("ValueForm",),
    ".errors": (
        *("AuthenticationError", "ComfyRemoteError", "ConfigurationError", "ExecutionFailed"),
        *("InputFileMissing", "JobCancelled", "JobNotFound", "JobTimedOut", "LocalStorageError"),
        *("NotTrusted", "OutOfMemory", "OutputError", "OutputLost", "SubmissionUnknown"),
        *("SpendingCap", "TargetError", "TargetUnreachable", "WorkflowInvalid"),
    ),
    ".events": (
        *(
            "DidItRun",
            "Event",
            "Finished",
            "JobState",
            "Log",
            "NodeText",
            "OutputReady",
            "Phase",
            "Preview",
        ),
        *("Progress", "Queued", "Shown", "Started"),
    ),
    ".jobs.client": ("attach", "resume"),
    ".jobs.job": ("Job",),
    ".jobs.output": ("JobOutput", "Output"),
    ".jobs.record": ("Record",),
    ".jobs.submission": ("Submission",),
    ".library.batch": ("Batch",),
    ".library.client": ("Client", "RowResult"),
    ".library.run": ("run",),
    ".library.sync": ("SyncBatch", "SyncClient", "SyncJob", "SyncJobOutput"),
    ".workflow.change.prepare": ("Changes",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "AuthenticationError",
    "Batch",
    "BatchOptions",
    "Changes",
    "Client",
    "ComfyRemoteError",
    "ConfigurationError",
    "DidItRun",
    "Event",
    "ExecutionFailed",
    "Finished",
    "InputFileMissing",
    "Job",
    "JobCancelled",
    "JobNotFound",
    "JobOutput",
    "JobState",
    "JobTimedOut",
    "LocalStorageError",
    "Log",
    "NodeText",
    "NotTrusted",
    "OutOfMemory",
    "Output",
    "OutputError",
    "OutputLost",
    "OutputReady",
    "Phase",
    "Preview",
    "Progress",
    "Queued",
    "Record",
    "RowResult",
    "Shown",
    "SpendingCap",
    "Started",
    "Submission",
    "SubmissionUnknown",
    "SyncBatch",
    "SyncClient",
    "SyncJob",
    "SyncJobOutput",
    "TargetError",
    "TargetUnreachable",
    "ValueForm",
    "WorkflowInvalid",
    "__version__",
    "attach",
    "call_service",
    "resume",
    "run",
]


def __getattr__(name: str) -> object:
    if home := _HOMES.get(name):
        return getattr(import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
