"""Every value of a batch is checked against the target once, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_kit import PROMPT, WITH_FILES
from fake_target import FakeTarget

from comfy_remote.batch.checking import ValueProblem, check_plan
from comfy_remote.batch.plan import Variation, plan_of
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.types import JsonValue
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

CHECKPOINTS: list[JsonValue] = ["a.safetensors", "sub/b.safetensors"]


def _schemas() -> Schemas:
    """The bundled ones, as a target would report them, with its models."""
    bundled = Schemas.bundled()
    document = {name: dict(bundled.document(name) or {}) for name in bundled}
    document["CheckpointLoaderSimple"] = {
        **document["CheckpointLoaderSimple"],
        "input": {"required": {"ckpt_name": [CHECKPOINTS, {}]}},
        "python_module": "nodes",
    }
    return Schemas(document, "the fake")


async def _problems(
    variation: Variation, prompt: Prompt, folder: Path, target: FakeTarget | None = None
) -> list[ValueProblem]:
    schemas = _schemas()
    plan = plan_of(variation, prompt, folder=folder, schemas=schemas)
    with Record(folder / "jobs.sqlite3") as record:
        async with Client(target or FakeTarget(), record=record, schemas=schemas) as client:
            return await check_plan(plan, prompt, client)


async def test_wrong_values_are_named_with_how_many_runs_have_them(tmp_path: Path) -> None:
    vary = [
        "CheckpointLoaderSimple.ckpt_name=a.safetensors,sub\\b.safetensors,c.safetensors",
        "KSampler.cfg=50..150/50",
        "KSampler.sampler_name=euler,eular",
        "prompt=red,green",
    ]
    found = await _problems(Variation(vary=vary), PROMPT, tmp_path)
    assert [(one.name, one.value, one.runs, one.problem.code) for one in found] == [
        ("CheckpointLoaderSimple.ckpt_name", "c.safetensors", 12, "missing_model"),
        ("KSampler.cfg", 150, 12, "value_bigger_than_max"),
        ("KSampler.sampler_name", "eular", 18, "value_not_in_list"),
    ]
    assert "Did you mean 'euler'" in found[2].message
    assert found[1].message == "KSampler.cfg=150: 150.0 is out of range: it takes 0.0 to 100.0."


async def test_what_would_be_refused_whatever_varies_comes_first(tmp_path: Path) -> None:
    prompt: Prompt = {
        **PROMPT,
        "8": {"class_type": "NoSuchNode", "inputs": {"images": ["6", 0]}},
    }
    found = await _problems(Variation(vary=["KSampler.cfg=5,500"]), prompt, tmp_path)
    assert [(one.name, one.runs, one.problem.code) for one in found] == [
        ("", 2, "missing_node_type"),
        ("KSampler.cfg", 1, "value_bigger_than_max"),
    ]
    assert found[0].message.startswith("NoSuchNode (node 8): ")


async def test_of_a_sample_only_the_chosen_rows_count(tmp_path: Path) -> None:
    variation = Variation(
        vary=["KSampler.cfg=1,200", "KSampler.steps=1..500"], sample=20, sample_seed=1, repeat=2
    )
    plan = plan_of(variation, PROMPT, folder=tmp_path)
    wrong = sum(plan.row(n)["KSampler.cfg"] == 200 for n in range(plan.count))
    found = await _problems(variation, PROMPT, tmp_path)
    assert [(one.value, one.runs) for one in found] == [(200, wrong)]


async def test_files_that_are_neither_here_nor_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(b"x")
    (tmp_path / "gone.png").write_bytes(b"x")
    target = FakeTarget()
    target.inputs = {"there.png"}
    schemas = _schemas()
    variation = Variation(vary=["A.image=here.png,gone.png,there.png,nowhere.png"])
    plan = plan_of(variation, WITH_FILES, folder=tmp_path, schemas=schemas)
    (tmp_path / "gone.png").unlink()
    with Record(tmp_path / "jobs.sqlite3") as record:
        async with Client(target, record=record, schemas=schemas) as client:
            found = await check_plan(plan, WITH_FILES, client)
    assert [(one.value, one.problem.code) for one in found] == [
        ("gone.png", "missing_file"),
        ("nowhere.png", "missing_file"),
    ]


@pytest.mark.parametrize(
    ("typed", "problems"),
    [
        ("KSampler.cfg=0..100", []),
        ("KSampler.cfg=99.5..102/0.5", [(102.0, 4)]),
        ("KSampler.cfg=-3..200", [(-3, 3), (200, 100)]),
        ("KSampler.cfg=300..101", [(300, 200)]),
        ("KSampler.steps=0..10/2", [(0, 1)]),
        ("KSampler.steps=1..1000000000000000000000", [(10**21, 10**21 - 10_000)]),
    ],
)
async def test_a_range_says_how_many_of_its_values_are_wrong(
    tmp_path: Path, typed: str, problems: list[tuple[float, int]]
) -> None:
    found = await _problems(Variation(vary=[typed]), PROMPT, tmp_path)
    assert [(one.value, one.runs) for one in found] == problems
