"""Stand-ins for the worker's tests: an engine and a target that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import JsonValue

from comfy_remote.errors import ComfyRemoteError, EngineCrashed, OutputLost
from comfy_remote.events import Event, Finished, JobState, Started
from comfy_remote.outputs import OutputSource, RemoteOutput, kind_of, media_type_of
from comfy_remote.targets.base import Capabilities, Health, RemoteRef, RunRequest
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.workflow.prompt import Prompt

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


def output(filename: str, node_id: str = "2", folder: str = "output") -> RemoteOutput:
    return RemoteOutput(
        node_id=node_id,
        kind=kind_of(filename),
        filename=filename,
        folder=folder,
        media_type=media_type_of(filename),
        source=OutputSource(path=f"view?filename={filename}"),
    )


def succeeded(*outputs: RemoteOutput) -> list[Event]:
    return [Started(), Finished(JobState.SUCCEEDED, outputs=outputs)]


class FakeEngine:
    """Up and well, until `crash` is called."""

    def __init__(self) -> None:
        self.alive = True
        self.starts = 0
        self.pid: int | None = None
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


def connect_to(*targets: FakeTarget) -> Callable[[str], ComfyUITarget]:
    """For a handler: gives one target after the other, and the last one from then on."""
    left = list(targets)

    def connect(_url: str) -> ComfyUITarget:
        return cast("ComfyUITarget", left.pop(0) if len(left) > 1 else left[0])

    return connect


@dataclass
class FakeTarget:
    """Plays a list of events; an exception in it is raised, a number is slept.

    ``files`` holds the outputs' bytes by filename, or why one cannot be read.
    """

    script: Sequence[Event | ComfyRemoteError | float] = ()
    files: Mapping[str, bytes | ComfyRemoteError] = field(default_factory=dict)
    local: bool = True
    submit_delay: float = 0.0
    submitted: list[RunRequest] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    freed: int = 0
    held: bool | ComfyRemoteError = False
    forgotten: list[str] = field(default_factory=list)
    nodes: Mapping[str, JsonValue] | None = None
    stats: Mapping[str, JsonValue] = field(
        default_factory=lambda: {"system": {"comfyui_version": "1.2.3"}}
    )

    @property
    def uploaded(self) -> Mapping[tuple[str, str], str]:
        return {(f.name, f.sha256): f.name for run in self.submitted for f in run.files}

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

    @property
    def name(self) -> str:
        return "fake"

    async def __aenter__(self) -> FakeTarget:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def has_input(self, name: str) -> bool:
        return False

    async def submit(self, request: RunRequest) -> RemoteRef:
        self.submitted.append(request)
        self.received.update({f.name: f.path.read_bytes() for f in request.files})
        await asyncio.sleep(self.submit_delay)
        return RemoteRef(request.job_id, f"remote-{request.job_id}")

    async def find(self, job_id: str) -> RemoteRef | None:
        return None

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        for step in self.script:
            if isinstance(step, ComfyRemoteError):
                raise step
            if isinstance(step, (int, float)):
                await asyncio.sleep(step)
            else:
                yield step

    async def cancel(self, ref: RemoteRef) -> None:
        self.cancelled.append(ref.remote_id)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if output.filename not in self.files:
            raise OutputLost(f"no {output.filename}")
        content = self.files[output.filename]
        if isinstance(content, ComfyRemoteError):
            raise content
        for at in range(offset, len(content), 1000):
            yield content[at : at + 1000]

    async def describe(self, classes: object = None) -> Capabilities:
        return Capabilities(self.nodes, None, None)

    async def health(self) -> Health:
        return Health(1, 0, 0)

    async def free_memory(self) -> None:
        self.freed += 1
