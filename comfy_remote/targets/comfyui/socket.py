"""One client's WebSocket to a ComfyUI, reopened when it drops; and those that wait for a prompt."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import aiohttp

from ...aio import Background, Signal, within
from ...net.http import HttpClient
from ...net.retry import Backoff
from .messages import HANDSHAKE, Message, decode_binary, decode_text

__all__ = ["ComfyUISocket", "SpareSockets"]

_OPEN_TIMEOUT = 3.0
_LARGEST_MESSAGE = 64 * 1024 * 1024
_KEPT_MESSAGES = 1000
_ABOUT_A_PROMPT = '"prompt_id"'
_MOST_SPARE = 8
_SPARE_SECONDS = 10.0


class ComfyUISocket:
    """Messages for one ``client_id``, in a queue.

    The socket only makes things quicker: whoever uses it polls as well, so nothing here
    raises. `connected` says whether messages can be expected at the moment.

    Args:
        most_bytes: Of messages that nobody has read: beyond that, the oldest go.
    """

    def __init__(
        self,
        http: HttpClient,
        client_id: str,
        reconnect: Backoff,
        *,
        most_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._reconnect = reconnect
        self._most_bytes = most_bytes
        self._http = http
        self.client_id = client_id
        # Bounded: a reader that stops reading must not fill the memory with previews.
        self._messages: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._arrived = Signal()
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the socket is open now."""
        return self._opened.is_set()

    async def start(self) -> None:
        """Open it, and return once it is open or a try has failed.

        What has arrived before is forgotten: it was about another prompt.
        """
        if self._task is not None:
            if not self.connected:
                await self.stop()
            self._messages.clear()
            self._bytes = 0
            if self.connected:
                return
        self._tried.clear()
        self._task = asyncio.create_task(self._run())
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._tried.wait(), _OPEN_TIMEOUT)

    async def stop(self) -> None:
        """Close it."""
        if self._task is not None:
            self._task.cancel()
            # Not `suppress(CancelledError)`, which would also swallow our caller's own end.
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def next(self, timeout: float) -> Message | None:
        """The next message, or ``None`` after ``timeout`` seconds without one."""
        if not self._messages:
            # Not `wait_for(queue.get())`, in which a cancel could be lost before Python 3.12.
            await self._arrived.wait(timeout)
        return self._take() if self._messages else None

    def _take(self) -> Message:
        message, size = self._messages.popleft()
        self._bytes -= size
        return message

    def _add(self, message: Message, size: int) -> None:
        self._messages.append((message, size))
        self._bytes += size
        while len(self._messages) > _KEPT_MESSAGES or (
            self._bytes > self._most_bytes and len(self._messages) > 1
        ):
            self._take()
        self._arrived.notify()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._read()
                failures = 0
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
                failures += 1
            finally:
                self._opened.clear()
                self._tried.set()
            await asyncio.sleep(self._reconnect.seconds(failures + 1))

    async def _read(self) -> None:
        path = f"ws?clientId={self.client_id}"
        async with self._http.socket(path, largest=_LARGEST_MESSAGE) as socket:
            await socket.send_str(HANDSHAKE)
            self._opened.set()
            self._tried.set()
            async for frame in socket:
                message: Message | None = None
                if frame.type is aiohttp.WSMsgType.TEXT:
                    if _ABOUT_A_PROMPT in frame.data:  # ComfyUI's status comes to everybody
                        message = decode_text(frame.data)
                elif frame.type is aiohttp.WSMsgType.BINARY:
                    message = decode_binary(frame.data)
                if message is not None:
                    self._add(message, len(frame.data))


class SpareSockets:
    """The sockets of prompts that have ended: opening one takes as long as a tiny prompt.

    Each serves one prompt at a time. One that no prompt takes for a while is closed.

    Args:
        most: How many there are at a time.
        seconds: After which one is closed.
    """

    def __init__(self, *, most: int = _MOST_SPARE, seconds: float = _SPARE_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._spare: dict[ComfyUISocket, asyncio.TimerHandle] = {}
        self._closing = Background()

    def take(self) -> ComfyUISocket | None:
        """One that is open, if there is one."""
        while self._spare:
            socket, timer = self._spare.popitem()
            timer.cancel()
            if socket.connected:
                return socket
            self._closing.start(socket.stop())
        return None

    async def give(self, socket: ComfyUISocket) -> None:
        """Hold an open one for the next prompt, or close it."""
        if len(self._spare) >= self._most or not socket.connected:
            await socket.stop()
            return
        loop = asyncio.get_running_loop()
        self._spare[socket] = loop.call_later(self._seconds, self._expire, socket)

    def _expire(self, socket: ComfyUISocket) -> None:
        del self._spare[socket]
        self._closing.start(socket.stop())

    async def close(self) -> None:
        """Close all of them, and whatever is still given."""
        self._most = 0
        for timer in self._spare.values():
            timer.cancel()
        sockets, self._spare = [*self._spare], {}
        await asyncio.gather(*(socket.stop() for socket in sockets))
        await self._closing.finish()
