"""What a server says of a job while it runs, by server-sent events.

They only make things quicker and show previews: whoever follows a job asks for its state as well,
so nothing here raises. `LiveEvents.connected` says whether events can be expected now.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from ...aio import Signal
from ...errors import ComfyRemoteError, RateLimited, TargetUnreachable
from ...net.http import HttpClient
from ...net.retry import Backoff, retry_after
from ...wire.comfy_api import ApiOutput, ApiProgress, PreviewEvent, StatusEvent
from .sse import EventTooLarge, SseDecoder

__all__ = ["LiveEvent", "LiveEvents", "LiveStreams"]

LiveEvent: TypeAlias = StatusEvent | ApiProgress | PreviewEvent | ApiOutput

_MEDIA_TYPE = "text/event-stream"
_MODELS: dict[str, TypeAdapter[LiveEvent]] = {
    "status": TypeAdapter(StatusEvent),
    "progress": TypeAdapter(ApiProgress),
    "preview": TypeAdapter(PreviewEvent),
    "output": TypeAdapter(ApiOutput),
}
_LARGEST_EVENT = 8 * 2**20
_LARGEST_SMALL = 64 * 1024
_MOST_OUTPUTS = 256
_LASTED = 10.0
# Servers have a limit, too, and each takes one of our connections.
_MOST_STREAMS = 6


class LiveEvents:
    """The newest event of each kind, until somebody takes it.

    So memory holds one preview, however many arrive, and a slow reader is never behind.

    Args:
        path: Of the stream, below the server's origin.
        reconnect: The waits before it is opened again.
    """

    def __init__(self, http: HttpClient, path: str, reconnect: Backoff) -> None:
        self._http, self._path, self._reconnect = http, path, reconnect
        self._newest: dict[str, bytes] = {}
        self._arrived = Signal()
        self._task: asyncio.Task[None] | None = None
        self._seen_outputs = 0
        self.connected = False
        self.given_up = ""
        """Why there will be no more events, a clause; empty as long as there may be."""

    @property
    def running(self) -> bool:
        """Whether it holds a connection, or will again."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Open the stream."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Close it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def next(self, timeout: float) -> LiveEvent | None:
        """The next event, or ``None`` after ``timeout`` seconds without one."""
        if not self._newest:
            await self._arrived.wait(timeout)
        while self._newest:
            key = next(iter(self._newest))
            data = self._newest.pop(key)
            try:
                return _MODELS[key.partition(" ")[0]].validate_json(data)
            except ValidationError:
                continue
        return None

    async def _run(self) -> None:
        failures, loop = 0, asyncio.get_running_loop()
        while not self.given_up:
            began, asked = loop.time(), None
            try:
                if await self._read():
                    return
            except EventTooLarge:
                self.given_up = f"it sent an event of more than {_LARGEST_EVENT // 2**20} MiB"
            except RateLimited as error:
                asked = retry_after(error.details.get("retry_after"))
            except TargetUnreachable as error:
                if error.details.get("http_status") == 501:
                    self.given_up = "it does not offer them"
            except ComfyRemoteError as error:
                self.given_up = error.message.rstrip(".")
            finally:
                self.connected = False
                self._arrived.notify()
            failures = 1 if loop.time() - began > _LASTED else failures + 1
            await asyncio.sleep(0.0 if self.given_up else self._reconnect.seconds(failures, asked))

    async def _read(self) -> bool:
        """Read the stream to its end; whether the job has ended with it."""
        decoder = SseDecoder(_LARGEST_EVENT)
        ended = False
        async with aclosing(self._http.listen(self._path, _MEDIA_TYPE)) as chunks:
            async for chunk in chunks:
                self.connected = True
                for name, data in decoder.feed(chunk):
                    ended = self._note(name, data) or ended
        return ended

    def _note(self, name: str, data: bytes) -> bool:
        """Hold an event for whoever reads; whether it says that the job has ended."""
        if name not in _MODELS or (name != "preview" and len(data) > _LARGEST_SMALL):
            return False
        if name == "output":
            self._seen_outputs += 1
            if self._seen_outputs > _MOST_OUTPUTS:
                return False  # whoever asks for the job gets them all
            name = f"output {self._seen_outputs}"
        if name == "status":
            self._newest.pop(name, None)  # behind what came before: it may be the last
        self._newest[name] = data
        self._arrived.notify()
        return name == "status" and _is_final(data)


class LiveStreams:
    """The live events of one client's jobs: a few streams at a time."""

    def __init__(self, http: HttpClient, reconnect: Backoff) -> None:
        self._http, self._reconnect = http, reconnect
        self._open: list[LiveEvents] = []

    def opened(self, path: str) -> LiveEvents | None:
        """Those of one job; ``None`` while enough jobs have theirs."""
        self._open = [one for one in self._open if one.running]
        if len(self._open) >= _MOST_STREAMS:
            return None
        live = LiveEvents(self._http, path, self._reconnect)
        live.start()
        self._open.append(live)
        return live


def _is_final(data: bytes) -> bool:
    try:
        return StatusEvent.model_validate_json(data).status.final
    except ValidationError:
        return False
