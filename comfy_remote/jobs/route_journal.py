"""The journal of routes, in the record: see `targets.route.journal.Journal`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import JobNotFound, SpendingCap
from ..schedule.money import Allowance
from ..targets.base import RunRequest, Target
from ..targets.route.journal import Begun, Past, Step, cooled_for
from ..workflow.prompt import Prompt
from ..workflow.workload import workload_of
from .charges import Allowed, charge_of
from .estimate import guess_by
from .prices import known_price
from .record import Record
from .recorded_request import request_from_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..aio import Background
    from ..config.settings import Configuration

__all__ = ["RouteJournal"]

_MOST_ALLOWANCES = 1000
"""Of a job that is sent on after so many others, the caps that are configured count."""


class RouteJournal:
    """A `Journal` for the route of one client.

    Args:
        configured: Reads the configuration, for prices and caps. Blocking.
        background: Where old prices are renewed.
    """

    def __init__(
        self,
        record: Record,
        configured: Callable[[], Configuration],
        background: Background | None = None,
    ) -> None:
        self._record = record
        self._configured = configured
        self._background = background
        self._allowances: dict[str, Allowance] = {}

    def allow(self, job_id: str, allowance: Allowance) -> None:
        """Note what may be spent on a job that is about to be sent, wherever it goes."""
        self._allowances[job_id] = allowance
        while len(self._allowances) > _MOST_ALLOWANCES:
            self._allowances.pop(next(iter(self._allowances)))

    async def begin(
        self, step: Step, request: RunRequest, target: Target, at_most: int | None = None
    ) -> Begun:
        """See `Journal.begin`."""
        allowed = await self._allowed(request, target)
        return await self._record.write(
            self._record.routes.begin,
            step,
            None if allowed is None else allowed.charge,
            () if allowed is None else allowed.caps,
            at_most,
        )

    async def over_cap(self, request: RunRequest, target: Target) -> str:
        """See `Journal.over_cap`."""
        allowed = await self._allowed(request, target)
        if allowed is None:
            return ""
        try:
            await self._record.read_at_once(
                self._record.ledger.check, allowed.charge, allowed.caps, request.batch
            )
        except SpendingCap as error:
            return error.message
        return ""

    async def _allowed(self, request: RunRequest, target: Target) -> Allowed | None:
        """What a request may cost at a member."""
        allowance = self._allowances.get(request.job_id)
        if allowance is None:  # another program has sent it before
            allowance = await self._record.read(self._record.allowance, request.job_id)
        return await charge_of(
            *(target, self._record, request.prompt),
            await asyncio.to_thread(self._configured),
            allowance,
            batch=request.batch,
        )

    async def note(self, step: Step) -> None:
        """See `Journal.note`."""
        await self._record.write(self._record.routes.note, step)

    async def steps(self, job_id: str) -> Sequence[Step]:
        """See `Journal.steps`."""
        return await self._record.read(self._record.routes.steps, job_id)

    async def cancel(self, job_id: str) -> None:
        """See `Journal.cancel`."""
        await self._record.write(self._record.routes.cancel, job_id)

    async def cancelled(self, job_id: str) -> bool:
        """See `Journal.cancelled`."""
        return await self._record.read(self._record.routes.cancelled, job_id)

    async def request(self, job_id: str) -> RunRequest | None:
        """See `Journal.request`; without the workflow that pictures are saved with."""

        def read() -> RunRequest | None:
            try:
                entry = self._record.get(job_id)
            except JobNotFound:
                return None
            sent = self._record.sent(job_id)
            if sent is None:
                return RunRequest(job_id, entry.prompt, repo_list="", batch=entry.batch)
            request = request_from_json(job_id, entry.prompt, sent)
            return None if request is None else replace(request, batch=entry.batch)

        return await self._record.read(read)

    async def failed(self, member: str) -> None:
        """See `Journal.failed`."""
        await self._record.write(self._record.routes.failed, member, cooled_for)

    async def worked(self, member: str) -> None:
        """See `Journal.worked`."""
        await self._record.write(self._record.routes.worked, member)

    async def past(
        self, members: Sequence[str], prompt: Prompt, *, learned: bool
    ) -> Mapping[str, Past]:
        """See `Journal.past`."""
        known = await self._record.read_at_once(self._past, members, prompt, learned)
        if not learned:
            return known
        configuration = await asyncio.to_thread(self._configured)
        prices = await asyncio.gather(
            *(known_price(name, configuration, background=self._background) for name in known)
        )
        return {
            name: replace(past, price=price)
            for (name, past), price in zip(known.items(), prices, strict=True)
        }

    def _past(self, members: Sequence[str], prompt: Prompt, learned: bool) -> Mapping[str, Past]:
        record, routes = self._record, self._record.routes
        cooling, ours = routes.cooling(members), routes.ours()
        known = {name: Past(cooling.get(name, 0.0), ours.get(name, 0)) for name in members}
        if not learned:
            return known
        workload = workload_of(prompt)
        last = routes.last_target(workload.shape)
        for name, past in known.items():
            guess = guess_by(record.past_runs(name, workload.shape), workload)
            known[name] = replace(
                past,
                seconds=None if guess is None else guess.seconds,
                start=record.last_start(name),
                had_models=name == last,
            )
        return known
