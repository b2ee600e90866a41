"""Who may speak HTTP with the server: programs of this machine that have the token."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from ..errors import ConfigurationError

__all__ = ["LOOPBACK", "App", "listen", "with_token"]

LOOPBACK = "127.0.0.1"

_Message: TypeAlias = MutableMapping[str, Any]  # ASGI's own type
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def with_token(app: App, token: str) -> App:
    """An ASGI application that only bearers of the token reach; all others get a 401."""
    wanted = f"Bearer {token}".encode()

    async def guarded(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http" and not _has(scope["headers"], wanted):
            headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b"The token is missing or wrong.\n"})
        elif scope["type"] in ("http", "lifespan"):
            await app(scope, receive, send)

    return guarded


def _has(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bool:
    given = [value for name, value in headers if name == b"authorization"]
    return len(given) == 1 and hmac.compare_digest(given[0].strip(), wanted)


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine's own address.

    Raises:
        ConfigurationError: The port is taken.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} cannot be listened on: {error.strerror}.", advice="Give another --port."
        ) from error
