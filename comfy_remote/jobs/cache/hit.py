"""A stored result as the job that it saves: the events and files of a job, from this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...errors import OutputLost
from ...events import Event, Finished, JobState, Log, OutputReady, Shown
from ...media.files import CHUNK_SIZE
from ...outputs import OutputSource, RemoteOutput
from ...targets.base import Capabilities, Health, RemoteRef, RunRequest
from ...units import ago_text, dollars
from .store import ResultStore

if TYPE_CHECKING:
    from ...types import JsonValue
    from ...workflow.prompt import Prompt
    from ..record import JobEntry, Record
    from ..record.results import StoredResult

__all__ = ["CachedTarget", "cached_sentence", "described", "ref_of", "reopened", "stored_output"]


def ref_of(job_id: str, server: Mapping[str, str] | None = None) -> RemoteRef:
    """The reference of a hit's job, which only its stored result has.

    Args:
        server: Where it would have run, to run it again there.
    """
    return RemoteRef(job_id, job_id, dict(server or {}))


async def reopened(record: Record, entry: JobEntry) -> CachedTarget:
    """The target of a job that was a hit, from the record.

    Raises:
        OutputLost: Its result is no longer stored.
    """
    cached = entry.cached or {}
    store = ResultStore(record)
    result = await asyncio.to_thread(store.find, str(cached.get("key")))
    if result is None:
        raise OutputLost(
            "The job's result came from the cache, and is no longer there.",
            advice="Run the workflow again.",
        )
    return CachedTarget(entry.target, result, store, cached, entry.created)


def described(result: StoredResult, saved: float | None) -> dict[str, JsonValue]:
    """What the record and the last event say of a hit: see `JobEntry.cached`.

    Args:
        saved: US dollars that a run would have cost, if that is known.
    """
    return {
        "key": result.key,
        "job": result.job_id,
        "target": result.target,
        "at": result.created,
        "run_seconds": result.run_seconds,
        "saved": None if saved is None else round(saved, 6),
    }


def cached_sentence(cached: Mapping[str, JsonValue], now: float) -> str:
    """For people: ``from 2 h ago, $0.02 saved``.

    Args:
        cached: As `described` gives it.
        now: Seconds since the epoch.
    """
    at, saved = cached.get("at"), cached.get("saved")
    when = f"from {ago_text(now - at)}" if isinstance(at, int | float) else "stored"
    return f"{when}, {dollars(saved)} saved" if isinstance(saved, int | float) and saved else when


def stored_output(output: RemoteOutput, size: int, sha256: str) -> dict[str, JsonValue]:
    """An output as a stored result has it."""
    said = asdict(replace(output, size=size, sha256=sha256, source=None))
    del said["source"]
    return said


@dataclass(frozen=True)
class CachedTarget:
    """A target with one job, which has ended: a `StoredResult`.

    Attributes:
        name: Of the target that would have run it.
        cached: See `described`.
        now: Seconds since the epoch when it was found.
    """

    name: str
    result: StoredResult
    store: ResultStore
    cached: Mapping[str, JsonValue]
    now: float

    async def __aenter__(self) -> CachedTarget:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return

    @property
    def local(self) -> bool:
        """Always."""
        return True

    async def has_input(self, name: str) -> bool:
        """Nothing is sent to it."""
        return False

    async def submit(self, request: RunRequest) -> RemoteRef:
        """The job has run already."""
        return ref_of(request.job_id)

    async def find(self, job_id: str) -> RemoteRef | None:
        """It has any job."""
        return ref_of(job_id)

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """A sentence, what there is, and the end."""
        outputs = tuple(self._output(said) for said in self.result.outputs)
        yield Log(f"Taken from the cache: a result {cached_sentence(self.cached, self.now)}.")
        for node_id, values in self.result.shown.items():
            yield Shown(node_id, values)
        for output in outputs:
            yield OutputReady(output)
        yield Finished(
            JobState.SUCCEEDED,
            outputs=outputs,
            details={"cache": dict(self.cached)},
            shown=self.result.shown,
        )

    def _output(self, said: Mapping[str, JsonValue]) -> RemoteOutput:
        file = self.store.path_of(str(said["sha256"]))
        return RemoteOutput(**cast("dict[str, Any]", said), source=OutputSource(file=file))

    async def cancel(self, ref: RemoteRef) -> None:
        """It has ended."""

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The file's bytes."""
        path = output.source.file if output.source is not None else None
        if path is None:
            raise OutputLost(f"{output.filename} is not in the cache.")

        def chunk(at: int) -> bytes:
            with Path(path).open("rb") as file:
                file.seek(at)
                return file.read(CHUNK_SIZE)

        try:
            while data := await asyncio.to_thread(chunk, offset):
                yield data
                offset += len(data)
        except OSError as error:
            raise OutputLost(
                f"{output.filename} is no longer in the cache.", advice="Run the workflow again."
            ) from error

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """It runs nothing."""
        return Capabilities(nodes=None, device=None, engine=None)

    async def health(self) -> Health:
        """It runs nothing."""
        return Health(ready=0, running=0, queued=0)
