"""Which of two workers gets a job: behind one ``comfy-remote serve``, and joined to one.

All are processes; the engines are sandboxes. The picture of ``SandboxModel`` is another one with
each load, so as many different pictures as there are is how often a model was loaded.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import start_sandbox, stop
from joined_kit import Cluster, cluster
from PIL import Image
from serve_kit import picture, slow, wait_for

__all__ = ["cluster"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes")


@pytest.fixture
def engines() -> Iterator[list[str]]:
    """The addresses of two engines."""
    started = [start_sandbox() for _ in range(2)]
    yield [url for url, _ in started]
    for _, process in started:
        stop(process)


def row(model: str, number: int) -> dict[str, Any]:
    """A prompt that loads a model, and differs from the others."""
    prompt = slow(0.2)
    prompt["1"] = {"class_type": "SandboxModel", "inputs": {"ckpt_name": model, "seconds": 0.3}}
    prompt["3"]["inputs"]["seed"] = number
    return prompt


def check_that_each_is_loaded_once(cluster: Cluster, order: str, workers: set[str]) -> None:
    """Run a batch over two models, in that order, on two idle workers."""
    wait_for(lambda: cluster.ask("health")["workers"]["idle"] == 2)
    jobs = [
        (cluster.submit(row(f"{model}.safetensors", number), batch="rows"), model)
        for number, model in enumerate(order)
    ]
    loads: dict[str, set[bytes]] = {model: set() for model in order}
    worked = set()
    for job, model in jobs:
        done = cluster.ends(job)
        assert done["status"] == "COMPLETED", done
        (output,) = done["output"]["outputs"]
        with Image.open(io.BytesIO(base64.b64decode(output["data"]))) as image:
            loads[model].add(image.tobytes())
        worked.add(done["workerId"])
    assert {model: len(pictures) for model, pictures in loads.items()} == {"A": 1, "B": 1}
    assert worked == workers


@pytest.mark.parametrize("order", ["AAAAAABBBBBB", "ABABABABABAB"])
def test_a_batch_over_two_models_loads_each_once(
    cluster: Cluster, engines: list[str], order: str
) -> None:
    command = ["serve", "--port", str(cluster.port), "--engine", engines[0], "--engine", engines[1]]
    cluster.command(*command).says("Ready.")
    check_that_each_is_loaded_once(cluster, order, {"engine1", "engine2"})


def test_so_it_does_on_two_workers_that_have_joined(cluster: Cluster) -> None:
    cluster.serve()
    for name in ("attic", "cellar"):
        cluster.worker(name)
    check_that_each_is_loaded_once(cluster, "AABABBABABBA", {"attic", "cellar"})


def test_a_job_waits_for_the_worker_with_its_label_and_says_so(cluster: Cluster) -> None:
    cluster.serve()
    cluster.worker("attic")
    job = cluster.submit(picture(), labels=["big"])
    other = cluster.submit(picture())
    assert cluster.ends(other)["workerId"] == "attic"
    (waiting,) = cluster.ask("overview")["waiting"]
    assert waiting["why"] == "No connected worker has the labels that the job asks for: big."
    cluster.worker("cellar", "--label", "big")
    assert cluster.ends(job)["workerId"] == "cellar"
