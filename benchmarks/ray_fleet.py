"""Jobs on a fleet on Ray, while its workers, nodes, head and gateway are killed at random.

The nodes are Ray's own on this machine (`ray_nodes`), each as if it were another machine with two
GPUs; the gateway and the fleet are the commands. The engines note in a file of all when they run
what: see `fleet`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT, TINY, Skipped
from fleet import Client, Found, Plan, Process, free_port, ideal, judge, request
from http_load import Endpoint

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from ray_kit import RayNodes

_ENDPOINT = "fleet"
_COMMAND = [sys.executable, "-m", "comfy_remote"]
_START_PATIENCE = 180.0
_GPUS = 2  # of a node


@dataclass
class Node:
    """A node of Ray's, and when it was up."""

    home: Path
    id: str = ""
    up: list[tuple[float, float | None]] = field(default_factory=list)

    def up_between(self, begin: float, end: float) -> float:
        """Seconds, those of each GPU counted."""
        return _GPUS * sum(
            max(0.0, min(end, end if until is None else until) - max(begin, since))
            for since, until in self.up
        )


class Nodes:
    """Ray's nodes: see `ray_nodes`."""

    def __init__(self, folder: Path, rays: str, count: int) -> None:
        self._log = (folder / "ray.log").open("wb")
        self._ray = RayNodes(rays, self._log)
        self.address = self._ray.address
        self._known: list[str] = self._ray.say("list")
        self.nodes = [Node(folder / f"box{number}") for number in range(count)]
        for one in self.nodes:
            self.start(one)

    def start(self, node: Node) -> None:
        """Start a node."""
        known = self._ray.say(f"add {_GPUS} {node.home}")
        (node.id,) = set(known) - set(self._known)
        self._known = known
        node.up.append((time.monotonic(), None))

    def kill(self, node: Node) -> None:
        """Kill a node, as a power cut would."""
        node.up[-1] = (node.up[-1][0], time.monotonic())
        self._known = self._ray.say(f"kill {node.id}")

    def restart_head(self) -> None:
        """Kill what keeps the cluster's state, and start it again."""
        self._ray.say("restart-head")

    def end(self) -> None:
        """End them all."""
        self._ray.end()
        self._log.close()


class RayFleet:
    """A gateway, Ray's nodes, and the fleet on them."""

    def __init__(self, gateway: Process, nodes: Nodes, endpoint: Endpoint, file: Path) -> None:
        self.gateway, self.nodes, self.endpoint, self._file = gateway, nodes, endpoint, file
        self.log = file.with_name("runs")

    def command(self, *words: str) -> str:
        """What ``comfy-remote fleet`` says."""
        done = subprocess.run(
            [*_COMMAND, "fleet", *words, "--config", self._file, "--address", self.nodes.address],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"fleet {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self) -> list[int]:
        """Those of the workers."""
        return [one["process"] for one in json.loads(self.command("status", "--json"))["workers"]]


@contextlib.contextmanager
def ray_fleet(folder: Path, nodes: int, least: int, idle: float) -> Iterator[RayFleet]:
    """A fleet of so many nodes, of two GPUs each; ``least`` workers at least."""
    engine, home = folder / "engine", folder / "head"
    home.mkdir()
    (engine / "comfy").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("counted_engine.py"), engine / "main.py")
    rays = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets have 107 characters at most
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN="benchmark-" * 4,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_gcs_storage="rocksdb",
        RAY_gcs_storage_path=str(folder / "gcs"),
        PYTHONPATH=str(Path(__file__).parents[1]),
        COMFY_REMOTE_HOME=str(home),
        COMFYUI_PYTHON=sys.executable,
        COMFYUI_ENV="FLEET_LOG",
        FLEET_LOG=str(folder / "runs"),
    )
    token = folder / "fleet.token"
    add = ["workers", "add", "fleet", "--endpoint", _ENDPOINT, "-o", str(token)]
    subprocess.run([*_COMMAND, *add], check=True, capture_output=True)
    port = free_port()
    serve = ["serve", "--port", str(port), "--endpoint", _ENDPOINT, "--worker", "none"]
    gateway = Process("gateway", home, serve, {})
    gateway.start()
    started = Nodes(folder, rays, nodes)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "gateway": {"url": url, "endpoint": _ENDPOINT, "worker_token_file": str(token)},
        "workers": {
            "min": least,
            "max": nodes * _GPUS,
            "idle": idle,
            "engine": str(engine),
            "away": 5,
            "environment": {"COMFYUI_ARGS": "--cpu"},
        },
    }
    file = folder / "fleet.yaml"
    file.write_text(json.dumps(settings))
    made = RayFleet(gateway, started, Endpoint(f"{url}/v2/{_ENDPOINT}", ""), file)
    try:
        made.command("up")
        yield made
    finally:
        started.end()
        gateway.stop()
        shutil.rmtree(rays, ignore_errors=True)


async def chaos(plan: Plan, folder: Path) -> Found:
    """Run it."""
    with ray_fleet(folder, plan.workers // _GPUS, plan.workers, 600) as fleet:
        client = Client(fleet.endpoint, _START_PATIENCE)
        await _idle(client, plan.workers)
        found = Found()
        begin = time.monotonic()
        killing = asyncio.ensure_future(_kill(plan, fleet, found))
        ids = [
            (await client.ask("POST", "run", request(plan, job), key=f"{plan.seed}-{job}"))["id"]
            for job in range(plan.jobs)
        ]
        deadline = begin + 120 + 4 * plan.jobs * plan.seconds / plan.workers
        while time.monotonic() < deadline:
            jobs = (await client.ask("GET", "health"))["jobs"]
            if not jobs["inQueue"] + jobs["inProgress"]:
                break
            if killing.done():
                killing.result()
            await asyncio.sleep(0.1)
        end = time.monotonic()
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        found.seconds = end - begin
        found.ideal = ideal(fleet.nodes.nodes, begin, plan.jobs * plan.seconds)
        statuses = [await client.ask("GET", f"status/{job_id}") for job_id in ids]
        log = fleet.log.read_text()
    judge(found, statuses, [json.loads(line) for line in log.splitlines()])
    return found


async def _until(holds: Callable[[], Awaitable[bool]]) -> float:
    """Wait until it holds; when that was."""
    deadline = time.monotonic() + _START_PATIENCE
    while not await holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_START_PATIENCE:.0f} s: {holds.__name__}")
        await asyncio.sleep(0.05)
    return time.monotonic()


async def _idle(client: Client, workers: int) -> None:
    """Wait until so many workers have nothing to do."""

    async def workers_are_idle() -> bool:
        return bool((await client.ask("GET", "health"))["workers"]["idle"] >= workers)

    await _until(workers_are_idle)


async def _kill(plan: Plan, fleet: RayFleet, found: Found) -> None:
    """Kill a worker, a node, the gateway and Ray's head, in turn."""
    chance = random.Random(plan.seed)
    kinds = ["worker", "node", "worker", "gateway", "worker", "head"]
    for number in range(plan.kills):
        await asyncio.sleep(plan.every)
        kind = kinds[number % len(kinds)]
        found.kills.append(kind)
        down = chance.uniform(*plan.down)
        if kind == "worker":
            processes = await asyncio.to_thread(fleet.processes)
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice([one for one in processes if one]), 9)
        elif kind == "node":
            node = chance.choice(fleet.nodes.nodes)
            await asyncio.to_thread(fleet.nodes.kill, node)
            await asyncio.sleep(down)
            await asyncio.to_thread(fleet.nodes.start, node)
        elif kind == "gateway":
            await asyncio.to_thread(fleet.gateway.kill)
            await asyncio.sleep(down)
            fleet.gateway.start()
        else:
            await asyncio.to_thread(fleet.nodes.restart_head)


def _not_tiny() -> None:
    """Raise `Skipped` where only a test wants to see that it runs."""
    if TINY:
        raise Skipped(
            "Ray's nodes take half a minute to start and end; tests/e2e/test_fleet.py has them"
        )


def bench_ray_fleet() -> None:
    """500 jobs of 2 s on a fleet of 8; a worker, node, head or gateway is killed every 20 s."""
    _not_tiny()
    plan = Plan()
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        found = asyncio.run(chaos(plan, Path(folder)))
    print(f"ray-fleet: {found.words(plan)}")


def bench_ray_scale() -> None:
    """From one worker to eight as jobs come, back again, and after one is killed."""
    _not_tiny()
    most = 8
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        grown, shrunk, back = asyncio.run(_scaled(Path(folder), most))
    print(
        f"ray-scale: {grown:.1f} s from the first of {6 * most} jobs until {most} workers are at "
        f"work, {shrunk:.1f} s from the last one's end to one worker (idle: 5 s); a GPU whose "
        f"worker is killed takes jobs again after {back:.1f} s (median)"
    )


async def _scaled(folder: Path, most: int) -> tuple[float, float, float]:
    plan = Plan(seconds=4)
    with ray_fleet(folder, most // _GPUS, 1, 5) as fleet:
        client = Client(fleet.endpoint, _START_PATIENCE)
        known = set[int]()

        async def all_run() -> bool:
            return bool((await client.ask("GET", "health"))["workers"]["running"] >= most)

        async def another_runs() -> bool:
            return _engines(fleet.log) > known

        async def nothing_runs() -> bool:
            jobs = (await client.ask("GET", "health"))["jobs"]
            return not jobs["inQueue"] + jobs["inProgress"]

        async def one_is_left() -> bool:
            return len((await client.ask("GET", "overview"))["workers"]) == 1

        await _idle(client, 1)
        begin = time.monotonic()
        for job in range(6 * most):
            await client.ask("POST", "run", request(plan, job))
        grown = await _until(all_run) - begin
        back = []
        for process in (await asyncio.to_thread(fleet.processes))[:3]:
            known = _engines(fleet.log)
            killed = time.monotonic()
            os.kill(process, 9)
            back.append(await _until(another_runs) - killed)
        ended = await _until(nothing_runs)
        return grown, await _until(one_is_left) - ended, statistics.median(back)


def _engines(log: Path) -> set[int]:
    """The processes of all engines that have begun a job."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return {line["pid"] for line in lines if line["what"] == "start"}
