"""The Python of a ComfyUI, with what the pack needs beside what ComfyUI brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["comfyui_python", "with_requirements"]

# Of the pack's requirements, those that ComfyUI does not have: all pure Python.
_ADDED = ("dotenv", "platformdirs")


def comfyui_python() -> str:
    """The Python that ComfyUI runs with: ``COMFYUI_PYTHON``, else this one."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def with_requirements(folder: Path) -> dict[str, str]:
    """The environment for a ComfyUI whose Python may lack them: copies of the tests' own.

    Args:
        folder: Empty, or not there yet; gets the copies.
    """
    question = f"""import json, importlib.util as util
print(json.dumps([name for name in {_ADDED!r} if not util.find_spec(name)]))"""
    answer = subprocess.run(
        [comfyui_python(), "-c", question], cwd="/", capture_output=True, text=True, check=True
    )
    for name in json.loads(answer.stdout):
        found = find_spec(name)
        assert found is not None, name
        assert found.origin is not None, name
        shutil.copytree(Path(found.origin).parent, folder / name, dirs_exist_ok=True)
    return {"PYTHONPATH": str(folder)}
