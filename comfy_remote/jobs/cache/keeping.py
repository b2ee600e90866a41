"""Stores what a run gave, once it is certain what ran it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ...errors import ComfyRemoteError
from ...events import Finished, JobState
from ...media.receive import Received
from ...targets.base import ConfirmsWhatRan, located, server_of
from ..record.results import StoredResult
from ..sent_inputs import check_unchanged
from .hit import stored_output

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ...outputs import RemoteOutput
    from ...schedule.cache_key import Verdict
    from ...targets.base import RemoteRef, RunRequest, Target
    from .store import ResultStore

__all__ = ["REMOTE_ID", "Keeper"]

REMOTE_ID = "remote_id"
"""In a stored result's ``server``: the id that its job has there."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeper:
    """Stores the result of one job. Nothing that goes wrong here fails the job.

    Attributes:
        target: Where it was sent; for a route, it says which member has run it.
        verdict: As it was before the job was sent.
        made_by: What it is by now, where it has run: that may have been replaced meanwhile.
    """

    target: Target
    request: RunRequest
    source: str
    verdict: Verdict
    store: ResultStore
    made_by: Callable[[Finished, Target], Awaitable[Verdict]]

    async def keep(
        self,
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
        run_seconds: float | None,
        ref: RemoteRef,
    ) -> None:
        """Store what was fetched, if it is all of it and it is certain what it was made by."""
        try:
            why_not = self._incomplete(finished, fetched)
            if not why_not:
                await asyncio.to_thread(check_unchanged, self.request.files)
                ref, there = located(self.target, ref)
                verdict = await self.made_by(finished, there)
                why_not = self._uncertain(finished, verdict, there)
            if not why_not:
                server = {**server_of(there), REMOTE_ID: ref.remote_id}
                made_at = there.name, server if verdict.one_process else None
                put = partial(self._put, verdict, made_at, finished, fetched, run_seconds)
                await asyncio.to_thread(put)
        except (ComfyRemoteError, OSError, sqlite3.Error, asyncio.TimeoutError) as error:
            _log.warning("The result of job %s was not cached: %s", self.request.job_id, error)
        else:
            if why_not:
                _log.info("The result of job %s was not cached: %s", self.request.job_id, why_not)

    def _incomplete(
        self,
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
    ) -> str:
        """What keeps this from being a whole result; empty if nothing does."""
        if finished.state is not JobState.SUCCEEDED or finished.error or not finished.outputs:
            return "it has no result."
        if finished.problems or finished.details.get("warnings"):
            return "something was missing, or there was a warning."
        whole = [here for _, here in fetched if isinstance(here, Received) and not here.doubt]
        if len(whole) < len(fetched) or {one.file for one, _ in fetched} != {
            one.file for one in finished.outputs
        }:
            return "not all of its outputs were fetched whole."
        if any(output.node_id is None for output in finished.outputs):
            return "its worker does not say which nodes made the outputs."
        return ""

    def _uncertain(self, finished: Finished, verdict: Verdict, there: Target) -> str:
        """Why it is not certain what has made the result; empty if it is.

        Args:
            verdict: As it is by now.
            there: Where it has run.
        """
        if verdict.key is None:
            return " ".join(map(str, verdict.doubts))
        said = finished.details.get("cached_nodes", [])
        from_memory = {str(one) for one in said} if isinstance(said, list) else set()
        drawn = {output.drawn_node for output in finished.outputs}
        if old := from_memory & (verdict.to_load | drawn):
            nodes = ", ".join(sorted(old))
            return f"the engine had results of nodes {nodes} in its memory from an earlier run."
        if isinstance(there, ConfirmsWhatRan):
            return ""  # it has said what ran this very job
        if verdict != self.verdict:
            return "what runs it has changed since it was sent."
        if verdict.one_process and not server_of(there):
            return "its server has no address of its own."
        return ""

    def _put(
        self,
        verdict: Verdict,
        made_at: tuple[str, dict[str, str] | None],
        finished: Finished,
        fetched: Sequence[tuple[RemoteOutput, Received | ComfyRemoteError]],
        run_seconds: float | None,
    ) -> None:
        now, key = time.time(), verdict.key
        here = [(output, one) for output, one in fetched if isinstance(one, Received)]
        assert key is not None  # noqa: S101  see `_uncertain`
        result = StoredResult(
            key=key,
            job_id=self.request.job_id,
            created=now,
            used=now,
            target=made_at[0],
            source=self.source,
            server=made_at[1],
            run_seconds=run_seconds,
            size=sum(one.size for _, one in here),
            outputs=[stored_output(output, one.size, one.sha256) for output, one in here],
            shown={node_id: dict(values) for node_id, values in finished.shown.items()},
        )
        self.store.put(result, [(one.sha256, one.path) for _, one in here])
