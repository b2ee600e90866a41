"""docs/library.md: each piece of code in it runs, on the sandbox."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port
from PIL import Image

from comfy_remote import SyncClient

PAGE = (Path(__file__).parents[2] / "docs/library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
ADDRESS = "http://127.0.0.1:8188"
SERVICE = "http://127.0.0.1:8000"


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture
def prompt_id(sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with the files that the page names, and the id of a job that has run."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), "red").save("photo.png")
    slow = {"steps": 3, "seconds_per_step": 0.05, "preview": True, "seed": int(time.time() * 1000)}
    workflow = {
        "1": _node("LoadImage", image="photo.png"),
        "2": _node("SandboxSlow", image=["1", 0], **slow),
        "3": _node("ImageInvert", image=["2", 0]),
        "4": _node("SaveImage", images=["3", 0], filename_prefix="doc"),
    }
    Path("workflow.json").write_text(json.dumps(workflow))
    callable_workflow = {
        "1": _node("ComfyRemoteInput", key="image"),
        "2": _node("ImageInvert", image=["1", 0]),
        "3": _node("ComfyRemoteOutput", value=["2", 0], key="result"),
    }
    Path("callable.json").write_text(json.dumps(callable_workflow))
    with SyncClient(sandbox_url) as client:
        job = client.submit("workflow.json")
        job.outputs()
        return job.id


@contextmanager
def _service(target: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "comfy_remote", "service", "callable.json"]
    process = subprocess.Popen([*command, "--on", target, "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/openapi.json", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_runs(number: int, prompt_id: str, sandbox_url: str) -> None:
    code = BLOCKS[number].replace(ADDRESS, sandbox_url)
    if SERVICE in code:
        with _service(sandbox_url) as url:
            _run(code.replace(SERVICE, url), number, prompt_id)
    else:
        _run(code, number, prompt_id)


def _run(code: str, number: int, prompt_id: str) -> None:
    # The sandbox's workflow has no text to set.
    code = code.replace(', prompt="a lighthouse"', "")
    exec(
        compile(code, f"docs/library.md, block {number}", "exec"),
        {
            "__name__": "page",
            "job_id": prompt_id,
            "prompt_id": prompt_id,
        },
    )
