"""A route over three gateways of ours, processes of `comfy-remote serve`; two of them are killed.

Each engine notes in one file when it runs which job, so what is counted is what has really run.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from serve_kit import Serve, servers

from comfy_remote import Client
from comfy_remote.aio import within
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ComfyRemoteError
from comfy_remote.events import DidItRun, JobState
from comfy_remote.jobs.record import Record
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.targets.kinds import Member
from comfy_remote.targets.route.journal import StepState
from comfy_remote.targets.route.member import OpenMember, RouteTimes
from comfy_remote.targets.route.members import RouteOptions
from comfy_remote.targets.route.target import RouteTarget
from comfy_remote.targets.runpod.kind import RunPodKind
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.workflow.prompt import Prompt

__all__ = ["servers"]

ENGINE = Path(__file__).parents[2] / "benchmarks" / "counted_engine.py"
NAMES = ("lan", "gpu", "box")
JOBS = 12
QUICK = Backoff(attempts=2, first=0.02, longest=0.05)
TIMES = EndpointTimes(
    requests=HttpLimits(backoff=QUICK),
    polling=Polling(first=0.05, longest=0.2, patience=0.5, backoff=QUICK),
)


def prompt_of(job: int) -> Prompt:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": job}
    steps = {
        "image": ["1", 0],
        "steps": 2,
        "seconds_per_step": 0.1,
        "preview": False,
        "seed": job,
    }
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SandboxSlow", "inputs": steps},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


def noted(log: Path) -> list[dict[str, Any]]:
    """What the engines have noted, in order."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def member_of(name: str, server: Serve) -> OpenMember:
    target = RunPodTarget(name, base_url=server.url(), name=name, times=TIMES)
    settings = TargetSettings(f"runpod:{name}")
    member = Member(name, settings, RunPodKind(), billed=False, open=lambda: target)
    return OpenMember(member, target, "", RouteTimes(look=30.0, silent=0.0))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_each_job_runs_once_or_it_is_said_that_nobody_knows(
    tmp_path: Path, servers: list[Serve], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "client"))
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    engine, log = tmp_path / "engine", tmp_path / "runs"
    (engine / "comfy").mkdir(parents=True)
    shutil.copy(ENGINE, engine / "main.py")
    for name in NAMES:
        started = Serve(
            *("--endpoint", name, "--comfyui", str(engine)),
            COMFY_REMOTE_HOME=str(tmp_path / name),
            COMFYUI_PYTHON=sys.executable,
            COMFYUI_ARGS="--cpu",
            COMFYUI_ENV="FLEET_LOG",
            FLEET_LOG=str(log),
        )
        servers.append(started)
    members = [member_of(name, server) for name, server in zip(NAMES, servers, strict=True)]

    def begun() -> Counter[int]:
        return Counter(one["job"] for one in noted(log) if one["what"] == "start")

    chance = random.Random(17)
    ids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(JOBS)]
    outcomes: dict[int, JobState | ComfyRemoteError] = {}

    async def killed(server: Serve, when: Callable[[], bool]) -> None:
        await until(when, 60)
        await asyncio.to_thread(server.kill)

    with Record(tmp_path / "client") as record:
        route = RouteTarget("any", members, RouteOptions(at_most={"lan": 4, "gpu": 4}))
        async with Client(route, record=record, on_interrupt=None) as client:

            async def run(job: int) -> None:
                try:
                    sent = await client.submit(prompt_of(job), job_id=ids[job])
                    outcomes[job] = (await sent.wait()).state
                except ComfyRemoteError as error:
                    outcomes[job] = error

            # Which have begun, and how many jobs are at a gateway, decides; not the clock.
            first, second = chance.randint(1, 3), chance.randint(4, 6)
            killing = [
                asyncio.ensure_future(killed(servers[0], lambda: begun().total() >= first)),
                asyncio.ensure_future(killed(servers[1], lambda: begun().total() >= second)),
            ]
            await within(asyncio.gather(*map(run, range(JOBS))), 100)
            await asyncio.gather(*killing)
            # Once both are gone, all goes to the third.
            last = await client.submit(prompt_of(JOBS), job_id=str(uuid.uuid4()))
            assert (await last.wait()).state is JobState.SUCCEEDED
            assert record.get(last.id).member == "box"

        runs = begun()
        assert max(runs.values()) == 1, runs
        for job, outcome in outcomes.items():
            steps = record.routes.steps(ids[job])
            assert all(step.state.surely_not for step in steps[:-1])
            if outcome is JobState.SUCCEEDED:
                assert (runs[job], steps[-1].state) == (1, StepState.ENDED)
                continue
            # It was at a gateway that was killed: nobody says that it did not run.
            assert steps[-1].member in NAMES[:2], (job, outcome)
            grade = DidItRun.of(outcome) if isinstance(outcome, ComfyRemoteError) else None
            assert grade in (None, DidItRun.UNKNOWN, DidItRun.STOPPED), (job, outcome)
        assert sum(outcome is JobState.SUCCEEDED for outcome in outcomes.values()) >= JOBS - 8
