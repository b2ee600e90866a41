"""Two engines behind one ``comfy-remote serve``: each model of a batch is loaded once.

The engines are sandboxes in processes of their own. The picture of ``SandboxModel`` is another one
with each load, so as many different pictures as there are is how often a model was loaded.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import start_sandbox, stop
from PIL import Image
from serve_kit import Serve

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A gateway with two idle workers."""
    engines = [start_sandbox() for _ in range(2)]
    arguments = [word for engine in engines for word in ("--engine", engine[0])]
    server = Serve(*arguments, COMFY_REMOTE_HOME=str(tmp_path))
    try:
        url = f"{server.url()}/local"
        deadline = time.monotonic() + 60
        while ask(f"{url}/health")["workers"]["idle"] < 2:
            assert time.monotonic() < deadline, server.text
            time.sleep(0.05)
        yield url
    finally:
        server.process.kill()
        server.process.wait()
        for _, process in engines:
            stop(process)


def ask(url: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def row(model: str, number: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "SandboxModel", "inputs": {"ckpt_name": model, "seconds": 0.3}},
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": 1,
                "seconds_per_step": 0.2,
                "preview": False,
                "seed": number,
            },
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "p"}},
    }


def picture(done: dict[str, Any]) -> bytes:
    (output,) = done["output"]["outputs"]
    with Image.open(io.BytesIO(base64.b64decode(output["data"]))) as image:
        return image.tobytes()


@pytest.mark.parametrize("order", ["AAAAAABBBBBB", "ABABABABABAB"])
def test_a_batch_over_two_models_loads_each_once(url: str, order: str) -> None:
    jobs = {
        ask(
            f"{url}/run",
            {
                "input": {
                    "workflow": row(f"{model}.safetensors", number),
                    "format": "comfy-remote/1",
                },
                "policy": {"batch": "rows"},
            },
        )["id"]: model
        for number, model in enumerate(order)
    }
    loads: dict[str, set[bytes]] = {"A": set(), "B": set()}
    workers: dict[str, set[str]] = {"A": set(), "B": set()}
    deadline = time.monotonic() + 60
    for job_id, model in jobs.items():
        while (done := ask(f"{url}/status/{job_id}"))["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert done["status"] == "COMPLETED", done
        loads[model].add(picture(done))
        workers[model].add(done["workerId"])
    assert {model: len(pictures) for model, pictures in loads.items()} == {"A": 1, "B": 1}
    assert workers["A"] | workers["B"] == {"engine1", "engine2"}, "both have worked"
