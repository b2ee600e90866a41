"""How many workers a fleet should have, which end, and who is surely gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.fleet.settings import WorkersSettings
from comfy_remote.fleet.sizing import GatewayView, GatewayWorker, Member, decide, lost

SETTINGS = WorkersSettings(min=1, max=8, idle=60)


def view(waiting: int = 0, running: int = 0, **workers: GatewayWorker) -> GatewayView:
    return GatewayView(waiting, running, workers)


def idle(seconds: float) -> GatewayWorker:
    return GatewayWorker("idle", seconds)


def at_work(name: str, **more: object) -> Member:
    return Member(id=f"worker-{name}", name=name, node="n1", state="working", **more)  # type: ignore[arg-type]


def test_an_empty_fleet_gets_its_least_number() -> None:
    assert decide(SETTINGS, [], view()).start == 1


def test_each_job_that_waits_or_runs_has_a_worker_up_to_the_most() -> None:
    members = [at_work("a"), at_work("b")]
    assert decide(SETTINGS, members, view(waiting=3, running=2)).start == 3
    assert decide(SETTINGS, members, view(waiting=300, running=2)).start == 6


def test_workers_that_are_not_placed_yet_count() -> None:
    members = [at_work("a"), Member("worker-b"), Member("worker-c")]
    assert decide(SETTINGS, members, view(waiting=2, running=1)).start == 0


def test_those_idle_for_longest_end_first_and_no_sooner_than_they_may() -> None:
    members = [at_work("a"), at_work("b"), at_work("c")]
    decision = decide(SETTINGS, members, view(a=idle(70), b=idle(500), c=idle(59)))
    assert (decision.wanted, decision.drain, decision.start) == (1, ("worker-b", "worker-a"), 0)


def test_one_that_is_not_placed_is_removed_before_one_that_works_ends() -> None:
    members = [at_work("a"), Member("worker-b")]
    decision = decide(SETTINGS, members, view(a=idle(500)))
    assert (decision.remove, decision.drain) == (("worker-b",), ())


def test_a_gateway_that_does_not_answer_changes_nothing() -> None:
    members = [at_work(name) for name in "abc"]
    decision = decide(SETTINGS, members, None)
    assert (decision.wanted, decision.start, decision.drain, decision.remove) == (3, 0, (), ())


def test_a_machine_that_is_left_gets_its_workers_drained_and_others_are_started() -> None:
    members = [at_work("a"), Member("worker-b", "b", "n2", "working")]
    decision = decide(SETTINGS, members, view(waiting=5), leaving={"n2"})
    assert decision.drain == ("worker-b",)
    assert decision.start == 4  # five jobs, and `a` stays


def test_one_that_fails_is_no_capacity_and_ends_once_the_others_are_enough() -> None:
    bad = at_work("a", fails=True)
    broken = GatewayWorker("broken", None, "no torch")
    decision = decide(SETTINGS, [bad], view(a=broken))
    assert (decision.start, decision.drain) == (1, ()), "it keeps its GPU meanwhile"
    on_its_way = [bad, Member("worker-b", "b", "n2", "starting")]
    assert decide(SETTINGS, on_its_way, view(a=broken)).start == 0
    assert decide(SETTINGS, on_its_way, view(a=broken)).drain == ()
    both = [bad, at_work("b")]
    decision = decide(SETTINGS, both, view(a=broken, b=idle(1)))
    assert (decision.start, decision.drain) == (0, ("worker-a",))


def test_where_all_fail_no_more_than_twice_as_many_are_started() -> None:
    members = [at_work(name, fails=True) for name in "abcd"]
    assert decide(SETTINGS, members[:3], view(waiting=2)).start == 1
    assert decide(SETTINGS, members, view(waiting=2)).start == 0


def test_what_waits_for_a_gpu_with_settings_of_before_is_replaced_at_once() -> None:
    members = [at_work("a"), Member("worker-b", is_current=False)]
    decision = decide(SETTINGS, members, view(waiting=1, running=1))
    assert (decision.remove, decision.start) == (("worker-b",), 1)


def test_nothing_more_is_replaced_while_what_replaced_the_last_does_not_work() -> None:
    old = [at_work(name, is_current=False) for name in "ab"]
    works, settled = view(running=3, a=idle(1), b=idle(1), c=idle(1)), at_work("c")
    for new in (at_work("c", fails=True), Member("worker-c", "c", "n1", "starting")):
        assert decide(SETTINGS, [*old, new], works).drain == ()
    assert decide(SETTINGS, [*old, settled], works).drain == ("worker-a",)
    # One box that is broken does not hold up the others.
    assert decide(SETTINGS, [*old, settled, at_work("d", fails=True)], works).drain


def test_what_the_settings_do_not_say_any_more_is_replaced_one_by_one() -> None:
    old = [at_work(name, is_current=False) for name in "ab"]
    running = view(running=2, a=GatewayWorker("running", 5), b=idle(1))
    decision = decide(SETTINGS, old, running)
    assert decision.drain == ("worker-b",), "the one without a job comes first"
    assert decision.start == 1
    draining = [old[0], Member("worker-b", "b", "n1", "draining", is_current=False)]
    assert decide(SETTINGS, draining, running).drain == (), "one at a time"


def test_ended_workers_are_removed() -> None:
    decision = decide(SETTINGS, [Member("worker-a", "a", "n1", "ended")], view())
    assert (decision.remove, decision.start) == (("worker-a",), 1)


@given(
    st.lists(st.sampled_from(["unplaced", "starting", "working", "draining", "ended", "failed"])),
    st.integers(0, 50),
    st.integers(0, 10),
    st.booleans(),
)
def test_the_number_stays_within_its_bounds(
    states: list[str], waiting: int, running: int, answers: bool
) -> None:
    """Whatever there is: never more are started than may be, and nobody is ended twice."""
    members = [
        Member(
            f"worker-{number}",
            f"w{number}",
            "" if state == "unplaced" else "n",
            state,
            fails=state == "failed",
        )
        for number, state in enumerate(states)
    ]
    workers = {one.name: idle(100) for one in members if one.state == "working"}
    seen = GatewayView(waiting, running, workers) if answers else None
    decision = decide(SETTINGS, members, seen)
    # One that fails is no capacity.
    stay = sum(one.stays and not (one.fails and answers) for one in members)
    ending = {*decision.drain, *decision.remove}
    assert SETTINGS.min <= decision.wanted <= SETTINGS.max
    assert len(ending) == len(decision.drain) + len(decision.remove)
    able = [one for one in members if one.stays and not (one.fails and answers)]
    left = stay - sum(one.id in ending for one in able)
    failing = sum(one.fails and one.id not in ending for one in members)
    assert left + decision.start + failing >= min(SETTINGS.min, decision.wanted)
    assert (
        decision.start == 0 or left + decision.start + failing <= 2 * decision.wanted or not answers
    )
    assert decision.start == 0 or left + decision.start <= SETTINGS.max


def test_a_silent_worker_is_lost_only_if_no_machine_of_the_cluster_has_it() -> None:
    silent = GatewayWorker("silent", 100)
    seen = GatewayView(
        0, 3, {"fleet.a": silent, "fleet.b": silent, "fleet.c": idle(1), "other": silent}
    )
    there = Member("worker-1", "fleet.a", "n1", "working")
    away = Member("worker-2", "fleet.b", "n2", "working")
    assert lost(seen, [there, away], {"n1"}, "fleet.") == {"fleet.b"}
    assert lost(seen, [there, away], {"n1", "n2"}, "fleet.") == set()


def test_a_worker_that_the_fleet_knows_is_lost_before_the_gateway_misses_it() -> None:
    seen = GatewayView(0, 1, {"fleet.a": GatewayWorker("running", 5)})
    assert lost(seen, [], {"n1"}, "fleet.", {"fleet.a"}) == {"fleet.a"}
    assert lost(seen, [], {"n1"}, "fleet.") == set(), "somebody may have started it by hand"
