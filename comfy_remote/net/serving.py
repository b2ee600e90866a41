"""Limits on the connections to our servers: times to ask and to read the answer, and how many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from yarl import URL

__all__ = ["ConnectionLimits", "GuardedRunner", "GuardedSite", "give_way"]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients of a server may do with its connections. Times are seconds.

    Attributes:
        before_a_request: Until a connection's first request is whole.
        between_requests: Until the next one is.
        without_reading: That a client may read nothing of an answer.
        connections: Open at a time. A new one replaces the oldest that has not sent a request yet
            or whose last request lacked the right token, or is refused.
    """

    before_a_request: float = 15.0
    between_requests: float = 60.0
    without_reading: float = 60.0
    connections: int = 800


_REFUSED = (401, 403)
_STOOD_STILL = 0.1  # seconds that a timer is late if the process or the machine was stopped


def _without_tracebacks(record: logging.LogRecord) -> bool:
    """Log in one line what is its sender's fault: a request that is not HTTP, or a hang-up."""
    senders_fault = (HttpProcessingError, web.RequestPayloadError, ConnectionResetError)
    if record.exc_info and isinstance(record.exc_info[1], senders_fault):
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    return True


_log = logging.getLogger(__name__)
_log.addFilter(_without_tracebacks)


class GuardedRunner(web.AppRunner):
    """An `aiohttp.web.AppRunner` whose clients cannot hold its connections for nothing.

    How long a request's body may take is up to the routes.

    Args:
        shutdown_timeout: Seconds that requests have to end when the server stops.
        handler_cancellation: Whether a client that hangs up cancels its request's handler.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        shutdown_timeout: float = 60.0,
        handler_cancellation: bool = False,
        limits: ConnectionLimits = ConnectionLimits(),
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            logger=_log,
            shutdown_timeout=shutdown_timeout,
            handler_cancellation=handler_cancellation,
            keepalive_timeout=limits.between_requests,
            # aiohttp unpacks also what nobody reads, after a refusal: some kilobytes would hold up
            # the loop for seconds. So nothing is unpacked; who sends it so is told it is not JSON.
            auto_decompress=False,
        )
        app.middlewares.insert(0, _note_request)
        self.limits = limits
        self._connections: set[_Connection] = set()
        # Without a request so far; oldest first.
        self._silent: dict[_Connection, None] = {}

    @property
    def server(self) -> web.Server | None:
        """What makes a protocol for each connection."""
        server = super().server
        if server is None:
            return None
        # A site of aiohttp only calls what it gets here.
        return cast("web.Server", lambda: _Connection(cast("asyncio.Protocol", server()), self))

    def protocols(self, tls: ssl.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        """What makes a protocol for each connection of one site."""
        server = super().server
        if server is None:
            raise RuntimeError("the runner has not been set up")
        return lambda: _Connection(cast("asyncio.Protocol", server()), self, tls)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def cleanup(self) -> None:
        """See `aiohttp.web.BaseRunner.cleanup`. Who has not asked yet gets no answer any more."""
        for connection in list(self._silent):
            connection.abort()
        await super().cleanup()

    def opened(self, connection: _Connection) -> bool:
        """Count a connection.

        Returns:
            Whether there is room for it.
        """
        if len(self._connections) >= self.limits.connections:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                return False
            oldest.abort()
            self.closed(oldest)
        self._connections.add(connection)
        self._silent[connection] = None
        return True

    def asked(self, connection: _Connection) -> None:
        """Note that a connection has brought a request."""
        self._silent.pop(connection, None)

    def refused(self, connection: _Connection) -> None:
        """Have a connection whose request was refused make room like one without a request."""
        if connection in self._connections:
            self._silent[connection] = None

    def closed(self, connection: _Connection) -> None:
        """Remove a connection from the count."""
        self._connections.discard(connection)
        self._silent.pop(connection, None)


class GuardedSite(web.BaseSite):
    """An address that a `GuardedRunner` listens on, over https with ``tls``.

    aiohttp's own leaves the handshake to asyncio, which takes any number of connections for it, and
    a minute for each: who opens a thousand, and says nothing, has all of the process's files.
    """

    def __init__(
        self, runner: GuardedRunner, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(runner)
        self._protocols = runner.protocols(tls)
        self._scheme = "http" if tls is None else "https"
        self._host, self._port = host, port

    @property
    def name(self) -> str:
        """Its URL."""
        return str(URL.build(scheme=self._scheme, host=self._host, port=self._port))

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be used.
        """
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocols, self._host, self._port)


class _Connection(asyncio.Protocol):
    """Between a connection and aiohttp's protocol for it, which gets all that arrives.

    Args:
        tls: For https: it counts from its first byte, not only when the handshake is over.
    """

    def __init__(
        self, inner: asyncio.Protocol, runner: GuardedRunner, tls: ssl.SSLContext | None = None
    ) -> None:
        self._inner = inner
        self._runner = runner
        self._tls = tls
        self._securing: asyncio.Task[None] | None = None
        self._begun = self._ended = False
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._runner.opened(self):
            self.abort()
            return
        self._abort_in(self._runner.limits.before_a_request)
        if self._tls is None:
            self._begin(self._transport)
        else:
            self._transport.pause_reading()  # the handshake reads
            secure = self._secure(self._transport, self._tls)
            self._securing = asyncio.get_running_loop().create_task(secure)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._runner.closed(self)
        self._ended = True
        if self._begun:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._begun:
            self._inner.data_received(data)
        else:
            self._early.append(data)  # with the end of the handshake

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._begun else None

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        loop, seconds = asyncio.get_running_loop(), self._runner.limits.before_a_request
        # Python 3.10 has begun to read all the same, and `start_tls` would lose what comes now.
        transport.resume_reading()
        transport.pause_reading()
        try:
            secured = await loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=seconds
            )
        except OSError:  # also what is no TLS, and what has ended meanwhile
            secured = None
        if secured is None or self._ended:
            self._stop_timer()
            self._runner.closed(self)
            transport.abort()
        else:
            self._transport = secured
            self._begin(secured)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._begun = True
        self._inner.connection_made(transport)
        _end_when_nothing_is_read(transport, self._runner.limits.without_reading)
        for data in self._early:
            self._inner.data_received(data)
        self._early.clear()

    def pause_writing(self) -> None:
        self._watch_reading()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stop_timer()
        self._inner.resume_writing()

    def request_began(self) -> None:
        self._stop_timer()
        self._runner.asked(self)

    def request_refused(self) -> None:
        self._runner.refused(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _watch_reading(self, before: int | None = None) -> None:
        """Abort once nothing of what waits to be sent has gone for a while."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if waiting == before:
            self.abort()
            return
        self._stop_timer()
        loop = asyncio.get_running_loop()
        seconds = self._runner.limits.without_reading
        self._timer = loop.call_later(seconds, self._watch_reading, waiting)

    def _abort_in(self, seconds: float) -> None:
        self._stop_timer()
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        self._timer = loop.call_later(seconds, self._time_is_over, due)

    def _time_is_over(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due < _STOOD_STILL:
            self.abort()
        else:  # its request may have come meanwhile, and is read now
            self._timer = loop.call_later(_STOOD_STILL, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@web.middleware
async def _note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    if (connection := _connection_of(request)) is not None:
        connection.request_began()
    response = await handler(request)
    if response.status in _REFUSED:
        give_way(request)
    return response


def give_way(request: web.Request) -> None:
    """Have the connection of a request that is being refused make room for others from now on."""
    if (connection := _connection_of(request)) is not None:
        connection.request_refused()


def _connection_of(request: web.Request) -> _Connection | None:
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, _Connection) else None


def _end_when_nothing_is_read(transport: asyncio.Transport, seconds: float) -> None:
    """The same for files, which the system sends past the protocol; Linux only."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    connection = transport.get_extra_info("socket")
    if option is not None and connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, round(seconds * 1000))
