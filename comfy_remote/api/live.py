"""A job as those see it who listen to it: its state, its progress, its newest preview, its outputs.

What our targets say (`events`) becomes what Comfy API v2 streams. One object a job, any number of
listeners: each frame is encoded once, and what waits for a listener is bounded in bytes.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

from ..aio import Background, within
from ..clean import one_line
from ..events import Event, Finished, JobState, NodeText, Phase, Preview, Progress, Queued, Started
from ..media.images import decoded_preview
from ..wire.comfy_api import ApiOutput, ApiProgress, ApiStatus, PreviewEvent, StatusEvent

__all__ = ["KEEP_ALIVE", "LiveJob", "LiveLimits", "Snapshot"]

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients ignore."""

_JPEG = "image/jpeg"
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """What a job tells its listeners. Times are seconds, sizes bytes.

    Attributes:
        every: Between two frames with progress, and between two with a preview.
        keep_alive: Without a frame, after which a listener gets a comment.
        listener_bytes: What may wait for a listener before it is dropped.
        preview_bytes: A JPEG up to this size is passed on as it is.
        preview_side: Pixels that any other preview's longer side has at most.
        largest_preview: What a target may send; a larger one is left out.
    """

    every: float = 0.5
    keep_alive: float = 15.0
    listener_bytes: int = 16 * 1024**2
    preview_bytes: int = 512 * 1024
    preview_side: int = 1024
    largest_preview: int = 4 * 1024**2


class Snapshot(NamedTuple):
    """A job as it is now."""

    status: StatusEvent
    progress: ApiProgress | None
    preview: PreviewEvent | None


class LiveJob:
    """One job and its listeners. Belongs to one event loop.

    A job that has ended already: give its outputs and its final status.

    Args:
        status: As it is now.
        outputs: Those that it has so far.
    """

    def __init__(
        self,
        status: ApiStatus = ApiStatus.QUEUED,
        *,
        queue_position: int | None = None,
        progress: ApiProgress | None = None,
        outputs: Iterable[ApiOutput] = (),
        limits: LiveLimits = LiveLimits(),
    ) -> None:
        self._limits = limits
        self._status = StatusEvent(status=status, queue_position=queue_position)
        self._progress = progress
        self._outputs = {output.id: _frame("output", output) for output in outputs}
        self._raw: Preview | None = None
        self._preview: PreviewEvent | None = None
        self._preview_of: Preview | None = None
        self._encoded: dict[str, tuple[BaseModel, bytes]] = {}
        self._listeners: set[_Listener] = set()
        self._converting = False
        self._working = Background()
        self._progress_paced = _Paced(limits.every, self._send_progress)
        self._preview_paced = _Paced(limits.every, self._send_preview)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def snapshot(self) -> Snapshot:
        """The job as it is now."""
        return Snapshot(self._status, self._progress, self._preview)

    def note(self, event: Event) -> None:
        """Take what the job's target says. Outputs and the end are said by `output` and `end`."""
        if self._status.status.final:
            return
        match event:
            case Queued(position):
                self.change(ApiStatus.QUEUED, queue_position=position)
            case Started():
                self.change(ApiStatus.RUNNING)
            case Progress():
                self.change(ApiStatus.RUNNING)
                self._progressed(_progress_of(event))
            case Phase(name):
                self._say(None if name == "computing" else str(event))
            case NodeText():
                self._say(event.text)
            case Preview() if len(event.data) <= self._limits.largest_preview:
                self._raw = event
                if self._listeners:
                    self._preview_paced.changed()
            case Finished(state=JobState.SUCCEEDED) if self._progress is not None:
                done = self._progress.nodes_total
                self._progressed(ApiProgress(value=1.0, nodes_done=done, nodes_total=done))

    def change(self, status: ApiStatus, *, queue_position: int | None = None) -> None:
        """Say another state, or another position in the queue. What is being cancelled stays so.

        For a final state, see `end`.
        """
        now = self._status.status
        if now.final or (now is ApiStatus.CANCELING and not status.final):
            return
        changed = StatusEvent(status=status, queue_position=queue_position)
        if changed != self._status:
            self._status = changed
            self._send("status", changed, key=f"status {status.value}")

    def output(self, output: ApiOutput) -> None:
        """Say that an output is stored. Each is said once.

        Its ``url`` begins with ``/``: `event_routes` gives each listener the address it needs.
        """
        if output.id not in self._outputs and not self._status.status.final:
            frame = self._outputs[output.id] = _frame("output", output)
            self._push_all(f"output {output.id}", frame)

    def end(self, status: ApiStatus) -> None:
        """Say the final state, after which every stream ends. A second one is ignored."""
        if self._status.status.final:
            return
        self._progress_paced.flush()
        self._preview_paced.stop()
        self._raw = self._preview_of = self._preview = None
        self._status = StatusEvent(status=status)
        self._send("status", self._status, key="status, the final one")
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """What a new listener is sent: the job as it is now, then all that changes, until its end.

        It ends early for a listener that takes its frames too slowly.
        """
        listener = _Listener(self._limits.listener_bytes)
        if not self._status.status.final:
            self._listeners.add(listener)
        try:
            self._begin(listener)
            while True:
                while (frame := listener.take()) is not None:
                    yield frame
                if listener.closed:
                    return
                if not await listener.wait(self._limits.keep_alive):
                    yield KEEP_ALIVE
        finally:
            self._listeners.discard(listener)

    async def close(self) -> None:
        """End every stream where it is: this server stops, and the job goes on."""
        for paced in (self._progress_paced, self._preview_paced):
            paced.stop()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        await self._working.stop()

    def _begin(self, listener: _Listener) -> None:
        status, final = self._status, self._status.status.final
        # A client stops reading at a final state, so what it still wants comes before.
        if not final:
            listener.push(f"status {status.status.value}", self._frame("status", status))
        if self._progress is not None:
            listener.push("progress", self._frame("progress", self._progress))
        for output_id, frame in self._outputs.items():
            listener.push(f"output {output_id}", frame)
        if final:
            listener.push("status, the final one", self._frame("status", status))
            listener.close()
        elif self._preview is not None and self._preview_of is self._raw:
            listener.push("preview", self._frame("preview", self._preview))
        else:
            self._preview_paced.changed()

    def _say(self, message: str | None) -> None:
        words = one_line(message)[:_LONGEST_MESSAGE] if message else None
        before = self._progress or ApiProgress(value=0.0, nodes_done=0, nodes_total=0)
        self._progressed(before.model_copy(update={"message": words}))

    def _progressed(self, progress: ApiProgress) -> None:
        if progress != self._progress:
            self._progress = progress
            if self._listeners:
                self._progress_paced.changed()

    def _send_progress(self) -> None:
        if self._progress is not None:
            self._send("progress", self._progress, key="progress")

    def _send_preview(self) -> None:
        raw = self._raw
        # One at a time; the newest follows.
        if raw is None or raw is self._preview_of or self._converting:
            return
        if raw.media_type == _JPEG and len(raw.data) <= self._limits.preview_bytes:
            self._previewed(raw, raw.data)
        else:
            self._converting = True
            self._working.start(self._convert(raw))

    async def _convert(self, raw: Preview) -> None:
        try:
            data = await asyncio.to_thread(_as_jpeg, raw.data, self._limits.preview_side)
        finally:
            self._converting = False
        self._previewed(raw, data)
        if self._raw is not raw:
            self._preview_paced.changed()

    def _previewed(self, raw: Preview, data: bytes) -> None:
        if self._status.status.final:
            return
        self._preview_of = raw
        if data:
            self._preview = PreviewEvent(
                node_id=raw.node_id or "",
                content_type=_JPEG,
                data_base64=base64.b64encode(data).decode("ascii"),
            )
            self._send("preview", self._preview, key="preview")

    def _send(self, event: str, data: BaseModel, *, key: str) -> None:
        if self._listeners:
            self._push_all(key, self._frame(event, data))

    def _push_all(self, key: str, frame: bytes) -> None:
        for listener in list(self._listeners):
            listener.push(key, frame)
            if listener.closed:
                self._listeners.discard(listener)

    def _frame(self, event: str, data: BaseModel) -> bytes:
        known = self._encoded.get(event)
        if known is None or known[0] is not data:
            known = self._encoded[event] = (data, _frame(event, data))
        return known[1]


class _Listener:
    """The frames that wait for one listener; of each key, the newest only."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._woken = asyncio.Event()
        self.closed = False

    def push(self, key: str, frame: bytes) -> None:
        """Have a frame wait to be sent; too many bytes of them close the listener."""
        self._size += len(frame) - len(self._waiting.pop(key, b""))
        self._waiting[key] = frame
        if self._size > self._most:
            self._waiting.clear()
            self.closed = True
        self._woken.set()

    def take(self) -> bytes | None:
        """The next frame."""
        if not self._waiting:
            self._woken.clear()
            return None
        _, frame = self._waiting.popitem(last=False)
        self._size -= len(frame)
        return frame

    def close(self) -> None:
        """End, once all that waits has been taken."""
        self.closed = True
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a frame or the end; whether it came within so many seconds."""
        try:
            await within(self._woken.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


class _Paced:
    """Calls a function when something has changed: at once, then at this distance at least."""

    def __init__(self, every: float, call: Callable[[], None]) -> None:
        self._every = every
        self._call = call
        self._again_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Call it now, or as soon as its time has come."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            return
        if loop.time() >= self._again_at:
            self._again_at = loop.time() + self._every
            self._call()
        else:
            self._timer = loop.call_at(self._again_at, self._due)

    def flush(self) -> None:
        """Call it now if it is due later."""
        if self._timer is not None:
            self.stop()
            self._call()

    def stop(self) -> None:
        """Do not call it any more for what has changed so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self.changed()


def _frame(event: str, data: BaseModel) -> bytes:
    return f"event: {event}\ndata: {data.model_dump_json()}\n\n".encode()


def _progress_of(event: Progress) -> ApiProgress:
    steps = round(event.steps) if event.steps else None
    step = round(event.step) if event.step is not None and steps else None
    counted = (
        f"{event.node_class} {step}/{steps}" if event.node_class and step is not None else None
    )
    message = event.message or counted or event.node_class
    if event.estimated:
        message = f"{message} (estimated)" if message else "Estimated"
    return ApiProgress(
        value=event.fraction,
        nodes_done=event.nodes_done,
        nodes_total=event.nodes_total,
        current_node=event.node_id,
        current_node_class=event.node_class,
        step=step,
        steps=steps,
        message=one_line(message)[:_LONGEST_MESSAGE] if message else None,
    )


def _as_jpeg(data: bytes, side: int) -> bytes:
    """A preview as a JPEG, made smaller where it is larger; empty if it cannot be decoded."""
    picture = decoded_preview(data)
    if picture is None:
        return b""
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=85)
    return written.getvalue()
