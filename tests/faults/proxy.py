"""A reverse proxy that goes wrong on demand: HTTP and WebSocket, in front of any server.

::

    async with FaultProxy(engine_url) as proxy:
        proxy.plan("/history", Answer(503), times=3)
        ...  # the fourth request to /history comes through

Everything that passes is kept in `FaultProxy.seen`, to be counted and searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import aiohttp
from aiohttp import web

__all__ = [
    "Answer",
    "Cut",
    "Delay",
    "Drip",
    "Drop",
    "Fault",
    "FaultProxy",
    "NotHttp",
    "Rewrite",
    "Seen",
    "Shorten",
    "Stall",
    "name_of",
]

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host"}


@dataclass(frozen=True)
class Answer:
    """Answer this. With ``forwarded``, the server gets the request and its answer is lost."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    forwarded: bool = False


@dataclass(frozen=True)
class Drop:
    """Reset the connection without an answer; with ``forwarded``, after the server's."""

    forwarded: bool = False


@dataclass(frozen=True)
class NotHttp:
    """Answer with bytes that are no HTTP; with ``forwarded``, in place of the server's."""

    forwarded: bool = False
    data: bytes = b"\x00\xff 220 smtp.example.test ready\r\n\r\n"


@dataclass(frozen=True)
class Cut:
    """Announce the whole answer, and reset the connection after ``after`` bytes of its body."""

    after: int


@dataclass(frozen=True)
class Shorten:
    """Pass on ``to`` bytes of the body as if that were all: a well-formed answer."""

    to: int


@dataclass(frozen=True)
class Rewrite:
    """Pass on the answer with its body changed."""

    change: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Delay:
    """Forward after a while."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Say nothing for as long as the proxy lives; with ``forwarded``, the server got it."""

    forwarded: bool = False


@dataclass(frozen=True)
class Drip:
    """Pass on the body in pieces, with a pause after each, its length not announced.

    With ``endless``, zeros follow, without an end.
    """

    size: int = 1
    every: float = 0.05
    endless: bool = False


def name_of(fault: object) -> str:
    """Short, for the ids of tests."""
    match fault:
        case Answer(status, body):
            return f"{status} {body[:12].decode('utf-8', 'replace')}".strip()
        case Cut(number) | Shorten(number) | Delay(number):
            return f"{type(fault).__name__.lower()} {number}"
        case Drop(forwarded):
            return "drop after forwarding" if forwarded else "drop"
    return type(fault).__name__.lower()


Fault: TypeAlias = Answer | Drop | NotHttp | Cut | Shorten | Rewrite | Delay | Stall | Drip


@dataclass
class Seen:
    """One request that came by.

    Attributes:
        path: With its query.
        status: What the client got; ``None`` for no answer.
        sent: The body of the request.
        got: The body of the answer, or a WebSocket's frames to the client.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    sent: bytes = b""
    status: int | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    got: bytes = b""


@dataclass
class _Plan:
    path: re.Pattern[str]
    method: str | None
    fault: Fault
    times: int | None
    skip: int


class FaultProxy:
    """Listens on a port of its own and forwards to ``upstream``.

    Args:
        upstream: Base URL of the server behind it.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.rstrip("/")
        self.seen: list[Seen] = []
        self.url = ""
        """Base URL while it listens; the same after `gone`."""
        self._plans: list[_Plan] = []
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self._transports: set[asyncio.BaseTransport] = set()

    async def __aenter__(self) -> FaultProxy:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        await self._listen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._hang_up()
        if self._session is not None:
            await self._session.close()

    def plan(
        self,
        path: str,
        fault: Fault,
        *,
        method: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> None:
        """From now on let requests go wrong.

        Args:
            path: A regular expression, searched for in path and query.
            method: Only this one.
            times: How often; ``None`` for ever.
            skip: So many come through before.
        """
        self._plans.append(_Plan(re.compile(path), method, fault, times, skip))

    def heal(self) -> None:
        """Forget all plans."""
        self._plans.clear()

    def count(self, path: str, method: str | None = None) -> int:
        """How many requests have come whose path and query match."""
        return sum(
            bool(re.search(path, seen.path)) and method in (None, seen.method) for seen in self.seen
        )

    async def saw(self, path: str, *, times: int = 1, timeout: float = 20.0) -> None:
        """Wait until so many such requests have come."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self.count(path) < times:
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"no request to {path}: {[s.path for s in self.seen]}")
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Nobody listens, and whoever was connected is cut off; then all is as before."""
        await self.leave()
        try:
            yield
        finally:
            await self.come_back()

    async def leave(self) -> None:
        """Stop listening, and cut off whoever is connected."""
        await self._hang_up()

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        await self._listen()

    def drop_sockets(self) -> int:
        """Reset every WebSocket. Returns how many there were."""
        sockets = list(self._sockets)
        for socket in sockets:
            _abort(socket)
        return len(sockets)

    async def send_to_sockets(self, data: str | bytes) -> None:
        """Put a message of our own on every WebSocket."""
        for socket in list(self._sockets):
            if isinstance(data, str):
                await socket.send_str(data)
            else:
                await socket.send_bytes(data)

    # Inside

    async def _listen(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _hang_up(self) -> None:
        if self._runner is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        for transport in list(self._transports):
            if isinstance(transport, asyncio.Transport):
                transport.abort()
        await self._runner.cleanup()
        self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.raw_path, dict(request.headers))
        self.seen.append(seen)
        if request.transport is not None:
            self._transports.add(request.transport)
        fault = self._fault_for(request)
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
            fault = None
        if fault is None and request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, seen)
        seen.sent = await request.read()
        match fault:
            case Answer() | Drop() | Stall() | NotHttp():
                if fault.forwarded:
                    await self._ask(request, seen)
                    seen.status, seen.got, seen.answer_headers = None, b"", {}
                return await self._instead(request, seen, fault)
            case _:
                return await self._forward(request, seen, fault)

    def _fault_for(self, request: web.Request) -> Fault | None:
        for plan in self._plans:
            if not plan.path.search(request.raw_path) or plan.method not in (None, request.method):
                continue
            if plan.skip > 0:
                plan.skip -= 1
                continue
            if plan.times is None:
                return plan.fault
            if plan.times > 0:
                plan.times -= 1
                return plan.fault
        return None

    async def _instead(
        self, request: web.Request, seen: Seen, fault: Answer | Drop | Stall | NotHttp
    ) -> web.StreamResponse:
        match fault:
            case Answer(status, body, headers):
                seen.status, seen.got = status, body
                return web.Response(status=status, body=body, headers=dict(headers))
            case Stall():
                await asyncio.Event().wait()
            case NotHttp() if isinstance(request.transport, asyncio.Transport):
                request.transport.write(fault.data)
                await asyncio.sleep(0.05)
        return _gone(request)

    async def _ask(
        self, request: web.Request, seen: Seen
    ) -> tuple[int, dict[str, str], bytes] | None:
        """What the server answers; ``None`` if it does not."""
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method,
                f"{self.upstream}{request.raw_path}",
                headers=headers,
                data=seen.sent or None,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
        except aiohttp.ClientError:
            return None
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
        kept.pop("Content-Length", None)
        seen.status, seen.got, seen.answer_headers = answer.status, body, kept
        return answer.status, kept, body

    async def _forward(
        self, request: web.Request, seen: Seen, fault: Fault | None
    ) -> web.StreamResponse:
        answered = await self._ask(request, seen)
        if answered is None:
            return _gone(request)
        status, headers, body = answered
        match fault:
            case Rewrite(change):
                body = change(body)
            case Shorten(to):
                body = body[:to]
            case Cut(after):
                response = web.StreamResponse(status=status, headers=headers)
                response.content_length = len(body)
                await response.prepare(request)
                await response.write(body[:after])
                await asyncio.sleep(0.05)  # the bytes get there before the reset does
                return _gone(request)
            case Drip():
                return await self._drip(request, status, headers, body, fault)
        seen.got = body
        return web.Response(status=status, headers=headers, body=body)

    async def _drip(
        self,
        request: web.Request,
        status: int,
        headers: dict[str, str],
        body: bytes,
        drip: Drip,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        for start in range(0, len(body), drip.size):
            await response.write(body[start : start + drip.size])
            await asyncio.sleep(drip.every)
        while drip.endless:
            await response.write(bytes(drip.size))
            await asyncio.sleep(drip.every)
        return response

    async def _websocket(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        assert self._session is not None
        ours = web.WebSocketResponse(max_msg_size=0)
        try:
            theirs = await self._session.ws_connect(
                f"{self.upstream}{request.raw_path}", max_msg_size=0
            )
        except aiohttp.ClientError:
            return _gone(request)
        await ours.prepare(request)
        seen.status = 101
        self._sockets.add(ours)

        async def up() -> None:
            async for message in ours:
                seen.sent += _bytes(message)
                await _pass(message, theirs)

        async def down() -> None:
            async for message in theirs:
                seen.got += _bytes(message)
                await _pass(message, ours)

        tasks = {asyncio.create_task(up()), asyncio.create_task(down())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sockets.discard(ours)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await theirs.close()
        await ours.close()
        return ours


def _bytes(message: aiohttp.WSMessage) -> bytes:
    return message.data.encode() if isinstance(message.data, str) else bytes(message.data or b"")


async def _pass(
    message: aiohttp.WSMessage, to: aiohttp.ClientWebSocketResponse | web.WebSocketResponse
) -> None:
    if message.type is aiohttp.WSMsgType.TEXT:
        await to.send_str(message.data)
    elif message.type is aiohttp.WSMsgType.BINARY:
        await to.send_bytes(message.data)


def _gone(request: web.Request) -> web.Response:
    """Reset the connection. What is returned goes nowhere."""
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()
    return web.Response()


def _abort(socket: web.WebSocketResponse) -> None:
    request = socket._req
    if request is not None and isinstance(request.transport, asyncio.Transport):
        request.transport.abort()
