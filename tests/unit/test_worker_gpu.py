"""The GPU, asked of torch in the engine's own Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError, EngineCrashed
from comfy_remote.worker.choice import choose_engine
from comfy_remote.worker.gpu import check_gpu

TORCH = """
class cuda:
    is_available = staticmethod(lambda: {available})
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
class _Tensor:
    def sum(self): return self
    def item(self): {compute}
def zeros(count, device):
    assert device == "cuda"
    return _Tensor()
"""


def environ(folder: Path, *, available: bool, compute: str = "return 0") -> dict[str, str]:
    (folder / "torch.py").write_text(TORCH.format(available=available, compute=compute))
    return {**os.environ, "PYTHONPATH": str(folder)}


async def test_a_gpu_that_computes_is_fine(tmp_path: Path) -> None:
    await check_gpu(sys.executable, environ(tmp_path, available=True))


async def test_a_python_whose_torch_sees_no_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="torch finds no GPU"):
        await check_gpu(sys.executable, environ(tmp_path, available=False))


async def test_a_gpu_that_is_listed_and_cannot_be_used_is_refused(tmp_path: Path) -> None:
    broken = 'raise RuntimeError("CUDA unknown error")'
    with pytest.raises(EngineCrashed, match="CUDA unknown error"):
        await check_gpu(sys.executable, environ(tmp_path, available=True, compute=broken))


async def test_a_python_without_torch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13')")
    with pytest.raises(EngineCrashed, match=r"libcudart\.so\.13"):
        await check_gpu(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)})


async def test_a_python_that_is_not_there_is_a_setting_to_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="COMFYUI_PYTHON"):
        await check_gpu(str(tmp_path / "python"), os.environ)


@pytest.mark.parametrize(
    ("arguments", "checked"),
    [("", True), ("--lowvram", True), ("--cpu", False), ("--directml 0", False)],
)
def test_an_engine_without_a_gpu_is_not_asked(
    tmp_path: Path, arguments: str, checked: bool
) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    named = {"COMFYUI_ARGS": arguments, "COMFYUI_PYTHON": sys.executable}
    choice = choose_engine(str(tmp_path), named)
    assert choice.gpu_python == (sys.executable if checked else None)
