"""A fleet on a real Ray cluster of several nodes on this machine; its engines are sandboxes."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray_kit import RayNodes
from serve_kit import COMMAND, Serve
from serve_kit import wait_for as wait_for_seconds

if importlib.util.find_spec("ray") is None:
    pytest.skip("no Ray", allow_module_level=True)
if sys.platform == "win32":
    pytest.skip("several Ray nodes on one machine need POSIX", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("ray")  # one cluster of processes is enough for a machine

# Processes that import Ray start slowly on a busy machine.
wait_for = functools.partial(wait_for_seconds, seconds=180)

NODES, GPUS = 2, 2
CLIENT = "clients-token-of-this-test-0123456789"
AWAY = 4


class Fleet:
    """A gateway, a cluster, and the fleet's file."""

    def __init__(self, folder: Path, nodes: RayNodes, gateway: Serve) -> None:
        self.folder, self.nodes, self.gateway = folder, nodes, gateway
        self.url = gateway.url()
        self.file = folder / "fleet.yaml"
        self._nodes = 0

    def write(self, **workers: object) -> None:
        settings = {"min": 1, "max": 4, "idle": 2, "engine": "sandbox", "away": AWAY, **workers}
        gateway = {
            "url": self.url.removesuffix("/v2"),
            "endpoint": "attic",
            "worker_token_file": str(self.folder / "fleet.token"),
            "token_file": str(self.folder / "client.token"),
        }
        self.file.write_text(json.dumps({"gateway": gateway, "workers": settings}))

    def command(self, *words: str, status: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [*COMMAND, "fleet", *words, "--config", self.file, "--address", self.nodes.address],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/attic{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {CLIENT}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def workflow(self, number: int, steps: int) -> Any:
        image = {"width": 16, "height": 16, "batch_size": 1, "color": number}
        slow = {"image": ["1", 0], "steps": steps, "seconds_per_step": 0.1, "preview": False}
        return {
            "1": {"class_type": "EmptyImage", "inputs": image},
            "2": {"class_type": "SandboxSlow", "inputs": slow},
            "3": {
                "class_type": "SaveImage",
                "inputs": {"images": ["2", 0], "filename_prefix": "x"},
            },
        }

    def submit(self, number: int, steps: int) -> str:
        workflow = self.workflow(number, steps)
        return str(self.ask("POST", "/run", {"input": {"workflow": workflow}})["id"])

    def status(self, job: str) -> Any:
        return self.ask("GET", f"/status/{job}")

    def workers(self, *states: str, labels: Sequence[str] = ()) -> list[str]:
        """The names of those in these states at the gateway, with these labels."""
        return [
            one["id"]
            for one in self.ask("GET", "/overview")["workers"]
            if one["state"] in (states or ("idle", "running")) and {*labels} <= {*one["labels"]}
        ]

    def running_on(self, job: str) -> str:
        """The worker that runs a job, once one does."""
        found: list[str] = []

        def runs() -> bool:
            running = self.ask("GET", "/overview")["running"]
            found[:] = [one["worker"] for one in running if one["id"] == job]
            return bool(found)

        wait_for(runs, what=f"{job} runs")
        return found[0]

    def shown(self) -> Any:
        """What `fleet status --json` shows."""
        return self.nodes.say("fleet comfy-remote-attic")

    def the_worker(self) -> Any:
        """The only one, once there is no other, as `shown` shows it."""
        found: list[Any] = []

        def is_alone() -> bool:
            found[:] = self.shown()["workers"]
            return len(found) == 1 and found[0]["at_gateway"] in ("idle", "running")

        wait_for(is_alone, what="a single worker")
        return found[0]

    def add_node(self) -> None:
        """One more node, with a home of its own, as if it were another machine."""
        self._nodes += 1
        self.nodes.say(f"add {GPUS} {self.folder / f'box{self._nodes}'}")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    # Ray's sockets are below it, whose paths have 107 characters at most.
    rays = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "rays-token-of-this-test-0123456789abcdef")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("COMFY_REMOTE_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        token = folder / "fleet.token"
        add = ["workers", "add", "fleet", "--endpoint", "attic", "-o", str(token)]
        subprocess.run([*COMMAND, *add], check=True, capture_output=True)
        (folder / "client.token").write_text(CLIENT)
        gateway = Serve(
            *("--endpoint", "attic", "--worker", "none"),
            *("--token-file", str(folder / "client.token")),
        )
        nodes = RayNodes(rays)
        try:
            made = Fleet(folder, nodes, gateway)
            for _ in range(NODES):
                made.add_node()
            yield made
        finally:
            nodes.end()
            gateway.kill()
            shutil.rmtree(rays, ignore_errors=True)


def test_without_a_token_of_rays_nothing_is_started(fleet: Fleet) -> None:
    fleet.write()
    for mode in ("", "disabled"):
        said = fleet.command("up", status=2, RAY_AUTH_MODE=mode)
        assert "whoever reaches a machine of the cluster can run programs there" in said
    said = fleet.command("up", status=2, RAY_AUTH_TOKEN="another-token-0123456789abcdefghij")
    assert "does not take this machine's token" in said
    assert "another-token" not in said


def test_a_fleet_follows_the_queue_and_outlives_what_it_runs_on(fleet: Fleet) -> None:
    fleet.write()
    said = fleet.command("up")
    assert re.search(r"1 worker of 1 at work for endpoint attic; 1 to 4", said), said

    # As many workers as jobs, and back.
    jobs = [fleet.submit(number, steps=3000) for number in range(6)]
    wait_for(lambda: len(fleet.workers("running")) == 4, what="four workers")
    for job in jobs:
        fleet.ask("POST", f"/cancel/{job}")
    wait_for(lambda: len(fleet.workers()) == 1, what="one worker again")

    # A worker's process is killed: Ray makes it again, here or on the other node.
    worker = fleet.the_worker()
    job = fleet.submit(100, steps=30)
    assert fleet.running_on(job) == worker["name"]
    os.kill(worker["process"], signal.SIGKILL)
    wait_for(lambda: fleet.status(job)["status"] == "COMPLETED")

    # The node with the worker is lost, as a spot machine is: its job is run on the other.
    worker = fleet.the_worker()
    job = fleet.submit(101, steps=30)
    assert fleet.running_on(job) == worker["name"]
    fleet.nodes.say(f"kill {worker['node']}")
    wait_for(lambda: fleet.status(job)["status"] == "COMPLETED")
    assert fleet.status(job)["workerId"] != worker["name"]


def test_a_machine_is_left_and_a_changed_file_replaces_workers(fleet: Fleet) -> None:
    fleet.add_node()
    fleet.write(min=2, max=2)
    fleet.command("up")
    job = fleet.submit(200, steps=30)
    worker = fleet.running_on(job)

    fleet.write(min=2, max=2, labels=["new"])
    fleet.command("up", "--wait", "1")
    wait_for(lambda: len(fleet.workers("idle", labels=["new"])) == 2, what="two new workers")
    assert fleet.status(job)["status"] == "COMPLETED", "no job is lost"
    assert fleet.status(job)["workerId"] == worker
    wait_for(lambda: all(one["is_current"] for one in fleet.shown()["workers"]))

    first = json.loads(fleet.command("status", "--json"))["workers"][0]
    assert "gets no more workers" in fleet.command("drain", first["node"][:12])
    wait_for(lambda: first["name"] not in fleet.workers("idle"), what="its worker ends")
    wait_for(lambda: len(fleet.workers("idle", labels=["new"])) == 2, what="another one")
    wait_for(lambda: first["node"] not in {one["node"] for one in fleet.shown()["workers"]})


def test_a_batch_runs_on_it_as_on_any_endpoint(fleet: Fleet, tmp_path: Path) -> None:
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(fleet.workflow(0, steps=1)))
    out = ["-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*COMMAND, "batch", workflow, "--vary", "1.color=1..3", "--on", "runpod:attic", *out],
        env={**os.environ, "RUNPOD_ENDPOINT_BASE_URL": fleet.url, "RUNPOD_API_KEY": CLIENT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").rglob("x_*.png"))) == 3


def test_it_goes_down_when_its_jobs_have_ended(fleet: Fleet) -> None:
    job = fleet.submit(300, steps=20)
    fleet.running_on(job)
    assert "The fleet has ended." in fleet.command("down")
    assert fleet.status(job)["status"] == "COMPLETED"
    assert "No fleet for this endpoint runs" in fleet.command("status", status=2)
