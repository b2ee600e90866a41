"""A target in memory that does as the test says, and notes the order of what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from pydantic import JsonValue

from comfy_remote.errors import ComfyRemoteError, OutputLost
from comfy_remote.events import Event, Finished, JobState, Started
from comfy_remote.outputs import OutputSource, RemoteOutput, kind_of, media_type_of
from comfy_remote.targets.base import Capabilities, Health, RemoteRef, RunRequest
from comfy_remote.workflow.prompt import Prompt


def output(filename: str, node_id: str = "2", **more: object) -> RemoteOutput:
    return RemoteOutput(
        node_id=node_id,
        kind=kind_of(filename),
        filename=filename,
        media_type=media_type_of(filename),
        source=OutputSource(path=filename),
        **more,  # type: ignore[arg-type]
    )


class FakeTarget:
    """A `Target` in memory.

    Attributes:
        events: What `follow` yields: an error is raised, a number of seconds slept.
        files: Content by name; an error is raised instead.
        delays: Seconds before a file is read, by name.
        refuses: Raised by `submit`.
        known: What `find` answers.
        inputs: Names that are there already.
        nodes: What it says of its nodes; ``None`` if it cannot say.
        log: The calls, in order.
        requests: What was submitted.
        cancelled: The remote ids of the jobs that were cancelled.
        files_read: The names of the files that were read, in order.
    """

    name = "fake"
    stays_silent = True
    """After its events; else `follow` ends with them."""

    def __init__(
        self,
        events: Sequence[Event | ComfyRemoteError | float] = (),
        files: Mapping[str, bytes | ComfyRemoteError] | None = None,
    ) -> None:
        self.events = list(events)
        self.files = dict(files or {})
        self.delays: dict[str, float] = {}
        self.refuses: BaseException | None = None
        self.known: RemoteRef | ComfyRemoteError | None = None
        self.inputs: set[str] = set()
        self.nodes: Mapping[str, JsonValue] | None = None
        self.log: list[str] = []
        self.requests: list[RunRequest] = []
        self.cancelled: list[str] = []
        self.files_read: list[str] = []
        self.reading = self.most_reading = 0
        self.on_submit: Callable[[RunRequest], None] = lambda request: None

    @classmethod
    def making(cls, **files: bytes) -> FakeTarget:
        """One whose jobs succeed with these files (``_`` in a name stands for ``.``)."""
        named = {name.replace("_", "."): content for name, content in files.items()}
        finished = Finished(JobState.SUCCEEDED, outputs=tuple(map(output, named)))
        return cls([Started(), finished], named)

    async def __aenter__(self) -> FakeTarget:
        self.log.append("open")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.log.append("close")

    async def has_input(self, name: str) -> bool:
        return name in self.inputs

    async def submit(self, request: RunRequest) -> RemoteRef:
        self.log.append("submit")
        self.requests.append(request)
        self.on_submit(request)
        if self.refuses is not None:
            raise self.refuses
        return RemoteRef(request.job_id, f"remote-{request.job_id}", {"where": "there"})

    async def find(self, job_id: str) -> RemoteRef | None:
        self.log.append("find")
        if isinstance(self.known, ComfyRemoteError):
            raise self.known
        return self.known

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        self.log.append("follow")
        for event in self.events:
            if isinstance(event, ComfyRemoteError):
                raise event
            if isinstance(event, (int, float)):
                await asyncio.sleep(event)
            else:
                yield event
        if self.stays_silent:
            await asyncio.sleep(3600)

    async def cancel(self, ref: RemoteRef) -> None:
        self.log.append("cancel")
        self.cancelled.append(ref.remote_id)

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            self.files_read.append(output.filename)
            await asyncio.sleep(self.delays.get(output.filename, 0.01))
            content = self.files.get(output.filename, OutputLost("It is gone."))
            if isinstance(content, ComfyRemoteError):
                raise content
            for at in range(offset, len(content), 1000):
                yield content[at : at + 1000]
        finally:
            self.reading -= 1

    async def describe(self, classes: object = None) -> Capabilities:
        self.log.append("describe")
        return Capabilities(self.nodes, None, None)

    async def health(self) -> Health:
        return Health(1, 0, 0)
