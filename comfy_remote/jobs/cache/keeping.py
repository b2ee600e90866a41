"""Stores what a run gave, once it is certain what ran it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ComfyRemoteError
from ...events import Finished, JobState
from ...media.receive import Received
from ...targets.base import server_of
from ..record.results import StoredResult
from ..sent_inputs import check_unchanged
from .hit import stored_output

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ...outputs import RemoteOutput
    from ...schedule.cache_key import Verdict
    from ...targets.base import RunRequest, Target
    from .store import ResultStore

__all__ = ["Keeper"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeper:
    """Stores the result of one job. Nothing that goes wrong here fails the job.

    Attributes:
        verdict: As it was before the job was sent.
        asked_again: Gives it once more: what runs the job may have been replaced meanwhile.
    """

    target: Target
    request: RunRequest
    source: str
    verdict: Verdict
    store: ResultStore
    asked_again: Callable[[], Awaitable[Verdict]]

    async def keep(
        self,
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
        run_seconds: float | None,
    ) -> None:
        """Store what was fetched, if it is all of it and it is certain what it was made by."""
        try:
            why_not = await self._why_not(finished, fetched)
            if not why_not:
                await asyncio.to_thread(self._put, finished, fetched, run_seconds)
        except (ComfyRemoteError, OSError, sqlite3.Error) as error:
            _log.warning("The result of job %s was not cached: %s", self.request.job_id, error)
        else:
            if why_not:
                _log.info("The result of job %s was not cached: %s", self.request.job_id, why_not)

    async def _why_not(
        self,
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
    ) -> str:
        """Why it must not be stored; empty if it may."""
        if finished.state is not JobState.SUCCEEDED or finished.error or not finished.outputs:
            return "it has no result."
        if finished.problems or finished.details.get("warnings"):
            return "something was missing, or was warned of."
        whole = [here for _, here in fetched if isinstance(here, Received) and not here.doubt]
        if len(whole) < len(fetched) or {one.file for one, _ in fetched} != {
            one.file for one in finished.outputs
        }:
            return "not all of its outputs were fetched whole."
        made_by = {output.node_id for output in finished.outputs}
        if None in made_by:
            return "its worker does not say which nodes made the outputs."
        cached = finished.details.get("cached_nodes", [])
        drawn = {output.drawn_node for output in finished.outputs}
        if from_memory := {*map(str, cached if isinstance(cached, list) else [])} & (
            self.verdict.to_load | drawn
        ):
            nodes = ", ".join(sorted(from_memory))
            return f"the engine had results of nodes {nodes} in its memory from an earlier run."
        await asyncio.to_thread(check_unchanged, self.request.files)
        again = await self.asked_again()
        if again.key != self.verdict.key or again.one_process != self.verdict.one_process:
            return "what runs it has changed since it was sent."
        if self.verdict.one_process and not server_of(self.target):
            return "its server has no address of its own."
        return ""

    def _put(
        self,
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
        run_seconds: float | None,
    ) -> None:
        now, key = time.time(), self.verdict.key
        here = [(output, one) for output, one in fetched if isinstance(one, Received)]
        assert key is not None  # noqa: S101  else there would be no keeper
        result = StoredResult(
            key=key,
            job_id=self.request.job_id,
            created=now,
            used=now,
            target=self.target.name,
            source=self.source,
            server=dict(server_of(self.target)) if self.verdict.one_process else None,
            run_seconds=run_seconds,
            size=sum(one.size for _, one in here),
            outputs=[stored_output(output, one.size, one.sha256) for output, one in here],
            shown={node_id: dict(values) for node_id, values in finished.shown.items()},
        )
        self.store.put(result, [(one.sha256, one.path) for _, one in here])
