"""Values with torch's tensors, in the Python of a real ComfyUI."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from helpers import COMFYUI_PYTHON, find_comfyui, in_comfyui_python

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not os.environ.get("COMFYUI_PYTHON"), reason="skipped: no ComfyUI"),
]


def test_every_kind_of_tensor_arrives_bit_for_bit(tmp_path: Path) -> None:
    printed = in_comfyui_python(Path(__file__).with_name("values_torch.py"), tmp_path)
    found = json.loads(printed)
    assert {"bfloat16", "float8_e4m3fn", "conditioning"} <= found.keys()
    # ComfyUI 0.3.64 has no such class.
    has_nested = (Path(find_comfyui() or "") / "comfy/nested_tensor.py").is_file()
    assert ("nested_tensor" in found) == has_nested
    assert {case: wrong for case, wrong in found.items() if wrong is not None} == {}


def test_torch_is_not_imported_by_who_does_not_ask_for_it(tmp_path: Path) -> None:
    script = """
import sys, numpy
from comfy_remote.media.values import encode, decode_value
data = b"".join(encode([numpy.ones(3), 1]).chunks())
assert decode_value(data, tensors="numpy").value[1] == 1
assert "torch" not in sys.modules and "PIL" not in sys.modules
"""
    subprocess.run(
        [COMFYUI_PYTHON, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        timeout=180,
    )
