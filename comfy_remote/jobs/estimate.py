"""About how long a run takes and what it costs, learned from past runs of the same workflow.

There is no table of prices in here: a price is what the user has set (``price_per_hour`` in
``comfy-remote.toml``), and where nothing is known, that is what is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import JsonValue
from ..units import dollars
from ..workflow.prompt import Prompt
from ..workflow.workload import Workload, workload_of
from .record import PastRun, Record

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Guess", "RunEstimate", "estimate_run", "guess_by"]


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """About how long a run takes, and what it costs.

    Attributes:
        seconds: On the GPU, without the queue and the start of a worker; ``None`` if this
            workflow has not run on that target before.
        runs: How many past runs it is taken from.
        price_per_hour: US dollars, as configured.
        scaled: What differs from those runs, and is allowed for: ``steps 20 → 40``.
    """

    target: str
    seconds: float | None
    runs: int
    price_per_hour: float | None
    scaled: tuple[str, ...] = ()

    @property
    def price(self) -> float | None:
        """US dollars for the run; ``None`` when the time or the price is not known."""
        if self.seconds is None or self.price_per_hour is None:
            return None
        return self.seconds * self.price_per_hour / 3600

    def sentence(self) -> str:
        """For people: ``About 35 s and $0.01 on gpu, from 5 runs of this workflow.``"""
        if self.seconds is None:
            return (
                f"How long it takes is not known: this workflow has not run on {self.target} yet."
            )
        price = "" if self.price is None else f" and {dollars(self.price)}"
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        scaled = f", scaled by {', '.join(self.scaled)}" if self.scaled else ""
        time = f"About {_duration(self.seconds)}{price} on {self.target}"
        unknown = "" if price else " What that costs is not known: no price_per_hour is set for it."
        return f"{time}, from {runs} of this workflow{scaled}.{unknown}"

    def to_json(self) -> dict[str, JsonValue]:
        """All of it, and the sentence as ``text``."""
        return {
            "target": self.target,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "runs": self.runs,
            "scaled": list(self.scaled),
            "price_per_hour": self.price_per_hour,
            "price": None if self.price is None else round(self.price, 6),
            "text": self.sentence(),
        }


async def estimate_run(
    record: Record, target: str, prompt: Prompt, price_per_hour: float | None = None
) -> RunEstimate:
    """What past runs say about a prompt, without waiting for what is being recorded now.

    Runs with the same nodes and models on the same target count. If steps, size or number differ,
    the time of the nearest runs is scaled with the work (see `workflow.workload`).
    """
    return await record.read_at_once(_estimated, record, target, prompt, price_per_hour)


def _estimated(
    record: Record, target: str, prompt: Prompt, price_per_hour: float | None
) -> RunEstimate:
    workload = workload_of(prompt)
    guess = guess_by(record.past_runs(target, workload.shape), workload)
    if guess is None:
        return RunEstimate(target, None, 0, price_per_hour)
    return RunEstimate(target, guess.seconds, guess.runs, price_per_hour, guess.scaled)


@dataclass(frozen=True, slots=True)
class Guess:
    """How long a prompt probably runs, by how many runs; ``scaled`` is as in `RunEstimate`."""

    seconds: float
    runs: int
    scaled: tuple[str, ...]


def guess_by(runs: Sequence[PastRun], workload: Workload) -> Guess | None:
    """How long so much work takes, by the past runs that are nearest to it; ``None`` without any.

    The farther a run, the less its time says: much of it (loading a model) does not scale.
    """
    from statistics import median  # here: the first run has nothing to learn from

    known = [(run.seconds, workload_of(run.prompt)) for run in runs]
    known = [(seconds, past) for seconds, past in known if past.work > 0]
    if not known or workload.work <= 0:
        return None
    nearest = min(
        (past for _, past in known), key=lambda past: abs(math.log(past.work / workload.work))
    )
    alike = [seconds for seconds, past in known if math.isclose(past.work, nearest.work)]
    # The median: one cold start, or one run that was cached, does not count.
    seconds = median(alike) * workload.work / nearest.work
    if math.isclose(nearest.work, workload.work):
        return Guess(seconds, len(alike), ())
    changes = workload.changes_from(nearest) or ["the work in it"]
    return Guess(seconds, len(alike), tuple(changes))


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{max(0.1, seconds):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
