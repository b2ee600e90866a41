"""A worker kept ready under its user's caps: what that may cost is reserved first, like a run's.

What runs meanwhile costs by itself, so the time that it took does not count twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ComfyRemoteError
from ..schedule.money import Charge
from .billed import billed
from .charges import price_at
from .keep_warm import WarmTimes, keep_warm

if TYPE_CHECKING:
    from .client import Client

__all__ = ["KEPT_READY", "keep_ready"]

KEPT_READY = "(a worker kept ready)"
"""What stands for the workflow in the ledger."""

_LOOKS_EVERY = 1.0  # seconds, for a later end that somebody wants

_log = logging.getLogger(__name__)


async def keep_ready(
    client: Client,
    until: Callable[[], float],
    *,
    over_cap: bool = False,
    folder: Path | None = None,
    times: WarmTimes = WarmTimes(),  # noqa: B008 - frozen
    on_warm: Callable[[], None] = lambda: None,
) -> None:
    """`keep_warm`, for a client's target.

    Args:
        until: Seconds since the epoch. If it becomes later, and a cap does not allow that, the
            worker is kept as long as was allowed, and the log says so.
        over_cap: Whether it may cost more than any cap allows.

    Raises:
        SpendingCap: It might cost more than a cap allows. No worker was started.
        ComfyRemoteError: As `keep_warm`.
    """
    record, target = client.record, client.target
    configuration = await asyncio.to_thread(client.configured)
    name, billing = billed(target, configuration)
    allowed, began, lease = until(), time.time(), f"kept-{uuid.uuid4()}"
    caps = [] if over_cap else configuration.caps_on(name)
    if billing == "by run":
        price, why_not = await price_at(name, configuration, os.environ, needed=bool(caps))
        charge = Charge(
            *(configuration.booked_as(name), price, max(0.0, allowed - began)),
            what="Keeping a worker ready",
            unpriced=why_not,
            over_cap=over_cap,
        )
        await record.write(record.ledger.hold, lease, charge, caps, KEPT_READY)

    async def extend() -> None:
        nonlocal allowed
        refused = allowed
        while True:
            await asyncio.sleep(_LOOKS_EVERY)
            wanted = until()
            if wanted <= allowed or wanted == refused:
                continue
            try:
                await record.write(record.ledger.top_up, lease, wanted - began, caps)
                allowed = wanted
            except ComfyRemoteError as error:
                refused = wanted
                _log.warning("A worker of %s is not kept longer. %s", target.name, error)

    extending = asyncio.create_task(extend())
    try:
        await keep_warm(
            *(target, lambda: min(until(), allowed)),
            address=client.address,
            folder=folder,
            times=times,
            on_warm=on_warm,
        )
    finally:
        extending.cancel()
        await asyncio.gather(extending, return_exceptions=True)
        await asyncio.shield(record.write(record.ledger.end, lease, time.time() - began))
