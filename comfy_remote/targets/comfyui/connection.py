"""What several targets of one ComfyUI share, one after the other: a session and a WebSocket."""

from __future__ import annotations

import uuid

from ...net.http import HttpClient
from .follow import FollowTimes
from .socket import ComfyUISocket

__all__ = ["ComfyUIConnection"]


class ComfyUIConnection:
    """A connection that outlives the targets that use it, so a job opens none of its own.

    One target at a time: the messages of the WebSocket are read by one prompt's follower.

    Attributes:
        url: The ComfyUI's.
        http: Open between `open` and `close`.
        socket: Opened by the first prompt.
    """

    def __init__(self, url: str, times: FollowTimes) -> None:
        self.url = url.rstrip("/")
        self.http = HttpClient(self.url, name="ComfyUI", limits=times.requests)
        self.socket = ComfyUISocket(self.http, str(uuid.uuid4()), times.reconnect)

    async def open(self) -> None:
        """Open the session."""
        await self.http.__aenter__()

    async def close(self) -> None:
        """Close both."""
        await self.socket.stop()
        await self.http.__aexit__()
