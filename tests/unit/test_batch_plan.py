"""The rows of a batch: each once, in the right order, the same from the frozen plan."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
from batch_kit import PROMPT, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_remote.batch.plan import Plan, Variation, plan_of
from comfy_remote.errors import ConfigurationError, LocalStorageError
from comfy_remote.types import JsonValue
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.load import parse_workflow
from comfy_remote.workflow.prompt import Prompt


def planned(*vary: str, folder: Path = Path(), **words: object) -> Plan:
    """The plan for what is typed, its random draws always the same."""
    variation = Variation(vary=vary, **words)  # type: ignore[arg-type]
    return plan_of(variation, PROMPT, folder=folder, random=random.Random(7))


def values_of(text: str) -> list[JsonValue]:
    """The values of one axis."""
    return [next(iter(row.values())) for row in rows_of(planned(text))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("KSampler.seed=1..4", [1, 2, 3, 4]),
        ("KSampler.seed=4..1", [4, 3, 2, 1]),
        ("KSampler.steps=10..35/10", [10, 20, 30]),
        ("KSampler.cfg=0.1..0.9/0.2", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("KSampler.cfg=1..0/.25", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("KSampler.cfg=5, 7.5,9", [5, 7.5, 9]),
        ("KSampler.seed=1..3,9,7..5/2", [1, 2, 3, 9, 7, 5]),
        ("seed=18446744073709551614..18446744073709551615", [2**64 - 2, 2**64 - 1]),
        ("KSampler.sampler_name=euler,heun", ["euler", "heun"]),
        ("prompt=red,green", ["red", "green"]),
        ("prompt=\"a cat, sleeping\",'it''s'", ["a cat, sleeping", "it's"]),
        ("prompt=1..3", ["1..3"]),
        ('prompt="",x', ["", "x"]),
        ("width=512,768", [512, 768]),
    ],
)
def test_values_are_read_as_they_are_typed(text: str, values: list[JsonValue]) -> None:
    found = values_of(text)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


def test_a_range_does_not_drift() -> None:
    values = values_of("KSampler.cfg=0..30/0.1")
    assert values == [float(f"{n // 10}.{n % 10}") for n in range(301)]


def test_random_seeds_are_drawn_once_and_differ(tmp_path: Path) -> None:
    plan = planned("seed=random*500")
    seeds = [row["seed"] for row in rows_of(plan)]
    assert len(set(map(str, seeds))) == 500
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    plan.save(tmp_path)
    assert rows_of(Plan.load(tmp_path)) == rows_of(plan)


def test_what_is_dear_to_change_changes_least_often() -> None:
    plan = planned(
        "KSampler.seed=1..2",
        "KSampler.cfg=5,7",
        "prompt=red,green",
        "CheckpointLoaderSimple.ckpt_name=a.safetensors,b.safetensors",
    )
    assert [axis.names[0].rpartition(".")[2] for axis in plan.axes] == [
        *("ckpt_name", "prompt", "cfg", "seed")
    ]
    seeds = [row["KSampler.seed"] for row in rows_of(plan)]
    assert seeds == [1, 2] * 8


def test_equal_ones_stay_in_the_order_typed() -> None:
    for first, second in (("steps", "cfg"), ("cfg", "steps")):
        plan = planned(f"KSampler.{first}=5,7", f"KSampler.{second}=5,7")
        assert [axis.names for axis in plan.axes] == [
            (f"KSampler.{first}",),
            (f"KSampler.{second}",),
        ]


def test_a_row_changes_the_prompt_as_the_options_would() -> None:
    plan = planned("KSampler.seed=7,8", "prompt=a dog", "width=640", "5.cfg=6.5")
    loaded = parse_workflow(PROMPT, "p")
    assert prepare(loaded, plan.changes(1)).prompt == (
        prepare(
            loaded, Changes(prompt="a dog", width=640, settings=["5.cfg=6.5", "KSampler.seed=8"])
        ).prompt
    )
    assert prepare(loaded, plan.changes(1)).prompt == plan.prompt(1, PROMPT)
    base = Changes(negative="ugly", settings=["5.steps=3"])
    changed = prepare(loaded, plan.changes(0, base)).prompt
    assert changed["5"]["inputs"]["steps"] == 3
    assert changed["5"]["inputs"]["seed"] == 7
    assert changed["4"]["inputs"]["text"] == "ugly"
    assert plan.sets["prompt"] == [("3", "text")]


def test_names_that_vary_together_are_one_axis() -> None:
    plan = planned("seed=1..3", "prompt=a,b,c", "KSampler.cfg=5,7", zipped=["seed,prompt"])
    assert plan.count == 6
    assert [(row["seed"], row["prompt"]) for row in rows_of(plan)][:3:2] == [(1, "a"), (2, "b")]
    with pytest.raises(ConfigurationError, match=r"seed has 3, prompt has 2"):
        planned("seed=1..3", "prompt=a,b", zipped=["seed,prompt"])


def test_each_combination_is_repeated_with_fresh_seeds(tmp_path: Path) -> None:
    plan = planned("KSampler.cfg=5,7", repeat=3)
    assert [row["KSampler.cfg"] for row in rows_of(plan)] == [5, 5, 5, 7, 7, 7]
    assert len({str(row["seed"]) for row in rows_of(plan)}) == 6
    plan.save(tmp_path)
    assert rows_of(Plan.load(tmp_path)) == rows_of(plan)


@pytest.mark.parametrize("vary", ["seed=1..3", "KSampler.seed=1..3"])
def test_a_repeat_is_refused_where_nothing_random_remains(vary: str) -> None:
    with pytest.raises(ConfigurationError, match=r"repeat 2: .* the same"):
        planned(vary, repeat=2)
    without: Prompt = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    with pytest.raises(ConfigurationError, match="the workflow has no seed"):
        plan_of(Variation(repeat=2), without, folder=Path())


def test_a_damaged_plan_says_so(tmp_path: Path) -> None:
    plan = planned("prompt=a,b,c")
    plan.save(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-5])
    with pytest.raises(LocalStorageError, match=r"rows\.jsonl is damaged"):
        Plan.load(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(LocalStorageError, match=r"plan\.json is damaged"):
        Plan.load(tmp_path)


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    sample=st.one_of(st.none(), st.integers(1, 250)),
    repeat=st.one_of(st.none(), st.integers(1, 3)),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_combination_appears_once(
    tmp_path: Path, counts: list[int], sample: int | None, repeat: int | None
) -> None:
    names = ("KSampler.steps", "KSampler.cfg", "width")[: len(counts)]
    typed = [f"{name}=1..{count}" for name, count in zip(names, counts, strict=True)]
    plan = planned(*typed, sample=sample, repeat=repeat, sample_seed=5 if sample else None)
    rows = rows_of(plan)
    found = [tuple(row[name] for name in names) for row in rows]
    everything = set(product(*(range(1, count + 1) for count in counts)))
    times = repeat or 1
    assert len(found) == min(sample or len(everything), len(everything)) * times
    assert all(found.count(one) == times for one in set(found))
    assert set(found) <= everything
    seeds = {str(row.get("seed")) for row in rows}
    assert len(seeds) == (len(rows) if repeat else 1)
    plan.save(tmp_path)
    loaded = Plan.load(tmp_path)
    assert rows_of(loaded) == rows
    assert loaded.count == plan.count


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    typed = [f"KSampler.{name}=1..1000000" for name in ("steps", "cfg")]
    plans = [planned(*typed, sample=100, sample_seed=seed) for seed in (1, 1, 2)]
    first, again, other = map(rows_of, plans)
    assert first == again
    assert first != other
    assert len({str(row) for row in first}) == 100
    assert plans[0].combinations == 10**12
