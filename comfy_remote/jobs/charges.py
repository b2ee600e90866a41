"""What a job may cost on a target, before it is sent; and more of it, while it runs.

What is reserved is the price of the longest that the job can run, if something really ends it then:
the target itself (`targets.base.LimitsTime`), or whoever starts it. Where nothing does, it is one
and a half times what 95 % of its past runs took; without past runs, ten minutes. The start of a
worker is billed as well, so what one took the last time is added.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..aio import Upcoming
from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..errors import JobCancelled, LocalStorageError, SpendingCap
from ..events import Event, Finished, JobState, Log, Queued, Started
from ..schedule.caps import Cap, OnCap
from ..schedule.money import Allowance, Charge, Price
from ..targets.base import LimitsTime, server_of
from ..units import about_text, counted
from ..workflow.prompt import Prompt
from ..workflow.workload import workload_of
from .billed import billed
from .estimate import Learned, learned_by
from .record.ledger import Booked

if TYPE_CHECKING:
    from ..aio import Background
    from ..targets.base import Target
    from .record import Record

__all__ = ["Allowed", "charge_of", "price_at", "still_allowed", "with_top_ups"]

FIRST_RUN = 600.0
"""Seconds that are reserved for a workflow that has not run on a target yet."""
_LEAST = 1.0
"""Seconds that are reserved at least: a target may say of past runs that they took no time."""
_RUNS = 20
_MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a job may cost, and how that is limited.

    Attributes:
        caps: Those that apply to it.
        on_cap: What happens if it runs so long that it would go over one.
    """

    charge: Charge
    caps: tuple[Cap, ...] = ()
    on_cap: OnCap = "warn"


async def charge_of(
    target: Target,
    record: Record,
    prompt: Prompt,
    configuration: Configuration,
    allowance: Allowance = Allowance(),  # noqa: B008 - frozen
    *,
    batch: str | None = None,
    background: Background | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Allowed | None:
    """What a prompt may cost on a target; ``None`` where it costs nothing, as on one's own machine.

    Args:
        target: Its name is looked up in the configuration.
        batch: The id of its batch.
        background: Where an old price is renewed.
    """
    name, billing = billed(target, configuration, environment)
    if billing is None:
        return None
    caps = [] if allowance.over_cap else configuration.caps_on(name)
    if not allowance.over_cap:
        caps += _own_cap(allowance.cap, batch)
    price, why_not = await price_at(
        name, configuration, environment, needed=bool(caps), background=background
    )
    learned, start = await record.read_at_once(_learned, record, target, prompt)
    limit = target.time_limit if isinstance(target, LimitsTime) else None
    bound, why = _bound(limit, allowance.ends_after, learned, start)
    charge = Charge(
        configuration.booked_as(name),
        price,
        bound,
        expected=None if learned is None else learned.seconds,
        why=why,
        unpriced=why_not,
        by_hour=billing == "by hour",
        over_cap=allowance.over_cap,
    )
    return Allowed(charge, tuple(caps), configuration.on_cap_of(name))


def _own_cap(dollars: float | None, batch: str | None) -> list[Cap]:
    """The cap that whoever starts a job gives it, or its batch."""
    if dollars is None:
        return []
    return [Cap(dollars, "batch", None, "the cap of this batch") if batch else Cap(dollars, "job")]


async def price_at(
    name: str,
    configuration: Configuration,
    environment: Mapping[str, str],
    *,
    needed: bool,
    background: Background | None = None,
) -> tuple[Price | None, str]:
    """What an hour costs there; where that is not known, why.

    Args:
        needed: Whether a cap depends on it: then a folder's file may only raise it, since a price
            of nothing would lift every cap.
    """
    from .prices import known_price, remembered_price  # here: most targets cost nothing

    settings = configuration.targets.get(name) or TargetSettings(name)
    said, by_owner = settings.price_per_hour, configuration.of_owner
    booked = configuration.booked_as(name)
    if booked not in by_owner.targets:
        booked = settings.target
    price = await known_price(booked, by_owner, environment, needed=needed, background=background)
    if said is not None and (price is None or said > price.per_hour):
        if price is None and needed:
            return None, "only a folder's comfy-remote.toml sets it, which does not count for caps"
        price = Price(said, "your settings")
    if price is None:
        quote = await asyncio.to_thread(remembered_price, booked, by_owner, environment)
        return None, quote.why
    return price, ""


def _learned(record: Record, target: Target, prompt: Prompt) -> tuple[Learned | None, float]:
    """How long a prompt probably runs there, and how long a worker takes to start."""
    workload = workload_of(prompt)
    times = record.past_times(target.name, workload.shape, _RUNS, server_of(target))
    return learned_by(times, workload.work), record.last_start(target.name) or 0.0


def _bound(
    limit: float | None, ends_after: float | None, learned: Learned | None, start: float
) -> tuple[float, str]:
    """Seconds to reserve for, and why so many."""
    bounds = [] if limit is None else [limit + start]
    if ends_after is not None:
        bounds.append(ends_after)
    if bounds:
        return min(bounds), f"it may run for {about_text(min(bounds))}"
    if learned is not None:
        bound = max(_LEAST, _MARGIN * learned.high + start)
        by = counted(learned.runs, "earlier run")
        starting = f" and the start of a worker, {about_text(start)}" if start else ""
        return bound, f"{about_text(bound)} at most, by {by}{starting}"
    return FIRST_RUN, f"{about_text(FIRST_RUN)} are reserved for a workflow's first run there"


# While it runs


def still_allowed(
    record: Record, job_id: str, configured: Callable[[], Configuration]
) -> Allowed | None:
    """What is reserved for a job that is followed again, and what limits it now. Blocking."""
    booking = record.ledger.of(job_id)
    if booking is None or booking.booked is not Booked.HELD:
        return None
    configuration, target = configured(), booking.target
    allowance = record.allowance(job_id)
    charge = Charge(
        *(target, booking.price, booking.bound),
        by_hour=booking.by_hour,
        over_cap=booking.over_cap or allowance.over_cap,
    )
    caps = [*configuration.caps_on(target), *_own_cap(allowance.cap, booking.batch)]
    return Allowed(charge, tuple(caps), configuration.on_cap_of(target))


async def with_top_ups(
    events: AsyncGenerator[Event, None],
    record: Record,
    job_id: str,
    allowed: Callable[[], Awaitable[Allowed | None]],
    cancel: Callable[[], Awaitable[str | None]],
    *,
    elapsed: float = 0.0,
    cancel_again: float = 15.0,
) -> AsyncGenerator[Event, None]:
    """A job's events; more is reserved for it each time that it runs longer than expected.

    If that does not fit under a cap, there is a warning, and the job is cancelled if its user wants
    that.

    Args:
        events: Closed at the end.
        allowed: Called when the job begins: what is reserved for it; ``None`` if nothing is.
        cancel: Stops the job; why it goes on, if it does.
        cancel_again: Seconds after which one that goes on is cancelled again.
        elapsed: Seconds that the job had run when this began.
    """
    now = asyncio.get_running_loop().time
    since: float | None = None
    current: Allowed | None = None
    at_cap: SpendingCap | None = None
    again: float | None = None
    async with Upcoming(events) as upcoming:
        while True:
            while current is not None and since is not None:
                due = since + current.charge.bound if again is None else again
                if await upcoming.within(due - now()):
                    break
                if at_cap is None:
                    current, over = await _topped_up(record, job_id, current)
                    if over is None:
                        continue
                    ends = "It is cancelled." if current.on_cap == "cancel" else "It goes on."
                    yield Log(f"{over.message} {ends}", "warning")
                    if current.on_cap == "warn":
                        continue
                    at_cap = over
                why = await cancel()
                if why is None:
                    current = None
                    continue
                if again is None:
                    yield Log(
                        f"It goes on, and costs: it could not be cancelled. {why} Cancelling "
                        "it is tried again until it has ended.",
                        "warning",
                    )
                again = now() + cancel_again
            try:
                event = await upcoming.take()
            except StopAsyncIteration:
                return
            match event:
                case Queued():  # again: its worker has died
                    since, elapsed = None, 0.0
                case Started() if since is None:
                    since = now() - elapsed
                    current = current or await allowed()
                case Finished():
                    current = None
                    if at_cap is not None and event.state is JobState.CANCELLED:
                        event = replace(event, error=_cancelled_at(at_cap, event))
                case _:
                    pass
            yield event


def _cancelled_at(cap: SpendingCap, finished: Finished) -> JobCancelled:
    """Why a job was cancelled that nobody has cancelled."""
    details = {} if finished.error is None else finished.error.details
    return JobCancelled(
        f"It was cancelled at a cap. {cap.message}", advice=cap.advice, details=details
    )


async def _topped_up(
    record: Record, job_id: str, allowed: Allowed
) -> tuple[Allowed, SpendingCap | None]:
    """Reserve half as much again; an error if that does not fit under a cap."""
    charge = replace(allowed.charge, bound=allowed.charge.bound * _MARGIN)
    more, top_up = replace(allowed, charge=charge), record.ledger.top_up
    with suppress(LocalStorageError):  # the job goes on without the record
        try:
            await record.write(top_up, job_id, charge.bound, allowed.caps)
        except SpendingCap as error:
            if allowed.on_cap == "warn":
                await record.write(top_up, job_id, charge.bound)
                more = replace(more, caps=())  # said once
            return more, error
    return more, None
