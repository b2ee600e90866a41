"""A small real server that answers as the test says, and remembers what it was asked."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from typing_extensions import Self

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    time: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """An answer: JSON unless it is bytes."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        if isinstance(self.body, bytes):
            return web.Response(body=self.body, status=self.status, headers=self.headers)
        return web.json_response(self.body, status=self.status, headers=self.headers)


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of answering."""
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class ScriptedServer:
    """Listens on a free port of 127.0.0.1 inside ``async with``.

    ``on("GET /queue", a, b)`` answers first with ``a``, then always with ``b``. What nothing
    was said about is a 404.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._answers: dict[str, list[Answer | Handler]] = {}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    def on(self, what: str, *answers: Answer | Handler) -> None:
        self._answers[what] = list(answers)

    def count(self, what: str) -> int:
        """How many requests there were of a method and path."""
        return sum(f"{asked.method} {asked.path}" == what for asked in self.asked)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        streamed = request.content_type.startswith("multipart/") or "Upgrade" in request.headers
        body = b"" if streamed else await request.read()
        self.asked.append(
            Asked(request.method, request.path, dict(request.headers), body, time.monotonic())
        )
        answers = self._answers.get(f"{request.method} {request.path}")
        if answers is None:
            return web.Response(status=404, text="Not Found")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer.response() if isinstance(answer, Answer) else await answer(request)
