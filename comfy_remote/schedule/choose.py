"""Which member of a route a run goes to, and why: from what is known of each, an ordered list.

Who can run it comes first; among those, the route's preference decides: its order, the price of
this run there, or when the run would be done. What is equal stays in the order of the route, so the
same facts always give the same list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..units import about_dollars, about_text, counted, seconds_text, size_text
from .money import Price
from .prefer import Prefer

__all__ = ["Candidate", "Ranked", "choose", "sentence"]

_ASSUMED_RUN = 60.0  # seconds, where nobody knows how long it takes
_ASSUMED_START = 60.0
_NAMED = 3  # models or nodes, in a sentence


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of one member of a route, for one run. ``None`` is for what is not known.

    Attributes:
        name: As the configuration has it.
        problem: Why it cannot be used at all: no key, no answer. A clause whose subject is the
            member, without its full stop; empty where it can.
        refused: Why it did not take this very job, likewise; ``cap``, too.
        missing_nodes: Classes of the prompt that it lacks.
        missing_models: Models of the prompt that it lacks.
        may_fetch: Whether it fetches the models that it lacks.
        size: Bytes of the request, its files included.
        body_limit: Bytes that a request there may have.
        result: Bytes of the result, as far as that can be computed.
        result_limit: Bytes that a result there may have.
        memory: Bytes of its device.
        peak: Bytes that runs like this one have used at most.
        cap: Why its cap on spending does not allow the run.
        cooling: Seconds until it has cooled down from its last failure.
        ours: Jobs of this user that wait or run there.
        at_most: How many of them the route allows.
        ready: Workers that can take a job now.
        running: Jobs that run there, like ``queued``, of anybody.
        seconds: How long the run takes there, learned.
        start: Seconds until a worker has started there, learned.
        idle: Seconds that a worker is paid for after the run.
        price: What an hour costs there.
        had_models: Whether these models were last sent there.
    """

    name: str
    problem: str = ""
    refused: str = ""
    missing_nodes: tuple[str, ...] = ()
    missing_models: tuple[str, ...] = ()
    may_fetch: bool = False
    size: int | None = None
    body_limit: int | None = None
    result: int | None = None
    result_limit: int | None = None
    memory: int | None = None
    peak: int | None = None
    cap: str = ""
    cooling: float = 0.0
    ours: int = 0
    at_most: int | None = None
    ready: int | None = None
    running: int | None = None
    queued: int | None = None
    seconds: float | None = None
    start: float | None = None
    idle: float = 0.0
    price: Price | None = None
    had_models: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """A member of a route, judged for one run.

    Attributes:
        able: Whether the run may be sent there.
        why: What speaks against it, a clause each, whose subject is the member; of one that is
            able, why it comes last.
        cost: US dollars of the run there; ``None`` where that is not known.
        seconds: Until the run would be done there, likewise.
        full: Whether it cannot take the run only because it has as many jobs as it may.
    """

    name: str
    able: bool
    why: tuple[str, ...] = ()
    cost: float | None = None
    seconds: float | None = None
    full: bool = False


def choose(candidates: Sequence[Candidate], prefer: Prefer = "order") -> tuple[Ranked, ...]:
    """The members in the order in which the run is to be tried; last, those that cannot take it.

    Args:
        candidates: In the order of the route.
    """
    known = sorted(one.seconds for one in candidates if one.seconds is not None)
    usual = known[len(known) // 2] if known else _ASSUMED_RUN
    judged = [(one, _judged(one), number) for number, one in enumerate(candidates)]

    def rank(item: tuple[Candidate, Ranked, int]) -> tuple[float, ...]:
        one, ranked, number = item
        if not ranked.able:
            return (1, number)
        first = (0, one.cooling > 0)
        if prefer == "price":
            cost = None if one.price is None else one.price.of(_paid_seconds(one, usual))
            return (*first, cost is None, _rounded(cost), not one.had_models, number)
        if prefer == "soonest":
            known_queue = one.ready is not None
            return (*first, not known_queue, _rounded(_done_in(one, usual)), not one.had_models,
                    number)  # fmt: skip
        return (*first, number)

    return tuple(ranked for _, ranked, _ in sorted(judged, key=rank))


def sentence(places: Sequence[Ranked], prefer: Prefer = "order") -> str:
    """For people: where the run was sent, and why not to those that come before it.

    >>> lan = Ranked("lan", False, ("does not have the model x.safetensors",))
    >>> sentence([Ranked("gpu", True), lan])
    'Sent to gpu: lan does not have the model x.safetensors.'
    """
    chosen = places[0]
    said = []
    if prefer == "price" and chosen.cost is not None:
        said.append(f"the cheapest, {about_dollars(chosen.cost) if chosen.cost else 'for nothing'}")
    if prefer == "soonest" and chosen.seconds is not None:
        said.append(f"the soonest, in about {about_text(chosen.seconds)}")
    said += [f"{one.name} {', and '.join(one.why)}" for one in places[1:] if one.why]
    return f"Sent to {chosen.name}{': ' if said else ''}{'; '.join(said)}."


def _judged(one: Candidate) -> Ranked:
    against = [clause for clause in (one.problem, one.refused, one.cap) if clause]
    if one.missing_nodes:
        against.append(f"does not have the {_named('node', one.missing_nodes)}")
    if one.missing_models and not one.may_fetch:
        against.append(f"does not have the {_named('model', one.missing_models)}")
    if one.size is not None and one.body_limit is not None and one.size > one.body_limit:
        takes, size = size_text(one.body_limit), size_text(one.size)
        against.append(f"takes requests of {takes}, and this one has {size}")
    if one.result is not None and one.result_limit is not None and one.result > one.result_limit:
        returns, size = size_text(one.result_limit), size_text(one.result)
        against.append(f"returns results of {returns}, and this one has about {size}")
    if one.memory is not None and one.peak is not None and one.peak > one.memory:
        has, used = size_text(one.memory), size_text(one.peak)
        against.append(f"has {has} of memory, and runs like this one used {used}")
    full = one.at_most is not None and one.ours >= one.at_most
    if full:
        against.append(f"has {counted(one.ours, 'job')} of yours, and the route allows no more")
    cost = None
    if one.price is not None and one.seconds is not None:
        cost = one.price.of(_paid_seconds(one, one.seconds))
    elif one.price is not None and one.price.per_hour == 0:
        cost = 0.0
    done = None if one.seconds is None else _done_in(one, one.seconds)
    if not against and one.cooling > 0:
        cooling = (
            f"could not be used before, and is tried last for another {seconds_text(one.cooling)}"
        )
        return Ranked(one.name, True, (cooling,), cost, done)
    return Ranked(
        one.name, not against, tuple(against), cost, done, full=full and len(against) == 1
    )


def _named(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        shown += f" and {len(names) - _NAMED} more"
    return f"{what}{'s' if len(names) > 1 else ''} {shown}"


def _start(one: Candidate) -> float:
    """Seconds until a worker is there."""
    if one.ready or one.running or one.ready is None:
        return 0.0
    return _ASSUMED_START if one.start is None else one.start


def _paid_seconds(one: Candidate, usual: float) -> float:
    return _start(one) + (usual if one.seconds is None else one.seconds) + one.idle


def _done_in(one: Candidate, usual: float) -> float:
    run = usual if one.seconds is None else one.seconds
    if one.ready:
        return run
    ahead = (one.queued or 0) + (1 if one.running else 0)
    return _start(one) + run * ahead / max(1, one.running or 0) + run


def _rounded(amount: float | None) -> float:
    """To two digits: less is no difference, and then the models decide."""
    return 0.0 if amount is None else float(f"{amount:.1e}")
