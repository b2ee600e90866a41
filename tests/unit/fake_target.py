"""A target in memory that does as the test says, and notes the order of what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

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
    """The `Target` of the jobs' tests.

    Attributes:
        events: What `follow` yields; without a `Finished` it waits for ever after them.
        files: Content by name; an error is raised instead.
        refuses: Raised by `submit`.
        known: What `find` answers.
        inputs: Names that are there already.
        nodes: What it says of its nodes; ``None`` if it cannot say.
        log: The calls, in order.
    """

    name = "fake"

    def __init__(self, events: Sequence[Event] = (), files: dict[str, bytes] | None = None) -> None:
        self.events = list(events)
        self.files: dict[str, bytes | ComfyRemoteError] = dict(files or {})
        self.refuses: BaseException | None = None
        self.known: RemoteRef | ComfyRemoteError | None = None
        self.inputs: set[str] = set()
        self.nodes: dict[str, JsonValue] | None = None
        self.log: list[str] = []
        self.requests: list[RunRequest] = []
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
            yield event
        await asyncio.sleep(3600)

    async def cancel(self, ref: RemoteRef) -> None:
        self.log.append("cancel")

    async def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            await asyncio.sleep(0.01)
            content = self.files.get(output.filename, OutputLost("It is gone."))
            if isinstance(content, ComfyRemoteError):
                raise content
            yield content[offset:]
        finally:
            self.reading -= 1

    async def describe(self, classes: object = None) -> Capabilities:
        self.log.append("describe")
        return Capabilities(self.nodes, None, None)

    async def health(self) -> Health:
        return Health(1, 0, 0)
