"""Jobs on workers that joined, while workers and the gateway are killed at random.

All of them are processes of the commands ``comfy-remote serve`` and ``comfy-remote worker``; each
worker has an engine of its own, which notes in a file of all when it runs what.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from http_load import Endpoint

_ENDPOINT = "fleet"
_STEP = 0.1
_START_PATIENCE = 120.0
_STOP_PATIENCE = 10.0


@dataclass(frozen=True)
class Plan:
    """What is to happen.

    Attributes:
        jobs: How many.
        seconds: That each runs.
        workers: How many.
        kills: How many at most; the rest of the jobs runs in peace.
        every: Seconds between two kills.
        head_every: Each so-manieth kill is the gateway's.
        down: Seconds between a kill and the start afterwards, at least and at most.
        seed: Of all that is drawn.
    """

    jobs: int = 500
    seconds: float = 2.0
    workers: int = 8
    kills: int = 1000
    every: float = 20.0
    head_every: int = 3
    down: tuple[float, float] = (1.0, 3.0)
    seed: int = 13


@dataclass
class Found:
    """What came of it. Jobs are named by their numbers.

    Attributes:
        seconds: From the first submission to the last end.
        ideal: The same, if the workers that were up had done nothing but run each job once.
        kills: Who was killed, in order.
        completed: How many jobs have their result.
        failed: Those that failed, and why.
        nameless: Those that failed, and do not say why.
        unfinished: Those that had not ended when it was given up.
        resultless: Those that are said to be completed, and have no output.
        repeated: Those that were started more than once, and how often.
        unsaid: Those of them whose status does not say so.
        too_often: Those that ran more often than allowed.
        at_the_same_time: Those that ran twice at the same time.
        unrun: Those that are said to be completed, and never ran to their end.
    """

    seconds: float = 0.0
    ideal: float = 0.0
    kills: list[str] = field(default_factory=list)
    completed: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    nameless: list[int] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    resultless: list[int] = field(default_factory=list)
    repeated: dict[int, int] = field(default_factory=dict)
    unsaid: list[int] = field(default_factory=list)
    too_often: list[int] = field(default_factory=list)
    at_the_same_time: list[int] = field(default_factory=list)
    unrun: list[int] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How much longer than the ideal it took."""
        return self.seconds / self.ideal

    def words(self, plan: Plan) -> str:
        """For people."""
        wrong = {
            name: value
            for name, value in asdict(self).items()
            if isinstance(value, list) and value and name != "kills"
        }
        kinds = ", ".join(f"{count} of {name}" for name, count in Counter(self.kills).items())
        return (
            f"{plan.jobs} jobs of {plan.seconds:g} s on {plan.workers} workers, "
            f"{len(self.kills)} kills ({kinds}): "
            f"{self.completed} completed, {len(self.failed)} failed and say why, "
            f"{len(self.repeated)} were started twice; {self.seconds:.0f} s, "
            f"{self.ratio:.2f} times the ideal of the workers that were up ({self.ideal:.0f} s)"
            + "".join(f"; {name.replace('_', ' ')}: {value}" for name, value in wrong.items())
        )


class Process:
    """A command that is killed and started again; and when it was up."""

    def __init__(
        self, name: str, folder: Path, arguments: list[str], environment: dict[str, str]
    ) -> None:
        self.name = name
        self.up: list[tuple[float, float | None]] = []
        self._arguments = arguments
        self._environment = {**os.environ, **environment, "COMFY_REMOTE_HOME": str(folder)}
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "comfy_remote", *self._arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.up.append((time.monotonic(), None))

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        self._end(signal.SIGTERM)

    def check(self) -> None:
        """Give up if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise SystemExit(f"{self.name} has ended:\n{self._log.read_text()[-3000:]}")

    def up_between(self, begin: float, end: float) -> float:
        """Seconds that it was up."""
        return sum(
            max(0.0, min(end, end if until is None else until) - max(begin, since))
            for since, until in self.up
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self.up[-1] = (self.up[-1][0], time.monotonic())
        process.send_signal(how)
        try:
            process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Client:
    """Asks until there is an answer: the gateway may be down."""

    def __init__(self, endpoint: Endpoint, patience: float = 60.0) -> None:
        self._connection = endpoint.client()
        self._patience = patience

    async def ask(self, method: str, path: str, body: object = None, key: str = "") -> Any:
        """What the answer says."""
        given = b"" if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + self._patience
        while True:
            status, answer = 0, b"no connection"
            with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                asked = self._connection.ask(method, path, given, key=key)
                status, answer = await asyncio.wait_for(asked, 20)
            if status == 200:
                return json.loads(answer)
            if status not in (0, 429, 503) or time.monotonic() > deadline:
                raise SystemExit(f"{method} {path} answered {status}: {answer[:1000]!r}")
            if status == 0:
                self._connection.close()
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def fleet(folder: Path, workers: int) -> Iterator[tuple[Process, list[Process], Endpoint, Path]]:
    """The gateway, its workers, where it is, and the file in which the engines note their runs."""
    log, engine, home = folder / "runs", folder / "engine", folder / "head"
    home.mkdir()
    (engine / "comfy").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("counted_engine.py"), engine / "main.py")
    port = free_port()
    head = Process(
        "head",
        home,
        ["serve", "--port", str(port), "--endpoint", _ENDPOINT, "--worker", "none"],
        {},
    )
    environment = {
        "COMFYUI_PYTHON": sys.executable,
        "COMFYUI_ARGS": "--cpu",
        "COMFYUI_ENV": "FLEET_LOG",
        "FLEET_LOG": str(log),
    }
    joining: list[Process] = []
    for index in range(workers):
        name = f"box{index}"
        token = folder / f"{name}.token"
        subprocess.run(
            [
                *(sys.executable, "-m", "comfy_remote", "workers", "add", name),
                *("--endpoint", _ENDPOINT, "-o", str(token)),
            ],
            env={**os.environ, "COMFY_REMOTE_HOME": str(home)},
            check=True,
            capture_output=True,
        )
        (folder / name).mkdir()
        arguments = ["worker", "--join", f"http://127.0.0.1:{port}", "--endpoint", _ENDPOINT]
        arguments += ["--token-file", str(token), "--comfyui", str(engine)]
        joining.append(Process(name, folder / name, arguments, environment))
    try:
        for process in (head, *joining):
            process.start()
        yield head, joining, Endpoint(f"http://127.0.0.1:{port}/v2/{_ENDPOINT}", ""), log
    finally:
        for process in (*joining, head):
            process.stop()


async def chaos(plan: Plan, folder: Path) -> Found:
    """Run it."""
    with fleet(folder, plan.workers) as (head, workers, endpoint, log):
        client = Client(endpoint, _START_PATIENCE)
        await _all_are_idle(client, plan.workers, [head, *workers])
        found = Found()
        begin = time.monotonic()
        killing = asyncio.ensure_future(_kill(plan, head, workers, found))
        ids = [
            (await client.ask("POST", "run", request(plan, job), key=f"{plan.seed}-{job}"))["id"]
            for job in range(plan.jobs)
        ]
        deadline = begin + 60 + 4 * plan.jobs * plan.seconds / plan.workers
        end = await _end_of_all(client, deadline, killing)
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        found.seconds = end - begin
        found.ideal = ideal(workers, begin, plan.jobs * plan.seconds)
        statuses = [await client.ask("GET", f"status/{job_id}") for job_id in ids]
    judge(found, statuses, [json.loads(line) for line in log.read_text().splitlines()])
    return found


async def _all_are_idle(client: Client, workers: int, processes: list[Process]) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    idle = 0
    while idle < workers:
        asking = asyncio.ensure_future(client.ask("GET", "health"))
        while not asking.done():
            await asyncio.sleep(0.1)
            for process in processes:
                process.check()
        idle = asking.result()["workers"]["idle"]
        if time.monotonic() > deadline:
            raise SystemExit(f"of {workers} workers, {idle} have joined")


def request(plan: Plan, job: int) -> dict[str, Any]:
    """A job that runs for so long, and says in the engines' file which one it is."""
    steps = {
        "image": ["1", 0],
        "steps": round(plan.seconds / _STEP),
        "seconds_per_step": _STEP,
        "preview": False,
        "seed": job,
    }
    picture = {"width": 16, "height": 16, "batch_size": 1, "color": job}
    saved = {"images": ["2", 0], "filename_prefix": f"job{job}"}
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SandboxSlow", "inputs": steps},
        "3": {"class_type": "SaveImage", "inputs": saved},
    }
    return {"input": {"workflow": workflow, "format": "comfy-remote/1"}}


async def _kill(plan: Plan, head: Process, workers: list[Process], found: Found) -> None:
    chance = random.Random(plan.seed)
    restarts: set[asyncio.Task[None]] = set()
    try:
        for number in range(1, plan.kills + 1):
            await asyncio.sleep(plan.every)
            victim = head if number % plan.head_every == 0 else chance.choice(workers)
            if not victim.up or victim.up[-1][1] is not None:
                continue  # it is down already
            found.kills.append(victim.name)
            await asyncio.to_thread(victim.kill)
            restarts.add(asyncio.ensure_future(_start_later(victim, chance.uniform(*plan.down))))
        await asyncio.gather(*restarts)
    finally:
        for restart in restarts:
            restart.cancel()
        if head.up[-1][1] is not None:
            head.start()


async def _start_later(process: Process, seconds: float) -> None:
    await asyncio.sleep(seconds)
    process.start()


async def _end_of_all(client: Client, deadline: float, killing: asyncio.Future[None]) -> float:
    while time.monotonic() < deadline:
        jobs = (await client.ask("GET", "health"))["jobs"]
        if not jobs["inQueue"] + jobs["inProgress"]:
            break
        if killing.done():
            killing.result()
        await asyncio.sleep(0.1)
    return time.monotonic()


class Capacity(Protocol):
    """What was up for some time."""

    def up_between(self, begin: float, end: float) -> float:
        """Seconds of work that it could have done."""


def ideal(workers: Sequence[Capacity], begin: float, work: float) -> float:
    """Seconds in which the workers that were up could have done that much work."""
    least, most = 0.0, time.monotonic() - begin
    for _ in range(50):
        middle = (least + most) / 2
        done = sum(worker.up_between(begin, begin + middle) for worker in workers)
        least, most = (middle, most) if done < work else (least, middle)
    return most


@dataclass
class _Run:
    """One run of a job, as its engine has noted it."""

    pid: int
    begin: float
    last: float
    ended: bool = False


def judge(found: Found, statuses: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Hold what clients were told to what the engines have noted."""
    runs: dict[int, list[_Run]] = defaultdict(list)
    current: dict[tuple[int, int], _Run] = {}
    for line in lines:
        job, pid, at = line["job"], line["pid"], line["at"]
        if line["what"] == "start":
            current[job, pid] = _Run(pid, at, at)
            runs[job].append(current[job, pid])
        else:
            current[job, pid].last = at
            current[job, pid].ended = line["what"] == "end"
    for job, status in enumerate(statuses):
        its_runs = sorted(runs[job], key=lambda run: run.begin)
        if len(its_runs) > 1:
            found.repeated[job] = len(its_runs)
            if status.get("attempt", 1) < len(its_runs):
                found.unsaid.append(job)
        if len(its_runs) > _MOST_RUNS:
            found.too_often.append(job)
        if any(second.begin < first.last for first, second in pairwise(its_runs)):
            found.at_the_same_time.append(job)
        _judge_status(found, job, status, any(run.ended for run in its_runs))


def _judge_status(found: Found, job: int, status: dict[str, Any], ended: bool) -> None:
    if status["status"] == "COMPLETED":
        found.completed += 1
        if not (status.get("output") or {}).get("outputs"):
            found.resultless.append(job)
        if not ended:
            found.unrun.append(job)
    elif status["status"] == "FAILED":
        found.failed[job] = str(status.get("error"))
        if not status.get("error"):
            found.nameless.append(job)
    else:
        found.unfinished.append(job)


_MOST_RUNS = 2


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bench_fleet() -> None:
    """500 jobs of 2 s on 8 workers; a worker or the gateway is killed every 20 s."""
    from common import TINY

    plan = Plan(jobs=6, seconds=0.3, workers=2, kills=1, every=0.5) if TINY else Plan()
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        found = asyncio.run(chaos(plan, Path(folder)))
    print(f"fleet: {found.words(plan)}")


def bench_start() -> None:
    """From a submission to its start on a joined worker that has nothing else to do."""
    from common import size

    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        waits = asyncio.run(_starts(Path(folder), size(30, 2)))
    given, begun = (sorted(times) for times in zip(*waits, strict=True))
    print(
        f"gateway-start: {1000 * statistics.median(given):.0f} ms from a submission until a worker "
        f"that waits for jobs has it, {1000 * statistics.median(begun):.0f} ms until its engine "
        f"runs the first slow node (medians of {len(waits)}; worst {1000 * given[-1]:.0f} and "
        f"{1000 * begun[-1]:.0f} ms)"
    )


async def _starts(folder: Path, jobs: int) -> list[tuple[float, float]]:
    plan = Plan(jobs=jobs, seconds=_STEP, workers=1)
    waits = []
    with fleet(folder, 1) as (head, workers, endpoint, log):
        client = Client(endpoint, _START_PATIENCE)
        await _all_are_idle(client, 1, [head, *workers])
        for job in range(-1, jobs):
            await asyncio.sleep(0.5)
            began = time.monotonic()
            job_id = (await client.ask("POST", "run", request(plan, job + 1)))["id"]
            while True:
                status = await client.ask("GET", f"status/{job_id}")
                if status["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                    break
                await asyncio.sleep(0.05)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            started = next(
                line["at"] for line in lines if line["job"] == job + 1 and line["what"] == "start"
            )
            if job >= 0:
                waits.append((status["delayTime"] / 1000, started - began))
    return waits


def main() -> None:
    """What came of a plan, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty one")
    parser.add_argument("plan", type=json.loads, help="attributes of Plan, as JSON")
    options = parser.parse_args()
    found = asyncio.run(chaos(Plan(**options.plan), options.folder))
    print(json.dumps({**asdict(found), "ratio": found.ratio}, indent=2))


if __name__ == "__main__":
    main()
