"""Values of others are what their type says, or they are refused."""

from __future__ import annotations

import numpy as np
import pytest

from comfy_remote.errors import ValueInvalid
from comfy_remote.media.values.types import check_type

PICTURE = np.zeros((1, 4, 4, 3), np.float32)
FITTING = [
    ("IMAGE", PICTURE),
    ("MASK", np.zeros((1, 4, 4), np.float32)),
    ("LATENT", {"samples": PICTURE}),
    ("CONDITIONING", [[np.zeros((1, 77, 8)), {"pooled_output": None}]]),
    ("AUDIO", {"waveform": np.zeros((1, 2, 99), np.float32), "sample_rate": 44100}),
    ("SIGMAS", np.zeros(5, np.float32)),
    ("STRING", "a cat"),
    ("INT", 3),
    ("FLOAT", 3),
    ("FLOAT", 0.5),
    ("BOOLEAN", True),
    ("IMAGE,MASK", np.zeros((4, 4), np.float32)),
    ("*", object()),
    ("VIDEO", object()),
    ("IMAGE,VIDEO", object()),
]


@pytest.mark.parametrize(("type_", "value"), FITTING)
def test_a_value_of_its_type_is_taken(type_: str, value: object) -> None:
    check_type(type_, value)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("IMAGE", "a cat"),
        ("IMAGE", PICTURE.astype(np.uint8)),
        ("IMAGE", PICTURE[0]),
        ("IMAGE", PICTURE.tolist()),
        ("IMAGE", {"samples": PICTURE}),
        ("MASK", PICTURE),
        ("LATENT", PICTURE),
        ("LATENT", {"samples": "none"}),
        ("CONDITIONING", [[PICTURE, "text"]]),
        ("CONDITIONING", PICTURE),
        ("AUDIO", {"waveform": PICTURE, "sample_rate": 1}),
        ("SIGMAS", PICTURE),
        ("STRING", 3),
        ("INT", True),
        ("INT", 3.5),
        ("FLOAT", "3"),
        ("BOOLEAN", 1),
        ("IMAGE,MASK", "a cat"),
    ],
)
def test_a_value_of_another_type_is_refused(type_: str, value: object) -> None:
    with pytest.raises(ValueInvalid, match="This is no"):
        check_type(type_, value)
