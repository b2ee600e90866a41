"""A client's cache: looks results up, and has new ones stored."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...aio import within
from ...errors import ComfyRemoteError
from ...schedule.cache_key import Doubt, Verdict, early_doubts
from ...targets.base import ChoosesAmong, ConfirmsWhatRan, TellsWhatRuns, server_of
from ...targets.kinds import sent_to
from .asking import PATIENCE, Answers, asked_of, judged_with, verdict_on
from .hit import CachedTarget, cached_sentence, described
from .keeping import REMOTE_ID, Keeper
from .store import ResultStore

if TYPE_CHECKING:
    from ...config.settings import Configuration
    from ...events import Finished
    from ...targets.base import RunRequest, Target
    from ...types import JsonValue
    from ..record import Record
    from ..record.results import StoredResult

__all__ = ["CacheAnswer", "ResultCache"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheAnswer:
    """Whether a run would be taken from the cache.

    Attributes:
        cached: Of a result that would be taken: see `JobEntry.cached`; ``None`` if none would.
    """

    verdict: Verdict
    cached: dict[str, JsonValue] | None

    def sentence(self, now: float) -> str:
        """For people.

        Args:
            now: Seconds since the epoch.
        """
        if self.verdict.key is None:
            return "It would run, and its result would not be cached."
        if self.cached is not None:
            found = cached_sentence(self.cached, now)
            return f"It would be taken from the cache: a result {found}."
        if self.verdict.one_process:
            return (
                "It would run, and its result would be cached until that ComfyUI is started again: "
                "packs are installed there whose content it does not say, and a pack may change "
                "what ComfyUI's own nodes do."
            )
        return "It would run, and its result would be cached."

    def to_json(self) -> dict[str, JsonValue]:
        """``{"would_hit", "key", "doubts", "until_restart", "from"}``."""
        return {
            "would_hit": self.cached is not None,
            "key": self.verdict.key,
            "doubts": [doubt.to_json() for doubt in self.verdict.doubts],
            "until_restart": self.verdict.one_process,
            "from": self.cached,
        }


class ResultCache:
    """The stored results, for one request to a target. Of a route, the member counts that gets it.

    Args:
        named: What the configuration calls the target.
        configuration: Says its limits, the packs that the owner vouches for, and prices.
        now: Seconds since the epoch.
        answers: Shared with other runs on the target.
    """

    def __init__(
        self,
        target: Target,
        record: Record,
        configuration: Configuration,
        named: str | None = None,
        *,
        now: Callable[[], float] = time.time,
        answers: Answers | None = None,
    ) -> None:
        self._target = target
        self._there: Target | None = None
        self._answers = answers or Answers()
        self._named = named or target.name
        self._configuration = configuration
        self._now = now
        self.store = ResultStore(record, configuration.cache, now=now)

    async def verdict(
        self, request: RunRequest, *, lately: float = 0.0, patience: float = PATIENCE
    ) -> Verdict:
        """The key of a request, or why it has none: see `verdict_on`."""
        there: Target | None = self._target
        if isinstance(self._target, ChoosesAmong):
            if doubts := early_doubts(asked_of(request), self._configuration.cache.packs):
                return Verdict(None, doubts)
            there = await self._target.likely(request.prompt)
        self._there = there
        if there is None:
            return Verdict(None, (Doubt(f"No member of {self._target.name} can take it now."),))
        return await self._verdict_on(there, request, lately=lately, patience=patience)

    async def _verdict_on(
        self, target: Target, request: RunRequest, *, lately: float, patience: float
    ) -> Verdict:
        packs, answers = self._configuration.cache.packs, self._answers
        verdict = await verdict_on(
            *(target, request, packs), answers=answers, lately=lately, patience=patience
        )
        return self._for(target, verdict)

    def _for(self, target: Target, verdict: Verdict) -> Verdict:
        """A verdict that holds for a target: its result serves others if the owner names it.

        What any other says of itself may be made up, so that its results are taken for another's.
        """
        server = server_of(target)
        if self._configuration.owner_names(target.name, sent_to(server)):
            return verdict
        return verdict.only_at(json.dumps({"name": "" if server else target.name, **server}))

    async def find(self, verdict: Verdict) -> StoredResult | None:
        """The stored result of a key, if it may be handed out now.

        A store that cannot be used has none.
        """
        if verdict.key is None:
            return None
        try:
            result = await asyncio.to_thread(self.store.find, verdict.key)
            if result is None or (result.server is None and not verdict.one_process):
                return result
            if await self._still_runs(result):
                return result
            _log.info("What ran job %s may have been replaced since.", result.job_id)
        except (ComfyRemoteError, OSError, sqlite3.Error, asyncio.TimeoutError) as error:
            _log.warning("The cache of results was not used: %s", error)
        return None

    async def _still_runs(self, result: StoredResult) -> bool:
        there, server = self._there, dict(result.server or {})
        remote_id = server.pop(REMOTE_ID, result.job_id)
        if not (isinstance(there, TellsWhatRuns) and server and server == dict(server_of(there))):
            return False
        return await within(there.still_runs(remote_id), PATIENCE)

    async def take(self, result: StoredResult) -> CachedTarget:
        """A stored result as a target, noted as used."""
        cached = described(result, await asyncio.to_thread(self.saved, result))
        try:
            await asyncio.to_thread(self.store.taken, result.key)
        except (ComfyRemoteError, sqlite3.Error) as error:
            _log.warning("That a stored result was used could not be noted: %s", error)
        return CachedTarget(self._target.name, result, self.store, cached, self._now())

    async def answer(self, request: RunRequest) -> CacheAnswer:
        """Whether a request would be taken from the cache, and if not, why. Nothing is run."""
        verdict = await self.verdict(request)
        result = await self.find(verdict)
        if result is None:
            return CacheAnswer(verdict, None)
        saved = await asyncio.to_thread(self.saved, result)
        return CacheAnswer(verdict, described(result, saved))

    def saved(self, result: StoredResult) -> float | None:
        """US dollars that running it here would cost, by the time that it took. Blocking.

        ``None`` if that is not known, or the target costs the same if it runs nothing.
        """
        from ..prices import remembered_price  # here: most runs take nothing from the cache

        there = self._there
        name = self._named if there is None or there is self._target else there.name
        by_hour = self._configuration.billing_of(name) == "by hour"
        if result.run_seconds is None or by_hour:
            return None
        price = remembered_price(name, self._configuration).price
        return None if price is None else price.of(result.run_seconds)

    def keeper(self, request: RunRequest, source: str, verdict: Verdict) -> Keeper:
        """Stores the result of that request."""

        async def made_by(finished: Finished, target: Target) -> Verdict:
            if not isinstance(target, ConfirmsWhatRan):
                return await self._verdict_on(target, request, lately=0.0, patience=PATIENCE)
            said = await within(target.what_ran(finished.details), PATIENCE)
            if said is None:
                return Verdict(None, (Doubt(f"{target.name} did not say what ran it."),))
            packs = self._configuration.cache.packs
            return self._for(target, judged_with(target, request, said, packs))

        return Keeper(self._target, request, source, verdict, self.store, made_by)

    def may_store(self, verdict: Verdict, request: RunRequest) -> bool:
        """Whether a result may be stored once it is there.

        Where each result says what ran it, that need not be known before.
        """
        if verdict.key is not None:
            return True
        packs = self._configuration.cache.packs
        late = isinstance(self._there, ConfirmsWhatRan)
        return late and not early_doubts(asked_of(request), packs)
