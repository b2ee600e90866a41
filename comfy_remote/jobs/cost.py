"""About how long a run takes and what it costs, learned from past runs of the same workflow.

There is no table of prices in here: a price is what the user has set (``price_per_hour`` in
``comfy-remote.toml``), and where nothing is known, that is what is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..workflow.prompt import Prompt
from ..workflow.workload import workload_of
from .record import PastRun, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

__all__ = ["RunEstimate", "estimate_run", "seconds_by"]


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """About how long and how much.

    Attributes:
        target: The target's name.
        seconds: On the GPU, without the queue and the start of a worker; ``None`` when this
            workflow has not run on that target before.
        runs: How many past runs say so.
        price_per_hour: US dollars, as configured; ``None`` when it is not.
    """

    target: str
    seconds: float | None
    runs: int
    price_per_hour: float | None

    @property
    def price(self) -> float | None:
        """US dollars for the run; ``None`` when the time or the price is not known."""
        if self.seconds is None or self.price_per_hour is None:
            return None
        return self.seconds * self.price_per_hour / 3600

    def sentence(self) -> str:
        """For people: ``About 35 s and $0.01 on gpu, by 5 past runs of this workflow.``"""
        if self.seconds is None:
            return (
                f"How long it takes is not known: this workflow has not run on {self.target} yet."
            )
        price = "" if self.price is None else f" and ${_dollars(self.price)}"
        runs = "1 past run" if self.runs == 1 else f"{self.runs} past runs"
        time = f"About {_duration(self.seconds)}{price} on {self.target}"
        unknown = "" if price else " What that costs is not known: no price_per_hour is set for it."
        return f"{time}, by {runs} of this workflow.{unknown}"

    def to_json(self) -> dict[str, JsonValue]:
        """All of it, and the sentence as ``text``."""
        return {
            "target": self.target,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "runs": self.runs,
            "price_per_hour": self.price_per_hour,
            "price": None if self.price is None else round(self.price, 6),
            "text": self.sentence(),
        }


def estimate_run(
    record: Record, target: str, prompt: Prompt, price_per_hour: float | None = None
) -> RunEstimate:
    """What past runs say about a prompt.

    Those with the same nodes and models on the same target count; where steps, size or number
    differ, the time is scaled with the work (see `workflow.workload`).

    Args:
        record: Where past runs are.
        target: The target's name, as jobs are recorded with it.
        prompt: API format.
        price_per_hour: US dollars for an hour of the target's GPU.
    """
    workload = workload_of(prompt)
    runs = record.past_runs(target, workload.shape)
    return RunEstimate(target, seconds_by(runs, workload.work), len(runs), price_per_hour)


def seconds_by(runs: Sequence[PastRun], work: float) -> float | None:
    """How long so much work takes, by the median of past runs; ``None`` without any."""
    from statistics import median  # here: the first run has nothing to learn from

    # The median: one cold start, or one run that was cached, does not count.
    return median(run.seconds / run.work for run in runs) * work if runs else None


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _dollars(price: float) -> str:
    """Two digits that say something: 12.30, 0.05, 0.0042."""
    return f"{price:.2f}" if price >= 0.01 else f"{price:.2g}"
