"""About how long a run takes and what it costs, learned from past runs of the same workflow.

What an hour costs is known to `prices`, and where nothing is known, that is what is said.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple

from ..data_class import dataclass
from ..targets.base import ChoosesAmong, server_of
from ..types import JsonValue
from ..units import about_text, counted
from ..workflow.prompt import Prompt
from ..workflow.workload import Workload, workload_of
from .record import PastRun, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..aio import Background
    from ..config.settings import Configuration
    from ..schedule.money import Price
    from ..targets.base import Target

__all__ = [
    "Guess",
    "Learned",
    "RunEstimate",
    "estimate_on",
    "estimate_run",
    "guess_by",
    "learned_by",
]


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """About how long a run takes, and what it costs.

    Attributes:
        seconds: On the GPU, without the queue and the start of a worker; ``None`` if this
            workflow has not run on that target before.
        runs: How many past runs it is taken from.
        hour: What an hour costs there; ``None`` where that is not known.
        scaled: What differs from those runs, and is allowed for: ``steps 20 → 40``.
        unpriced: Whether to say that the target costs money, and its price is not known: with the
            first estimate there, and not again.
    """

    target: str
    seconds: float | None
    runs: int
    hour: Price | None
    scaled: tuple[str, ...] = ()
    unpriced: bool = False

    @property
    def price(self) -> float | None:
        """US dollars for the run; ``None`` when the time or the price is not known."""
        if self.seconds is None or self.hour is None:
            return None
        return self.hour.of(self.seconds)

    def sentence(self) -> str:
        """For people: ``About 35 s and $0.01 on gpu, from 5 runs of this workflow.``"""
        if self.seconds is None:
            return (
                f"How long it takes is not known: this workflow has not run on {self.target} yet."
            )
        price = "" if self.hour is None else f" and {self.hour.words(self.seconds)}"
        scaled = f", scaled by {', '.join(self.scaled)}" if self.scaled else ""
        time = f"About {about_text(self.seconds)}{price} on {self.target}"
        runs = counted(self.runs, "run")
        unknown = " What that costs is not known: no price_per_hour is set for it."
        return f"{time}, from {runs} of this workflow{scaled}.{unknown if self.unpriced else ''}"

    def to_json(self) -> dict[str, JsonValue]:
        """All of it, and the sentence as ``text``."""
        from .prices import hour_to_json  # here: only programs ask for it

        return {
            "target": self.target,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "runs": self.runs,
            "scaled": list(self.scaled),
            **hour_to_json(self.hour),
            "price": None if self.price is None else round(self.price, 6),
            "text": self.sentence(),
        }


async def estimate_run(
    record: Record,
    target: str,
    prompt: Prompt,
    hour: Price | None = None,
    *,
    server: Mapping[str, str] | None = None,
    billed: bool = False,
) -> RunEstimate:
    """What past runs say about a prompt, without waiting for what is being recorded now.

    Runs with the same nodes and models on the same target count. If steps, size or number differ,
    the time of the nearest runs is scaled with the work (see `workflow.workload`).

    Args:
        target: The target's name.
        hour: What an hour costs there.
        server: Where it is: see `Record.past_runs`.
        billed: Whether each run there costs money.
    """

    def estimated() -> RunEstimate:
        workload = workload_of(prompt)
        guess = guess_by(record.past_runs(target, workload.shape, server=server), workload)
        if guess is None:
            return RunEstimate(target, None, 0, hour)
        unpriced = billed and hour is None and not record.ran_again(target, server)
        known = guess.seconds, guess.runs, hour, guess.scaled
        return RunEstimate(target, *known, unpriced)

    return await record.read_at_once(estimated)


async def estimate_on(
    target: Target,
    record: Record,
    prompt: Prompt,
    configuration: Configuration,
    *,
    name: str | None = None,
    background: Background | None = None,
) -> RunEstimate:
    """`estimate_run` for an open target, with what is known of its price.

    One that chooses among others is asked which it would choose.

    Args:
        name: What the configuration calls it; its own name by default.
        background: With it, the target's provider is asked for a price that is not known, or old;
            otherwise nobody is asked. See `known_price`.
    """
    if isinstance(target, ChoosesAmong) and (there := await target.likely(prompt)) is not None:
        return await estimate_on(there, record, prompt, configuration, background=background)
    name, hour = name or target.name, None
    settings, billing = configuration.targets.get(name), configuration.billing_of(name)
    if billing is not None or (settings is not None and settings.price_per_hour is not None):
        from .prices import known_price, remembered_price  # here: most targets cost nothing

        if background is None:
            hour = (await asyncio.to_thread(remembered_price, name, configuration)).price
        else:
            hour = await known_price(name, configuration, background=background)
    return await estimate_run(
        record,
        target.name,
        prompt,
        hour,
        server=server_of(target),
        billed=billing == "by run",
    )


@dataclass(frozen=True, slots=True)
class Guess:
    """How long a prompt probably runs, by how many runs.

    ``scaled`` is as in `RunEstimate`.
    """

    seconds: float
    runs: int
    scaled: tuple[str, ...]


class Learned(NamedTuple):
    """How long so much work takes, by the past runs that are nearest to it.

    Attributes:
        seconds: Of an ordinary run.
        high: Seconds that 95 % of those runs would not have exceeded.
        runs: How many there are.
        nearest: How much work they were.
    """

    seconds: float
    high: float
    runs: int
    nearest: float


def learned_by(times: Sequence[tuple[float, float]], work: float) -> Learned | None:
    """What past runs say of so much work; ``None`` without any.

    The farther a run, the less its time says: much of it (loading a model) does not scale.

    Args:
        times: Of each run, its seconds and its work.
    """
    known = [(seconds, past) for seconds, past in times if past > 0]
    if not known or work <= 0:
        return None
    nearest = min((past for _, past in known), key=lambda past: abs(math.log(past / work)))
    alike = sorted(seconds for seconds, past in known if math.isclose(past, nearest))
    # The median: one cold start, or one run that was cached, does not count. Not of `statistics`,
    # whose import takes as long as reading and preparing a small workflow.
    median = (alike[(len(alike) - 1) // 2] + alike[len(alike) // 2]) / 2
    more, high = work / nearest, alike[math.ceil(0.95 * len(alike)) - 1]
    return Learned(median * more, high * more, len(alike), nearest)


def guess_by(runs: Sequence[PastRun], workload: Workload) -> Guess | None:
    """How long so much work takes, by past runs, and what is scaled; ``None`` without any."""
    known = [(run.seconds, workload_of(run.prompt)) for run in runs]
    learned = learned_by([(seconds, past.work) for seconds, past in known], workload.work)
    if learned is None:
        return None
    if math.isclose(learned.nearest, workload.work):
        return Guess(learned.seconds, learned.runs, ())
    nearest = next(past for _, past in known if past.work == learned.nearest)
    changes = workload.changes_from(nearest) or ["the work in it"]
    return Guess(learned.seconds, learned.runs, tuple(changes))
