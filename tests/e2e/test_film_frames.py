"""Films that come from elsewhere, in the Python of a real ComfyUI: none is more than is allowed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import in_comfyui_python

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not os.environ.get("COMFYUI_PYTHON"), reason="skipped: no ComfyUI"),
]


def test_the_frames_of_any_film_are_given_or_said_why_not(tmp_path: Path) -> None:
    printed = in_comfyui_python(Path(__file__).with_name("film_frames.py"), tmp_path)
    found = json.loads(printed.splitlines()[-1])
    unreadable = "The frames of the video cannot be read: Invalid data found"
    assert found["whole"] == found["without a length in its head"] == [5, 48, 64, 3]
    assert found["without pictures"] == "The video has no frames."
    assert found["cut off"].startswith(unreadable) and found["empty"].startswith(unreadable)
    for name in ("too long", "too long, without a length in its head"):
        assert found[name].startswith("The video has 5 frames, 184 kB as images: use the output")
