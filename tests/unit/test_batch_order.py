"""What is dear to change changes least often, whatever the order in which it was typed."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from batch_kit import PROMPT

from comfy_remote.batch.plan import Variation, plan_of
from comfy_remote.workflow.prompt import Prompt

# A LoRA, a picture that is encoded, and a second pass over what the first one made.
GRAPH: Prompt = {
    **PROMPT,
    "20": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "l.safetensors",
            "strength_model": 1.0,
            "strength_clip": 1.0,
            "model": ["1", 0],
            "clip": ["1", 1],
        },
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["20", 1]}},
    "5": {
        "class_type": "KSampler",
        "inputs": {**PROMPT["5"]["inputs"], "model": ["20", 0]},
    },
    "21": {
        "class_type": "LatentUpscale",
        "inputs": {
            "samples": ["5", 0],
            "upscale_method": "bilinear",
            "width": 1024,
            "height": 1024,
            "crop": "disabled",
        },
    },
    "22": {
        "class_type": "KSampler",
        "inputs": {
            **PROMPT["5"]["inputs"],
            "seed": 2,
            "model": ["20", 0],
            "latent_image": ["21", 0],
        },
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["22", 0], "vae": ["1", 2]}},
}


@pytest.mark.parametrize(
    "dearest_first",
    [
        ["1.ckpt_name=a,b", "20.lora_name=a,b", "20.strength_model=1,2", "prompt=a,b", "seed=1,2"],
        ["1.ckpt_name=a,b", "5.cfg=1,2", "21.upscale_method=area,bislerp", "22.cfg=1,2"],
        ["prompt=a,b", "5.steps=1,2", "7.filename_prefix=a,b", "22.seed=1,2"],
        ["width=512,640", "5.cfg=1,2", "seed=1,2"],
    ],
)
def test_models_then_what_makes_more_run_again_then_seeds(dearest_first: list[str]) -> None:
    wanted = [one.partition("=")[0] for one in dearest_first]
    for typed in permutations(dearest_first):
        plan = plan_of(Variation(vary=typed), GRAPH, folder=Path())
        assert [axis.names[0] for axis in plan.axes] == wanted
        last = [plan.row(index)[wanted[-1]] for index in range(4)]
        assert last[0] != last[1]  # the cheapest changes with each run
        assert last[::2] == [last[0]] * 2


def test_a_zip_and_a_table_are_as_dear_as_their_dearest() -> None:
    plan = plan_of(
        Variation(
            vary=["prompt=a,b", "22.cfg=1,2"],
            zipped=[],
            rows=[{"seed": 1, "1.ckpt_name": "a"}, {"seed": 2, "1.ckpt_name": "b"}],
        ),
        GRAPH,
        folder=Path(),
    )
    assert [axis.names for axis in plan.axes] == [
        ("seed", "1.ckpt_name"),
        ("prompt",),
        ("22.cfg",),
    ]
