"""``GET /api/v2/jobs/{id}/events``: a job's states, progress, previews and outputs as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

from ..aio import within
from ..wire.comfy_api import API_PATH
from .errors import ApiRefusal
from .live import LiveJob
from .server import ENDLESS, api_base

__all__ = ["StreamLimits", "event_routes", "with_addresses"]

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold frames back
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams one server has, and how slow a client may be.

    Attributes:
        streams: Open at a time; above it, 429 ``too_many_streams``.
        patience: Seconds that a client may take to read what it is sent.
    """

    streams: int = 256
    patience: float = 30.0


def event_routes(
    live: Callable[[str], Awaitable[LiveJob]], limits: StreamLimits = StreamLimits()
) -> list[web.RouteDef]:
    """The route of events.

    Args:
        live: Gives the job of an id, also one that has ended, or raises `ApiRefusal` (404).
    """
    streams = _Streams(live, limits)
    return [web.get("/jobs/{id}/events", streams.events, allow_head=False)]


def with_addresses(frame: bytes, origin: str) -> bytes:
    """A frame whose addresses are those at which its listener reaches the server.

    A frame is encoded once for all listeners, so the addresses in it begin with ``/``.
    """
    if not frame.startswith(b"event: output\n"):
        return frame
    # Within a text of the JSON, quotation marks stand behind a backslash.
    return frame.replace(b'"url":"/', b'"url":"%b/' % origin.encode())


class _Streams:
    def __init__(self, live: Callable[[str], Awaitable[LiveJob]], limits: StreamLimits) -> None:
        self._live = live
        self._limits = limits
        self._open = 0

    async def events(self, request: web.Request) -> web.StreamResponse:
        with self._counted(request.app[ENDLESS]):
            job = await self._live(request.match_info["id"])
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            origin = api_base(request).removesuffix(API_PATH)
            # From here on nothing can be refused: a client that is gone or too slow is let go.
            try:
                async with contextlib.aclosing(job.frames()) as frames:
                    async for frame in frames:
                        sent = with_addresses(frame, origin)
                        await within(response.write(sent), self._limits.patience)
                await within(response.write_eof(), self._limits.patience)
            except (ConnectionError, asyncio.TimeoutError):
                if request.transport is not None:
                    request.transport.abort()
            return response

    @contextlib.contextmanager
    def _counted(self, endless: set[asyncio.Task[object]]) -> Iterator[None]:
        if self._open >= self._limits.streams:
            raise ApiRefusal(
                "too_many_streams",
                f"{self._limits.streams} event streams are open already. Close one, or ask "
                "GET /api/v2/jobs/{id}, which is always possible.",
            )
        self._open += 1
        if (task := asyncio.current_task()) is not None:
            endless.add(task)
        try:
            yield
        finally:
            self._open -= 1
            if task is not None:
                endless.discard(task)
