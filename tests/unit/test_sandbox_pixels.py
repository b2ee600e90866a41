"""The sandbox gives the pixels that a real ComfyUI gave (see ``data/make_golden_pixels.py``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from engine_client import EngineClient, pixel_digest
from parity_cases import cases, input_files

from comfy_remote.sandbox.resize import RESIZE_METHODS, crop_to_aspect, resize

DATA = Path(__file__).parent.parent / "data"
GOLDEN = json.loads((DATA / "golden_pixels.json").read_text())
if int(PIL.__version__.split(".")[0]) < 13:
    GOLDEN |= json.loads((DATA / "golden_pixels_pillow_12.json").read_text())


@pytest.fixture(scope="module")
def sandbox(sandbox_url: str) -> EngineClient:
    engine = EngineClient(sandbox_url)
    for name, content in input_files().items():
        engine.upload(name, content)
    return engine


def test_every_case_has_a_golden_digest() -> None:
    assert GOLDEN.keys() == cases().keys()
    assert len(set(GOLDEN.values())) > len(GOLDEN) * 0.8


@pytest.mark.parametrize("name", cases())
def test_golden_pixels(name: str, sandbox: EngineClient) -> None:
    assert pixel_digest(sandbox.pictures(sandbox.run(cases()[name]))) == GOLDEN[name]


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_one_level_stays_one_level(method: str) -> None:
    """Weights add up to 1, as near as makes no difference to 8 bits rounded."""
    image = np.full((1, 13, 17, 3), 128 / 255, np.float32)
    result = resize(image, 91, 7, method)
    assert result.shape == (1, 7, 91, 3)
    assert result.dtype == np.float32
    assert np.array_equal(np.round(result * 255), np.full(result.shape, 128))


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_an_empty_result_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        resize(np.zeros((1, 4, 4, 3), np.float32), 0, 4, method)


def test_crop_keeps_the_middle() -> None:
    image = np.arange(40, dtype=np.float32).reshape(1, 1, 40, 1)
    assert crop_to_aspect(image, 10, 1)[0, 0, :, 0].tolist() == list(range(15, 25))
