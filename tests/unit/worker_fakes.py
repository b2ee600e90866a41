"""Stand-ins for the worker's tests: an engine and a target that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from fake_target import FakeTarget
from pydantic import JsonValue

from comfy_remote.errors import ComfyRemoteError, EngineCrashed
from comfy_remote.events import Event, Finished, JobState, Started
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.targets.comfyui.target import ComfyUITarget

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


def succeeded(*outputs: RemoteOutput) -> list[Event]:
    return [Started(), Finished(JobState.SUCCEEDED, outputs=outputs)]


class FakeEngine:
    """Up and well, until `crash` is called."""

    name = "the fake engine"
    nodes = None
    choice = None

    def __init__(self) -> None:
        self.alive = True
        self.starts = 0
        self.pid: int | None = None
        self.started: float | None = None
        self.stops = 0
        self.log: list[str] = []
        self._death: asyncio.Future[EngineCrashed] | None = None

    def log_mark(self) -> int:
        return len(self.log)

    def log_since(self, mark: int) -> list[str]:
        return self.log[mark:]

    def stop(self) -> None:
        self.stops += 1

    async def ready(self) -> str:
        self.starts += not self.alive
        self.alive = True
        self._death = None
        return "http://engine"

    async def died(self) -> EngineCrashed:
        self._death = asyncio.get_running_loop().create_future()
        return await self._death

    def crash(self, error: EngineCrashed) -> None:
        self.alive = False
        if self._death is not None and not self._death.done():
            self._death.set_result(error)


def connect_to(*targets: EngineTarget) -> Callable[[str], ComfyUITarget]:
    """For a handler: gives one target after the other, and the last one from then on."""
    left = list(targets)

    def connect(_url: str) -> ComfyUITarget:
        return cast("ComfyUITarget", left.pop(0) if len(left) > 1 else left[0])

    return connect


class EngineTarget(FakeTarget):
    """A `FakeTarget` with what a worker asks its engine beyond that.

    Attributes:
        received: The content of the files that came with jobs, by name.
        submit_delay: Seconds that a submission takes.
        freed: How often memory was freed.
        held: Whether it holds a prompt; an error is raised.
        forgotten: The prompts that were forgotten.
        stats: What ``/system_stats`` answers.
    """

    local = True
    stays_silent = False

    def __init__(
        self,
        events: Sequence[Event | ComfyRemoteError | float] = (),
        files: Mapping[str, bytes | ComfyRemoteError] | None = None,
        *,
        nodes: Mapping[str, JsonValue] | None = None,
        submit_delay: float = 0.0,
        held: bool | ComfyRemoteError = False,
    ) -> None:
        super().__init__(events, files)
        self.nodes = nodes
        self.submit_delay = submit_delay
        self.received: dict[str, bytes] = {}
        self.freed = 0
        self.held = held
        self.forgotten: list[str] = []
        self.stats: Mapping[str, JsonValue] = {"system": {"comfyui_version": "1.2.3"}}

    async def submit(self, request: RunRequest) -> RemoteRef:
        self.received.update({f.name: f.path.read_bytes() for f in request.files})
        ref = await super().submit(request)
        await asyncio.sleep(self.submit_delay)
        return ref

    @property
    def uploaded(self) -> Mapping[tuple[str, str], str]:
        return {(f.name, f.sha256): f.name for run in self.requests for f in run.files}

    async def system(self) -> dict[str, JsonValue]:
        return dict(self.stats)

    async def models(self) -> dict[str, list[str]]:
        return {"checkpoints": ["a.safetensors"], "loras": []}

    async def forget(self, prompt_id: str) -> None:
        self.forgotten.append(prompt_id)

    async def holds(self, prompt_id: str) -> bool:
        if isinstance(self.held, ComfyRemoteError):
            raise self.held
        return self.held

    async def free_memory(self) -> None:
        self.freed += 1
