"""The WebSocket side: connected clients, and how messages and previews are sent."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import uuid
from collections.abc import Callable, Mapping
from io import BytesIO

from aiohttp import WSMsgType, web
from PIL.Image import Image
from pydantic import JsonValue

from ..aio import Background, within

__all__ = ["MAX_UPLOAD_BYTES", "SERVER_FEATURES", "SocketHub"]

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 100 * 1024 * 1024

SERVER_FEATURES: Mapping[str, JsonValue] = {
    "supports_preview_metadata": True,
    "max_upload_size": MAX_UPLOAD_BYTES,
}
"""What ``/features`` and the ``feature_flags`` message tell a client."""

# ComfyUI's numbers for binary messages, and for the format of a preview without metadata.
_PREVIEW_IMAGE = 1
_TEXT = 3
_PREVIEW_IMAGE_WITH_METADATA = 4
_JPEG = 1
_PNG = 2

_Outgoing = tuple[str | bytes, str | None]


class SocketHub:
    """All open WebSockets by client id. `send` and its like may be called from any thread.

    Args:
        status: What a ``status`` message says: ``{"exec_info": {"queue_remaining"}}``.
        most_waiting: Bytes that may wait to be sent, before previews are left out.
        patience: Seconds that a client may take to read a message.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, JsonValue]],
        *,
        most_waiting: int = 64 * 1024 * 1024,
        patience: float = 30.0,
    ) -> None:
        self._status = status
        self._most_waiting = most_waiting
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._features: dict[str, Mapping[str, JsonValue]] = {}
        # One queue for all messages keeps their order.
        self._outbox: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._waiting = 0
        self._closing = Background()
        self._executing: tuple[str | None, str | None] = (None, None)
        self._publisher = asyncio.create_task(self._publish())

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""
        return self._waiting

    @property
    def connected(self) -> bool:
        """Whether there is a client."""
        return bool(self._sockets)

    async def close(self) -> None:
        """Close all sockets."""
        self._publisher.cancel()
        for socket in list(self._sockets.values()):
            await socket.close(code=1001, message=b"The sandbox stops")

    def send(self, event: str, data: Mapping[str, object], client_id: str | None) -> None:
        """Send to one client, or to all of them."""
        self._put(json.dumps({"type": event, "data": data}), client_id)

    def send_status(self) -> None:
        """Send all clients the length of the queue."""
        self.send("status", {"status": self._status()}, None)

    def send_preview(
        self,
        image: Image,
        metadata: Mapping[str, JsonValue],
        client_id: str | None,
        *,
        whole: bool = False,
    ) -> None:
        """Send a JPEG, or a PNG if it is to be ``whole``.

        With metadata to a client that said it can read them, else without.
        """
        buffer = BytesIO()
        if whole:
            image.save(buffer, "PNG", compress_level=1)
        else:
            image.convert("RGB").save(buffer, "JPEG", quality=95)
        media_type = "image/png" if whole else "image/jpeg"
        self.send_encoded_preview(buffer.getvalue(), media_type, metadata, client_id)

    def send_encoded_preview(
        self,
        picture: bytes,
        media_type: str,
        metadata: Mapping[str, JsonValue],
        client_id: str | None,
    ) -> None:
        """Like `send_preview`, for a picture that is encoded already."""
        if self._features.get(client_id or "", {}).get("supports_preview_metadata"):
            text = json.dumps({**metadata, "image_type": media_type}).encode()
            header = struct.pack(">II", _PREVIEW_IMAGE_WITH_METADATA, len(text)) + text
        else:
            header = struct.pack(
                ">II", _PREVIEW_IMAGE, _PNG if media_type == "image/png" else _JPEG
            )
        self._put(header + picture, client_id)

    def send_text(self, text: str, node_id: str, client_id: str | None) -> None:
        """Send a text that a node shows while it runs."""
        node = node_id.encode()
        self._put(struct.pack(">II", _TEXT, len(node)) + node + text.encode(), client_id)

    def connection(self, client_id: str) -> object | None:
        """A client's socket, to tell one from the next."""
        return self._sockets.get(client_id)

    def set_executing(self, client_id: str | None, node_id: str | None) -> None:
        """Remember what runs, for clients that reconnect."""
        self._executing = (client_id, node_id)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """``GET /ws?clientId=``."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._sockets[client_id] = socket
        self._features[client_id] = {}
        try:
            self.send("status", {"status": self._status(), "sid": client_id}, client_id)
            running_client, node_id = self._executing
            if running_client == client_id and node_id is not None:
                self.send("executing", {"node": node_id}, client_id)
            first = True
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    if first:
                        self._greet(client_id, message.data)
                    first = False
        finally:
            # The client may have come back under the same id on another socket.
            if self._sockets.get(client_id) is socket:
                del self._sockets[client_id], self._features[client_id]
        return socket

    def _greet(self, client_id: str, text: str) -> None:
        """A client may say in its first message what it understands."""
        try:
            message = json.loads(text)
        except ValueError:
            logger.warning("A client sent a message that is not JSON")
            return
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            flags = message.get("data")
            self._features[client_id] = flags if isinstance(flags, dict) else {}
            self.send("feature_flags", SERVER_FEATURES, client_id)

    def _put(self, message: str | bytes, client_id: str | None) -> None:
        self._loop.call_soon_threadsafe(self._add, message, client_id)

    def _add(self, message: str | bytes, client_id: str | None) -> None:
        # Previews are left out for a client that does not keep up; it misses nothing else.
        if isinstance(message, bytes) and self._waiting + len(message) > self._most_waiting:
            return
        self._waiting += len(message)
        self._outbox.put_nowait((message, client_id))

    async def _publish(self) -> None:
        while True:
            message, client_id = await self._outbox.get()
            self._waiting -= len(message)
            if client_id is None:
                receivers = list(self._sockets.values())
            else:
                receivers = [s for key, s in self._sockets.items() if key == client_id]
            for socket in receivers:
                try:
                    await within(_send(socket, message), self._patience)
                except asyncio.TimeoutError:
                    # It has stopped reading; the others must not wait for it.
                    self._drop(socket)
                except (ConnectionError, RuntimeError) as error:
                    logger.debug("A client has gone: %s", error)

    def _drop(self, socket: web.WebSocketResponse) -> None:
        for client_id, known in list(self._sockets.items()):
            if known is socket:
                del self._sockets[client_id]
        self._closing.start(socket.close())


async def _send(socket: web.WebSocketResponse, message: str | bytes) -> None:
    if isinstance(message, bytes):
        await socket.send_bytes(message)
    else:
        await socket.send_str(message)
