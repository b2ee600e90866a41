"""A stand-in for the gateway that a joined worker speaks to: it does what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from typing_extensions import Self

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN = "desk." + "s" * 43


def answers(status: int, said: object = None, code: str = "") -> Handler:
    """A handler that gives the same answer each time."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        error = {"error": said or "no", "comfy_remote": {"code": code}}
        return web.json_response(error, status=status)

    return answer


class FakeHead:
    """Listens on a free port of 127.0.0.1 inside ``async with``; `leave` and `come_back` as a head
    does that is killed and started again.

    Attributes:
        jobs: What ``take`` gives, as (id, attempt, input).
        drop: What ``hello`` answers.
        instead: Handlers that answer a request (``take``, ``done`` …) in place of this.
        hellos, pings, progress, backs, results, files: What has come.
    """

    def __init__(self) -> None:
        self.jobs: asyncio.Queue[tuple[str, int, Any]] = asyncio.Queue()
        self.stops: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.drop: list[dict[str, Any]] = []
        self.instead: dict[str, Handler] = {}
        self.hellos: list[dict[str, Any]] = []
        self.pings: list[dict[str, Any]] = []
        self.progress: list[tuple[str, str, Any]] = []
        self.backs: list[str] = []
        self.results: list[tuple[str, str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.poll_wait = 0.3
        self.taken = True
        self._given: dict[str, tuple[str, int, Any]] = {}
        self._boot: str | None = None
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()

    async def come_back(self) -> None:
        app = web.Application(client_max_size=2**30)
        base = "/v2/{endpoint}/workers/{worker}"
        job = f"{base}/jobs/{{job}}/{{attempt}}"
        for method, path, name in (
            ("POST", f"{base}/hello", "hello"),
            ("POST", f"{base}/take", "take"),
            ("POST", f"{base}/ping", "ping"),
            ("POST", f"{job}/progress", "progress"),
            ("POST", f"{job}/done", "done"),
            ("POST", f"{job}/back", "back"),
            ("HEAD", f"{job}/files/{{sha256}}", "head"),
            ("PUT", f"{job}/files/{{sha256}}", "put"),
            ("GET", f"{base}/files/{{job}}/{{sha256}}", "get"),
        ):
            app.router.add_route(method, path, self._route(name))
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def leave(self) -> None:
        self._boot = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def stop(self, job: str) -> None:
        """Have the worker stop the first start of a job."""
        self._given.pop(job, None)
        self.stops.put_nowait({"job": job, "attempt": 1})

    def runs_one(self) -> bool:
        """Whether the worker has said that it runs a job."""
        return any(ping["holds"] for ping in self.pings)

    def forget(self) -> None:
        """Ask for a hello again, as after a restart."""
        self._boot = None

    def _route(self, name: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.asked.append(name)
            if (instead := self.instead.get(name)) is not None:
                return await instead(request)
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return await answers(401)(request)
            boot = request.headers.get("Comfy-Remote-Boot")
            if name not in ("hello", "get", "head") and boot != self._boot:
                return await answers(409, "who?", "say_hello")(request)
            handler: Handler = getattr(self, f"_{name}")
            return await handler(request)

        return handle

    async def _hello(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        self.hellos.append(said)
        self._boot = said["boot"]
        held = {one["job"] for one in said["holds"]}
        for job in [one for one in self._given if one not in held]:
            self.jobs.put_nowait(self._given.pop(job))  # it never arrived
        return web.json_response({"drop": self.drop})

    async def _take(self, request: web.Request) -> web.StreamResponse:
        try:
            job, attempt, content = await asyncio.wait_for(self.jobs.get(), self.poll_wait)
        except asyncio.TimeoutError:
            return web.Response(status=204)
        self._given[job] = job, attempt, content
        headers = {"Comfy-Remote-Job": f"{job}/{attempt}"}
        return web.Response(body=json.dumps(content).encode(), headers=headers)

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        self.pings.append(await request.json())
        try:
            stop = await asyncio.wait_for(self.stops.get(), self.poll_wait)
        except asyncio.TimeoutError:
            return web.json_response({})
        return web.json_response({"stop": [stop]})

    async def _progress(self, request: web.Request) -> web.StreamResponse:
        self.progress.append((*_job(request), (await request.json())["output"]))
        return web.Response(status=204)

    async def _done(self, request: web.Request) -> web.StreamResponse:
        self._given.pop(request.match_info["job"], None)
        self.results.append((*_job(request), await request.json()))
        return web.json_response({"taken": self.taken})

    async def _back(self, request: web.Request) -> web.StreamResponse:
        self._given.pop(request.match_info["job"], None)
        self.backs.append(request.match_info["job"])
        return web.Response(status=204)

    async def _head(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["sha256"] not in self.files:
            return web.Response(status=404)
        return web.Response(headers={"Comfy-Remote-Job": "/".join(_job(request))})

    async def _put(self, request: web.Request) -> web.StreamResponse:
        content = self.files[request.match_info["sha256"]] = await request.read()
        return web.json_response({"size": len(content)}, status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.files[request.match_info["sha256"]])


def _job(request: web.Request) -> tuple[str, str]:
    return request.match_info["job"], request.match_info["attempt"]
