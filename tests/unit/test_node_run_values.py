"""Payloads that a program in ComfyUI's process hands to a node, or takes from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from comfy_remote.node_pack.nodes.run_values import RunValues


def test_a_payload_is_taken_once() -> None:
    values = RunValues()
    values.put("1", {"x": 1}, "run")
    assert values.take("1", "run") == {"x": 1}
    assert values.take("1", "run") is None


def test_runs_and_nodes_do_not_mix() -> None:
    values = RunValues()
    values.put("1", {"x": "a"}, "first")
    values.put("1", {"x": "b"}, "second")
    values.put("2", {"x": "c"}, "first")
    assert values.take("1", "third") is None
    assert values.take("1", "second") == {"x": "b"}
    assert values.take("2", "first") == {"x": "c"}
    assert values.take("1", "first") == {"x": "a"}


def test_a_payload_for_any_run_goes_to_the_next_that_has_none_of_its_own() -> None:
    values = RunValues()
    values.put("1", {"x": "any"}, None)
    values.put("1", {"x": "own"}, "run")
    assert values.take("1", "run") == {"x": "own"}
    assert values.take("1", "other") == {"x": "any"}
    assert values.take("1", "other") is None


def test_the_newest_of_a_node_is_found_without_its_run() -> None:
    values = RunValues()
    values.put("1", {"x": 1}, "first")
    values.put("1", {"x": 2}, "second")
    values.put("2", {"x": 3}, "third")
    assert values.take_newest("1") == {"x": 2}
    assert values.take_newest("1") == {"x": 1}
    assert values.take_newest("1") is None


def test_each_payload_has_a_number_of_its_own() -> None:
    values = RunValues()
    assert values.number("1", "run") == 0
    values.put("1", {"x": 1}, "run")
    first = values.number("1", "run")
    assert first == values.number("1", "run") > 0
    values.put("1", {"x": 1}, "run")
    assert values.number("1", "run") not in (0, first)


def test_what_nobody_takes_does_not_pile_up() -> None:
    values = RunValues(of_a_node=2, in_all=5)
    for run in range(4):
        values.put("1", {"run": run}, str(run))
    assert [values.take("1", str(run)) for run in range(4)] == [None, None, {"run": 2}, {"run": 3}]
    for node in range(9):
        values.put(str(node), {"node": node}, "run")
    kept = [node for node in range(9) if values.take(str(node), "run")]
    assert kept == [4, 5, 6, 7, 8]


def test_threads_do_not_disturb_each_other() -> None:
    values = RunValues(of_a_node=200, in_all=1000)

    def hand_over(run: int) -> bool:
        values.put(str(run % 7), {"run": run}, str(run))
        return values.take(str(run % 7), str(run)) == {"run": run}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(hand_over, range(500)))


def test_what_nobody_asks_for_is_not_kept_for_long() -> None:
    values = RunValues(unasked=1)
    for run in "abc":
        values.put("1", {"made": run}, run)
    assert [values.number("1", run) > 0 for run in "abc"] == [False, False, True]
    assert values.take("1", "a") is None  # somebody is there
    for run in "def":
        values.put("1", {"made": run}, run)
    assert [values.take("1", run) for run in "cdef"] == [{"made": run} for run in "cdef"]
