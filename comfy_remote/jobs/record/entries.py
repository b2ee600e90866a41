"""What the record gives: a job, its saved outputs, and how long past runs took."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from ...data_class import dataclass
from ...errors import ComfyRemoteError, error_from_json
from ...events import DidItRun, JobState
from ...targets.base import RemoteRef
from ...types import JsonValue
from ...workflow.prompt import Prompt
from .schema import whole_prompt

__all__ = [
    "LINE_COLUMNS",
    "SAVED_BEFORE",
    "JobEntry",
    "JobLine",
    "PastRun",
    "Said",
    "SavedOutput",
    "entry_of",
    "line_of",
]

SAVED_BEFORE = "outputs_saved"
"""In the details of a failed job's error: how many outputs it had saved before."""

LINE_COLUMNS = (
    "id, created, updated, target, source, state, error, outputs, started, run_seconds, attempt, "
    "folder, cached, placed, (SELECT name FROM batches WHERE batches.id = jobs.batch) AS batch, "
    "CASE WHEN state IN ('queued', 'running') THEN progress END AS progress"
)
"""What `line_of` reads."""

_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class SavedOutput:
    """An output that is on this machine."""

    path: Path
    node_id: str | None
    kind: str
    filename: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, JsonValue]:
        """As printed and recorded."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True, slots=True)
class Said:
    """A warning that a target or worker gave while a job ran.

    Attributes:
        at: Seconds since the epoch.
    """

    at: float
    message: str


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job as recorded.

    Attributes:
        id: A lower-case UUID.
        created: Seconds since the epoch.
        updated: Seconds since the epoch.
        target: The name or address it was sent to.
        source: The workflow's file, or a word for where it came from.
        folder: Where its outputs are wanted; ``None`` when the caller takes them.
        prompt: API format, as submitted.
        state: The last state known here.
        ref: How to find it on the target; ``None`` until the target has answered.
        progress: The last snapshot, as `event_to_json` gives it; ``None`` before the first.
        error: Why it did not succeed.
        outputs: What was saved here.
        page: For a job that a page, or a server's client, has yet to be shown: see `Record.add`.
        started: Seconds since the epoch when it was first seen to run; ``None`` before.
        run_seconds: How long it ran; ``None`` when that was not seen.
        batch: The id of the batch that it belongs to.
        attempt: Which run of the same prompt it is, from 1: a job that is run again is a job of
            its own.
        first: The id of the first of them; its own id if it is that.
        said: Warnings while it ran, each with its time, the oldest first.
        cached: Of a job that did not run, since its result was stored: the ``job`` that ran, its
            ``target``, when that ended (``at``, seconds since the epoch), its ``run_seconds``, and
            ``saved``, US dollars that a run would have cost; either may be ``None``.
        member: Of a job that was sent by a route, the member that it was last sent to.
    """

    id: str
    created: float
    updated: float
    target: str
    source: str
    folder: Path | None
    prompt: Prompt
    state: JobState
    ref: RemoteRef | None
    progress: dict[str, JsonValue] | None
    error: ComfyRemoteError | None
    outputs: tuple[SavedOutput, ...]
    page: dict[str, JsonValue] | None = None
    started: float | None = None
    run_seconds: float | None = None
    batch: str | None = None
    attempt: int = 1
    first: str = ""
    said: tuple[Said, ...] = ()
    cached: dict[str, JsonValue] | None = None
    member: str | None = None

    @property
    def owed(self) -> bool:
        """Whether outputs of it may still be there to be fetched into its folder."""
        if not self.state.final:
            return True
        made = self.state is JobState.SUCCEEDED or (
            self.error is not None and self.error.details.get(SAVED_BEFORE)
        )
        return bool(made) and self.folder is not None and not self.outputs

    @property
    def did_it_run(self) -> DidItRun | None:
        """Of a job without a result, how certain it is that it did not run, if known."""
        return DidItRun.of(self.error)


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list that is asked for every few seconds: all but what is large.

    Attributes:
        error: Its first 300 characters, without its advice; ``None`` if there is none.
        outputs: How many were saved here.
        again: Whether it has a folder for its outputs, so that it can be run again by itself.
        batch: The name of the batch that it belongs to, if that is known.
        cached: As in `JobEntry`.

    The others are as in `JobEntry`.
    """

    id: str
    created: float
    updated: float
    target: str
    source: str
    state: JobState
    progress: dict[str, JsonValue] | None
    error: str | None
    outputs: int
    started: float | None
    run_seconds: float | None
    attempt: int
    again: bool
    batch: str | None
    cached: dict[str, JsonValue] | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """How long a job that succeeded ran.

    Attributes:
        seconds: Without the time in the queue.
        prompt: API format, as it ran.
    """

    seconds: float
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class PastStart:
    """A worker that had to start for a job.

    Attributes:
        waited: Seconds until the job began.
        longer: Seconds that the job then ran longer than others of its workflow; ``None`` where
            that is not known.
    """

    waited: float
    longer: float | None


def entry_of(row: sqlite3.Row) -> JobEntry:
    """The job in a row of ``jobs`` joined with ``prompts``.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: Something else has changed the row.
    """
    ref = None
    if row["remote_id"] is not None:
        ref = RemoteRef(row["id"], row["remote_id"], json.loads(row["details"]))
    return JobEntry(
        id=row["id"],
        created=row["created"],
        updated=row["updated"],
        target=row["target"],
        source=row["source"],
        folder=Path(row["folder"]) if row["folder"] else None,
        prompt=whole_prompt(row["prompt"], row["prompt_values"]),
        state=JobState(row["state"]),
        ref=ref,
        progress=json.loads(row["progress"]) if row["progress"] else None,
        error=error_from_json(json.loads(row["error"])) if row["error"] else None,
        outputs=tuple(
            SavedOutput(**{**saved, "path": Path(saved["path"])})
            for saved in json.loads(row["outputs"] or "[]")
        ),
        page=json.loads(row["page"]) if row["page"] else None,
        started=row["started"],
        run_seconds=row["run_seconds"],
        batch=row["batch"],
        attempt=row["attempt"],
        first=row["first"] or row["id"],
        said=tuple(Said(**one) for one in json.loads(row["said"] or "[]")),
        cached=json.loads(row["cached"]) if row["cached"] else None,
        member=row["placed"],
    )


def line_of(row: sqlite3.Row) -> JobLine:
    """The job in a row of `LINE_COLUMNS`.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: Something else has changed the row.
    """
    error = json.loads(row["error"])["message"] if row["error"] else None
    return JobLine(
        id=row["id"],
        created=row["created"],
        updated=row["updated"],
        target=row["target"],
        source=row["source"],
        state=JobState(row["state"]),
        progress=json.loads(row["progress"]) if row["progress"] else None,
        error=None if error is None else str(error)[:_LONGEST_ERROR],
        outputs=len(json.loads(row["outputs"] or "[]")),
        started=row["started"],
        run_seconds=row["run_seconds"],
        attempt=row["attempt"],
        again=row["folder"] is not None,
        batch=row["batch"],
        cached=json.loads(row["cached"]) if row["cached"] else None,
        member=row["placed"],
    )
