"""How much work a prompt is: what a step weighs, whose steps they are, what is alike."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.workload import workload_of


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(steps: Any = 20, width: Any = 1000, batch: Any = 1, **more: Any) -> Prompt:
    return {
        "4": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "5": node("EmptyLatentImage", width=width, height=1000, batch_size=batch),
        "3": node("KSampler", model=["4", 0], latent_image=["5", 0], steps=steps, **more),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }


def sampler(prompt: Prompt, node_id: str = "3") -> tuple[float, float | None]:
    found = {work.node_id: (work.work, work.steps) for work in workload_of(prompt).nodes}
    return found[node_id]


def test_a_sampler_costs_steps_times_megapixels_times_pictures() -> None:
    assert sampler(text_to_image()) == (20.0, 20.0)
    assert sampler(text_to_image(steps=30, width=2000, batch=4)) == (240.0, 30.0)
    assert workload_of(text_to_image()).work == 24.0


def test_a_node_by_itself_does_not_run() -> None:
    alone = {**text_to_image(), "1": node("PrimitiveStringMultiline", value="ckpt https://…")}
    assert workload_of(alone) == workload_of(text_to_image())


def test_every_other_node_costs_the_same() -> None:
    nodes = {work.node_id: (work.work, work.steps) for work in workload_of(text_to_image()).nodes}
    assert {nodes[node_id] for node_id in "4589"} == {(1.0, None)}


def test_nodes_come_after_those_they_need() -> None:
    order = [work.node_id for work in workload_of(text_to_image()).nodes]
    assert sorted(order) == ["3", "4", "5", "8", "9"]
    assert order.index("4") < order.index("3") < order.index("8") < order.index("9")
    assert order.index("5") < order.index("3")


def test_a_part_of_the_steps_is_a_part_of_the_work() -> None:
    assert sampler(text_to_image(start_at_step=15, end_at_step=10000)) == (5.0, 5.0)
    assert sampler(text_to_image(start_at_step=0, end_at_step=12)) == (12.0, 12.0)


def test_numbers_are_taken_from_primitives() -> None:
    prompt = text_to_image(steps=["1", 0], width=["2", 0])
    prompt["1"] = node("PrimitiveInt", value=10)
    prompt["2"] = node("PrimitiveInt", value=500)
    assert sampler(prompt) == (5.0, 10.0)


def test_the_steps_of_a_scheduler_are_those_of_its_sampler() -> None:
    prompt: Prompt = {
        "1": node("EmptyLatentImage", width=2000, height=1000, batch_size=1),
        "2": node("BasicScheduler", steps=8),
        "3": node("SplitSigmas", sigmas=["2", 0], step=4),
        "4": node("SamplerCustomAdvanced", sigmas=["3", 1], latent_image=["1", 0]),
    }
    assert sampler(prompt, "4") == (16.0, 8.0)
    assert sampler(prompt, "2") == (1.0, None)


def test_a_video_costs_its_latent_frames() -> None:
    prompt: Prompt = {
        "1": node("EmptyHunyuanLatentVideo", width=1000, height=1000, length=81, batch_size=1),
        "3": node("KSampler", latent_image=["1", 0], steps=2),
    }
    assert sampler(prompt) == (42.0, 2.0)


def test_a_picture_of_unknown_size_counts_as_one_megapixel() -> None:
    prompt: Prompt = {
        "1": node("LoadImage", image="x.png"),
        "2": node("VAEEncode", pixels=["1", 0]),
        "3": node("KSampler", latent_image=["2", 0], steps=7),
    }
    assert sampler(prompt) == (7.0, 7.0)


@pytest.mark.parametrize(
    "odd", [0, -5, True, None, "many", ["9", 0], [], {}, 10**400, float("inf"), float("nan")]
)
def test_what_cannot_be_read_does_not_matter(odd: Any) -> None:
    for prompt in (text_to_image(steps=odd), text_to_image(width=odd), text_to_image(batch=odd)):
        work = workload_of(prompt)
        assert len(work.nodes) == 5
        assert 5.0 <= work.work < 1e15


@pytest.mark.parametrize(
    ("between", "megapixels"),
    [
        (node("LatentUpscaleBy", samples=["1", 0], scale_by=2.0), 4.0),
        (node("ImageScaleToTotalPixels", image=["1", 0], megapixels=0.5), 0.5),
        (node("ImageScale", image=["1", 0], width=2000, height=1000), 2.0),
        (node("RepeatLatentBatch", samples=["1", 0], amount=3), 3.0),
        (node("ControlNet", samples=["1", 0], image=["9", 0]), 1.0),
    ],
)
def test_what_stands_between_counts(between: Any, megapixels: float) -> None:
    prompt: Prompt = {
        "1": node("EmptyLatentImage", width=1000, height=1000, batch_size=1),
        "9": node("EmptyImage", width=9000, height=9000, batch_size=1),
        "2": between,
        "3": node("KSampler", latent_image=["2", 0], steps=10),
    }
    assert sampler(prompt) == (pytest.approx(10 * megapixels), 10.0)


def test_a_number_of_pictures_is_known_past_a_change_of_size() -> None:
    prompt: Prompt = {
        "1": node("EmptyLatentImage", width=500, height=500, batch_size=4),
        "2": node("LatentUpscale", samples=["1", 0], width=1000, height=1000),
        "3": node("KSampler", latent_image=["2", 0], steps=10),
    }
    assert sampler(prompt) == (40.0, 10.0)


def test_what_changed_is_said() -> None:
    before = workload_of(text_to_image())
    assert workload_of(text_to_image(seed=5)).changes_from(before) == []
    assert workload_of(text_to_image(steps=30, width=2000, batch=4)).changes_from(before) == [
        "steps 20 → 30",
        "pixels 1,000,000 → 2,000,000",
        "batch 1 → 4",
    ]
    assert workload_of({}).changes_from(before) == []


def test_a_cycle_or_a_link_into_nothing_does_not_matter() -> None:
    cycle: Prompt = {
        "1": node("KSampler", latent_image=["2", 0], steps=3, sigmas=["2", 0]),
        "2": node("X", samples=["1", 0], sigmas=["1", 0]),
    }
    assert workload_of(cycle).work == 4.0
    assert workload_of({"1": node("X", image=["7", 0])}).work == 1.0
    assert workload_of({}).work == 0.0


def test_alike_is_what_has_the_same_nodes_and_models() -> None:
    shape = workload_of(text_to_image()).shape
    assert len(shape) == 64
    renamed = {
        f"a{node_id}": {
            **node,
            "inputs": {
                k: [f"a{v[0]}", v[1]] if isinstance(v, list) else v
                for k, v in node["inputs"].items()
            },
        }
        for node_id, node in reversed(text_to_image(steps=3, seed=5).items())
    }
    assert workload_of(renamed).shape == shape  # type: ignore[arg-type]
    other_model = text_to_image()
    other_model["4"] = node("CheckpointLoaderSimple", ckpt_name="b.safetensors")
    another_node = {**text_to_image(), "10": node("PreviewImage", images=["8", 0])}
    assert len({shape, workload_of(other_model).shape, workload_of(another_node).shape}) == 3
