"""What a server says of a job, as events: answers and live events in, ours out. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from ...events import Event, OutputReady, Preview, Progress, Queued, Started
from ...wire.comfy_api import (
    ApiJob,
    ApiOutput,
    ApiProgress,
    ApiStatus,
    PreviewEvent,
    StatusEvent,
)
from ...workflow.prompt import Prompt
from .answers import has_begun
from .links import Links
from .live import LiveEvent
from .outputs import JobOutputs
from .result import JobResult

__all__ = ["JobReader"]

_PREVIEWS = ("image/jpeg", "image/png", "image/webp")


class JobReader:
    """Turns one answer after another into events, each reported once.

    Args:
        name: Of the target.
        links: Where its outputs may be read with its key.
    """

    def __init__(self, prompt: Prompt, name: str, links: Links) -> None:
        self.ended = False
        """Whether a live event says that the job has ended: then it is worth asking."""
        self._prompt, self._name = prompt, name
        self._state: ApiStatus | None = None
        self._position: int | None = None
        self._began = self._started = False
        self._last = Progress(nodes_total=len(prompt))
        self._outputs = JobOutputs(prompt, links)

    def live(self, event: LiveEvent) -> Iterator[Event]:
        """What is new in a live event; never the end."""
        match event:
            case StatusEvent(status=status, queue_position=position):
                self.ended = self.ended or status.final
                if not status.final:
                    yield from self._stands(status, position)
            case ApiProgress():
                yield from self._progress(event)
            case PreviewEvent():
                yield from self._preview(event)
            case ApiOutput():
                yield from self._output(event)

    def job(self, job: ApiJob, *, cancelled: bool | None) -> Iterator[Event]:
        """What is new in an answer; `Finished` last, once the job has ended.

        Args:
            cancelled: Whether the job waited when this client cancelled it; ``None`` if it did not
                cancel.
        """
        self._began = self._began or has_begun(job)
        if not job.status.final:
            yield from self._stands(job.status, job.queue_position)
        if job.status in (ApiStatus.SUCCEEDED, ApiStatus.FAILED) and self._began:
            yield from self._start()
        if job.progress is not None and not job.status.final:
            yield from self._progress(job.progress)
        for output in job.outputs:
            yield from self._output(output)
        if job.status.final:
            yield from JobResult(
                job,
                self._name,
                self._prompt,
                self._outputs.of(job),
                nodes=self._last.nodes_total,
                began=self._began,
                cancelled=cancelled,
            ).events()

    def _stands(self, status: ApiStatus, position: int | None) -> Iterator[Event]:
        if status is ApiStatus.QUEUED and not self._began:
            if self._state is not status or position != self._position:
                yield Queued(position)
            self._position = position
        elif status is ApiStatus.RUNNING:
            yield from self._start()
        self._state = status

    def _start(self) -> Iterator[Event]:
        self._began = True
        if not self._started:
            self._started = True
            yield Started()

    def _progress(self, said: ApiProgress) -> Iterator[Event]:
        counts = said.nodes_total > 0
        if not counts and said.current_node is None and said.step is None and not said.message:
            return  # the server does not know more than that it runs
        if said.value or said.current_node is not None or said.nodes_done > 0:
            yield from self._start()
        node = self._prompt.get(said.current_node or "")
        progress = Progress(
            nodes_done=said.nodes_done if counts else self._last.nodes_done,
            # comfy-api-proxy counts the nodes that have begun.
            nodes_total=max(said.nodes_total, len(self._prompt)),
            node_id=said.current_node,
            node_class=said.current_node_class or (node["class_type"] if node else None),
            step=said.step,
            steps=said.steps,
            message=_message(said),
        )
        if progress != self._last:
            self._last = progress
            yield progress

    def _preview(self, said: PreviewEvent) -> Iterator[Event]:
        if said.content_type not in _PREVIEWS:
            return
        try:
            data = base64.b64decode(said.data_base64, validate=True)
        except ValueError:
            return
        yield from self._start()
        yield Preview(said.node_id or self._last.node_id, said.content_type, data)

    def _output(self, said: ApiOutput) -> Iterator[Event]:
        output, is_new = self._outputs.read(said)
        if is_new:
            yield OutputReady(output)


def _message(said: ApiProgress) -> str:
    """Its message, unless that is what we say ourselves: class and steps."""
    message = (said.message or "").strip()
    own = f"{said.current_node_class} {said.step}/{said.steps}"
    return "" if message in (own, said.current_node_class) else message
