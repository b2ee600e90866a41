"""About how long a batch takes and what it costs, by earlier runs of its workflow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..aio import within
from ..errors import ComfyRemoteError, WorkflowInvalid
from ..jobs.estimate import estimate_on
from ..jobs.prices import hour_to_json, known_price
from ..units import about_text, counted
from ..workflow.change.prepare import prepare
from .capacity import workers_of

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..jobs.client import Client
    from ..schedule.money import Price
    from ..types import JsonValue
    from ..workflow.prompt import Prompt
    from .draft import Draft

__all__ = ["BatchForecast", "forecast"]

_ROWS = 12
"""How many rows are estimated, evenly spread: their steps, sizes and models may differ."""
_PATIENCE = 5.0  # seconds, for the target to say how many workers it has


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """What is known of a batch before it runs.

    Attributes:
        target: Its name.
        runs: How many there are.
        workers: How many run at a time: what the target has now, or less if its user says so.
        run_seconds: How long one run takes on average, on the GPU; ``None`` if this workflow has
            not run there before.
        hour: What an hour costs there; ``None`` where that is not known.
        past_runs: From how many earlier runs this is taken.
        unpriced: As in `RunEstimate`.
    """

    target: str
    runs: int
    workers: int
    run_seconds: float | None
    hour: Price | None
    past_runs: int
    unpriced: bool = False

    @property
    def seconds(self) -> float | None:
        """From the first run to the end of the last."""
        if self.run_seconds is None:
            return None
        return self.run_seconds * math.ceil(self.runs / self.workers)

    @property
    def price(self) -> float | None:
        """US dollars for all runs; ``None`` when the time or the price is not known."""
        if self.run_seconds is None or self.hour is None:
            return None
        return self.hour.of(self.run_seconds * self.runs)

    def sentence(self) -> str:
        """For people: ``About 26 min and $0.31 on gpu, 4 at a time, from 5 earlier runs.``"""
        if self.seconds is None:
            return (
                f"How long it takes is not known: this workflow has not run on {self.target} yet."
            )
        price = ""
        if self.hour is not None and self.run_seconds is not None:
            price = f" and {self.hour.words(self.run_seconds * self.runs)}"
        unknown = " What that costs is not known: no price_per_hour is set for it."
        return (
            f"About {about_text(self.seconds)}{price} on {self.target}, {self.workers} at a time, "
            f"from {counted(self.past_runs, 'earlier run')} of this workflow."
            f"{unknown if self.unpriced else ''}"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """All of it, and the sentence as ``text``."""
        return {
            "target": self.target,
            "runs": self.runs,
            "workers": self.workers,
            "run_seconds": None if self.run_seconds is None else round(self.run_seconds, 2),
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "past_runs": self.past_runs,
            **hour_to_json(self.hour),
            "price": None if self.price is None else round(self.price, 6),
            "text": self.sentence(),
        }


async def forecast(draft: Draft, client: Client, configuration: Configuration) -> BatchForecast:
    """Estimate a batch that has not been made. Nothing is sent but a question of how busy it is.

    Args:
        client: Open, for its target.
    """
    plan, name = draft.plan, draft.frozen.target
    rows = sorted({plan.count * number // _ROWS for number in range(_ROWS)})
    prompts = await asyncio.to_thread(lambda: list(_prompts(draft, rows)))
    name = name or client.target.name
    hour = await known_price(name, configuration, background=client.background)
    estimates = [
        await estimate_on(client.target, client.record, prompt, configuration, name=name)
        for prompt in prompts
    ]
    known = [one.seconds for one in estimates if one.seconds is not None]
    workers = 1
    with suppress(ComfyRemoteError, asyncio.TimeoutError):
        workers = workers_of(await within(client.target.health(), _PATIENCE))
    return BatchForecast(
        client.target.name,
        plan.count,
        min(workers, draft.options.at_most or workers, plan.count),
        sum(known) / len(known) if known else None,
        hour,
        max((one.runs for one in estimates), default=0),
        any(one.unpriced for one in estimates),
    )


def _prompts(draft: Draft, rows: Iterable[int]) -> Iterator[Prompt]:
    """The prompts of some rows, but for those with a value that does not fit."""
    frozen = draft.frozen
    for row in rows:
        with suppress(WorkflowInvalid):
            changes = draft.plan.changes(row, frozen.base())
            loaded = frozen.loaded(changes)
            yield prepare(loaded, changes, frozen.known_schemas(), fill_names=False).prompt
