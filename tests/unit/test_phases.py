"""What a job waits for: a worker that starts, models that are loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer

from comfy_remote.events import Event, Finished, JobState, Phase, Progress, Queued, Started
from comfy_remote.jobs.phases import with_phases
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "embedding:b", "clip": ["1", 1]}},
    "3": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}},
}


async def phases(*events: Event) -> list[Event]:
    async def all_of() -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    async def usual() -> float:
        return 92.0

    return [event async for event in with_phases(all_of(), PROMPT, usual)]


async def test_loading_is_said_while_a_node_loads_a_model() -> None:
    loads, encodes, samples = (Progress(0, 3, node_id) for node_id in "123")
    found = await phases(Queued(), Phase("starting"), Started(), loads, encodes, samples)
    assert found == [
        Queued(),
        Phase("starting", 92.0),
        Started(),
        Phase("loading"),
        loads,
        Phase("computing"),
        encodes,
        samples,
    ]
    # What is in the cache is not loaded, and between two nodes nothing changes.
    assert await phases(Started(), Progress(1, 3), samples) == [Started(), Progress(1, 3), samples]
    assert str(Phase("starting", 92.0)) == "A worker is starting (1:32 the last time)"


async def test_runpod_says_whether_a_worker_starts_or_waits_for_a_gpu() -> None:
    quick = Backoff(first=0.005, longest=0.005, jitter=0.0)
    times = EndpointTimes(
        requests=HttpLimits(backoff=quick),
        polling=Polling(first=0.005, longest=0.01, patience=0.1, backoff=quick),
        wait_noted=0.0,
    )
    async with ScriptedServer() as server:
        waits = Answer({"id": "e1", "status": "IN_QUEUE"})
        ended = Answer({"id": "e1", "status": "CANCELLED"})
        server.on("GET /v2/ep/status/e1", *[waits] * 5, ended)
        none = {"idle": 0, "running": 0}
        server.on(
            "GET /v2/ep/health",
            Answer({"workers": none}),
            Answer({"workers": {**none, "throttled": 1}}),
            Answer({"workers": {**none, "throttled": 1}}),
            Answer({"workers": {**none, "initializing": 1}}),
            Answer({"workers": {**none, "idle": 1, "initializing": 1}}),
        )
        target = RunPodTarget("ep", SecretStr("k" * 20), base_url=f"{server.url}/v2", times=times)
        async with target:
            found = [one async for one in target.follow(RemoteRef("1", "e1"), PROMPT)]
    assert found[:3] == [Queued(), Phase("throttled"), Phase("starting")]
    [end] = found[3:]
    assert isinstance(end, Finished) and end.state is JobState.CANCELLED
