"""Which member of a route a run goes to: pure, so each rule is a line here."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.schedule.choose import Candidate, choose, sentence
from comfy_remote.schedule.money import Price
from comfy_remote.schedule.prefer import Prefer

CHEAP, DEAR = Price(0.36, "your settings"), Price(3.6, "your settings")


def names(candidates: list[Candidate], prefer: Prefer = "order") -> list[str]:
    return [one.name for one in choose(candidates, prefer)]


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (Candidate("a", problem="cannot be reached"), "cannot be reached"),
        (Candidate("a", refused="gave it up before it began"), "gave it up before it began"),
        (Candidate("a", cap="is over a cap"), "is over a cap"),
        (
            Candidate("a", missing_nodes=("KSampler", "Ghost")),
            "does not have the nodes KSampler, Ghost",
        ),
        (
            Candidate("a", missing_models=("x.safetensors",)),
            "does not have the model x.safetensors",
        ),
        (
            Candidate("a", size=12_000_000, body_limit=10_000_000),
            "takes requests of 10.0 MB, and this one has 12.0 MB",
        ),
        (
            Candidate("a", result=30_000_000, result_limit=20_000_000),
            "returns results of 20.0 MB, and this one has about 30.0 MB",
        ),
        (
            Candidate("a", memory=8_000_000_000, peak=12_000_000_000),
            "has 8.0 GB of memory, and runs like this one used 12.0 GB",
        ),
        (
            Candidate("a", ours=2, at_most=2),
            "has 2 jobs of yours, and the route allows no more",
        ),
    ],
)
def test_who_cannot(candidate: Candidate, why: str) -> None:
    other = Candidate("b")
    first, last = choose([candidate, other])
    assert (first.name, first.able, first.why) == ("b", True, ())
    assert (last.name, last.able, last.why) == ("a", False, (why,))
    assert sentence([first, last]) == f"Sent to b: a {why}."


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("a", missing_models=("x",), may_fetch=True),
        Candidate("a", size=12_000_000),
        Candidate("a", size=1, body_limit=1),
        Candidate("a", peak=12),
        Candidate("a", ours=1, at_most=2),
    ],
)
def test_who_can(candidate: Candidate) -> None:
    assert choose([candidate, Candidate("b")])[0] == choose([candidate])[0]
    assert choose([candidate])[0].able


def test_one_that_cools_down_comes_last_and_can() -> None:
    ranked = choose([Candidate("a", cooling=12), Candidate("b"), Candidate("c", problem="is gone")])
    assert [(one.name, one.able) for one in ranked] == [("b", True), ("a", True), ("c", False)]
    assert ranked[1].why == ("could not be used before, and is tried last for another 12 s",)


def test_the_cheapest_counts_run_start_and_idle() -> None:
    lan = Candidate("lan", price=Price(0.0, "your own"), seconds=900.0)
    dear = Candidate("dear", price=DEAR, seconds=10.0, ready=1)
    cheap = Candidate("cheap", price=CHEAP, seconds=60.0, ready=1)
    assert names([dear, cheap, lan], "price") == ["lan", "cheap", "dear"]
    assert names([dear, cheap, lan], "order") == ["dear", "cheap", "lan"]
    asleep = Candidate("cheap", price=CHEAP, seconds=60.0, ready=0, running=0, start=90.0, idle=60)
    ranked = choose([asleep, dear], "price")
    assert [one.name for one in ranked] == ["dear", "cheap"]
    assert ranked[1].cost == pytest.approx(0.36 * 210 / 3600)
    assert sentence(ranked, "price") == "Sent to dear: the cheapest, about $0.01."


def test_an_unknown_price_comes_behind_known_ones() -> None:
    assert names([Candidate("a"), Candidate("b", price=DEAR)], "price") == ["b", "a"]
    # Where nobody knows how long it takes, the price of an hour decides.
    assert names([Candidate("a", price=DEAR), Candidate("b", price=CHEAP)], "price") == ["b", "a"]


def test_the_soonest_counts_queue_and_waking() -> None:
    busy = Candidate("busy", seconds=10.0, ready=0, running=1, queued=3)
    free = Candidate("free", seconds=30.0, ready=1, running=0, queued=0)
    asleep = Candidate("asleep", seconds=5.0, ready=0, running=0, queued=0, start=20.0)
    ranked = choose([busy, free, asleep], "soonest")
    assert [(one.name, one.seconds) for one in ranked] == [
        ("asleep", 25.0),
        ("free", 30.0),
        ("busy", 50.0),
    ]
    assert sentence(ranked, "soonest") == "Sent to asleep: the soonest, in about 25 s."


@pytest.mark.parametrize("prefer", ["price", "soonest"])
def test_a_tie_goes_to_who_had_the_models_then_to_the_order(prefer: Prefer) -> None:
    same = {"seconds": 10.0, "price": CHEAP, "ready": 1}
    plain = [Candidate(name, **same) for name in "ab"]  # type: ignore[arg-type]
    assert names(plain, prefer) == ["a", "b"]
    had = Candidate("b", **same, had_models=True)  # type: ignore[arg-type]
    assert names([plain[0], had], prefer) == ["b", "a"]
    # A difference that nobody would notice does not count.
    nearly = Candidate("a", seconds=9.99, price=CHEAP, ready=1)
    assert names([nearly, had], prefer) == ["b", "a"]


candidates = st.builds(
    Candidate,
    name=st.just("x"),
    problem=st.sampled_from(["", "", "is gone"]),
    cooling=st.sampled_from([0.0, 5.0]),
    seconds=st.sampled_from([None, 1.0, 60.0]),
    ready=st.sampled_from([None, 0, 1]),
    running=st.sampled_from([None, 0, 2]),
    queued=st.sampled_from([None, 0, 3]),
    price=st.sampled_from([None, CHEAP, DEAR]),
    had_models=st.booleans(),
)


@given(st.lists(candidates, min_size=1, max_size=5), st.sampled_from(["order", "price", "soonest"]))
def test_all_are_ranked_the_same_way_each_time(found: list[Candidate], prefer: Prefer) -> None:
    ranked = choose(found, prefer)
    assert ranked == choose(found, prefer)
    assert len(ranked) == len(found)
    assert all(one.able or not other.able for one, other in itertools.pairwise(ranked))
