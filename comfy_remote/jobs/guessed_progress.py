"""A guess at the progress of a job whose target sends none (the public worker-comfyui).

From the work in its prompt and the durations of past runs. Every snapshot says that it is
estimated, none says that the job is done, and the first real one ends the guessing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from itertools import accumulate

from ..aio import Upcoming
from ..errors import LocalStorageError
from ..events import Event, Progress, Queued, Started
from ..workflow.prompt import Prompt
from ..workflow.workload import Workload, workload_of
from .record import Record

__all__ = ["ProgressEstimate", "estimate_progress", "with_estimates"]

_log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a running job may say nothing before its progress is guessed."""
INTERVAL = 1.0
"""Seconds between two guesses."""

# A current GPU does a step of a megapixel in about half a second. Only for the first run ever.
_SECONDS_FOR_WORK = 0.5
_WHEN_DUE = 0.9
_AT_MOST = 0.99


class ProgressEstimate:
    """Probable progress of a prompt, by the time it has run.

    Args:
        seconds: How long it probably runs in all, above 0.
        basis: What that is taken from, for people.
    """

    def __init__(self, prompt: Prompt, workload: Workload, seconds: float, basis: str) -> None:
        self._prompt = prompt
        self._nodes = workload.nodes
        self._ends = list(accumulate(node.work for node in workload.nodes))
        self._seconds = seconds
        self._basis = basis

    def at(self, elapsed: float) -> Progress:
        """The snapshot after so many seconds; the later, the further, but never done."""
        if not self._nodes:
            return Progress(message=self._message(elapsed), estimated=True)
        done = _share(elapsed / self._seconds) * self._ends[-1]
        index = next(i for i, end in enumerate(self._ends) if done < end)
        node = self._nodes[index]
        step = None
        if node.steps is not None:
            within = (done - (self._ends[index] - node.work)) / node.work
            step = float(math.floor(min(max(within, 0.0), 1.0) * node.steps))
        return Progress(
            nodes_done=index,
            nodes_total=len(self._nodes),
            node_id=node.node_id,
            node_class=self._prompt[node.node_id]["class_type"],
            step=step,
            steps=node.steps,
            message=self._message(elapsed),
            estimated=True,
        )

    def _message(self, elapsed: float) -> str:
        left = self._seconds - elapsed
        when = f"about {math.ceil(left)} s left" if left > 0 else "longer than expected"
        return f"{when} (estimated: {self._basis})"


def estimate_progress(
    record: Record, target: str, prompt: Prompt, server: Mapping[str, str] | None = None
) -> ProgressEstimate:
    """An estimate by past runs: of the same workflow there, else of any there, else a guess."""
    from .estimate import guess_by  # here: few jobs are silent that long

    workload = workload_of(prompt)
    try:
        alike = record.past_runs(target, workload.shape, server=server)
        others = alike or record.past_runs(target, server=server)
    except LocalStorageError as error:
        _log.debug("There are no past runs to go by: %s", error)
        alike = others = []
    guess = guess_by(others, workload)
    if alike and guess is not None:
        scaled = f", scaled by {', '.join(guess.scaled)}" if guess.scaled else ""
        basis = f"by past runs: {guess.runs}{scaled}"
    elif guess is not None:
        basis = "by past runs of other workflows"
    else:
        basis = "no past run to go by"
    seconds = workload.work * _SECONDS_FOR_WORK if guess is None else guess.seconds
    return ProgressEstimate(prompt, workload, max(0.1, seconds), basis)


async def with_estimates(
    events: AsyncGenerator[Event, None],
    estimated: Callable[[], Awaitable[ProgressEstimate]],
    *,
    elapsed: float = 0.0,
    patience: float | None = None,
    interval: float | None = None,
) -> AsyncGenerator[Event, None]:
    """A job's events, and guesses between them while it runs and sends no progress of its own.

    Args:
        events: Closed at the end.
        estimated: Called before the first guess: few jobs need one.
        elapsed: Seconds that the job had run when this began.
        patience: Seconds of silence before the first guess; `PATIENCE` by default.
        interval: Seconds between two guesses; `INTERVAL` by default.
    """
    patience = PATIENCE if patience is None else patience
    interval = INTERVAL if interval is None else interval
    running_since: float | None = None
    due = 0.0
    guessing = True
    estimate: ProgressEstimate | None = None
    async with Upcoming(events) as upcoming:
        while True:
            while running_since is not None and guessing:
                if await upcoming.within(due - time.monotonic()):
                    break
                due = time.monotonic() + interval
                estimate = estimate or await estimated()
                yield estimate.at(time.monotonic() - running_since)
            try:
                event = await upcoming.take()
            except StopAsyncIteration:
                return
            match event:
                case Queued():  # again: its worker has died
                    running_since, elapsed = None, 0.0
                case Started() if running_since is None:
                    running_since = time.monotonic() - elapsed
                    due = time.monotonic() + patience
                case Progress():
                    guessing = False
            yield event


def _share(time_share: float) -> float:
    """How much of the work is done after that share of the expected time.

    Even until it is due, then ever slower: a job that is late comes no nearer than 99 %.
    """
    if time_share <= 1.0:
        return _WHEN_DUE * max(0.0, time_share)
    return _AT_MOST - (_AT_MOST - _WHEN_DUE) / time_share
