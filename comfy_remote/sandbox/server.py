"""Starting and stopping a sandbox."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import JsonValue

from ..aio import within
from ..config.own_page import refusal_of_page
from ..media.temporary import TemporaryFolder, remove_leftovers
from ..net.serving import GuardedRunner
from . import file_routes, job_routes, page_routes, prompt_routes
from .engine import ENGINE, Engine, Hooks
from .executor import PromptWorker
from .folders import Folders
from .prompt_queue import PromptQueue
from .sockets import MAX_UPLOAD_BYTES, SocketHub

__all__ = ["SandboxServer", "add_routes"]

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0


class SandboxServer:
    """A sandbox engine that listens, for as long as the context lasts.

    ::

        async with SandboxServer() as server:
            ...  # server.url answers like a ComfyUI

    Raises `OSError` on entry if it cannot listen at the address.

    Args:
        port: 0 for one that is free.
        directory: Holds ``input``, ``output`` and ``temp``; ``None`` for a temporary one.
        idle_exit: Seconds without requests and prompts after which `wait_stopped` returns;
            ``None`` for never.
        own_process: Whether a node may end the process, to simulate a crash.
        extend: Called with the application before it starts, to add to it.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        directory: Path | None = None,
        idle_exit: float | None = None,
        own_process: bool = False,
        extend: Callable[[web.Application], object] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._directory = directory
        self._idle_exit = idle_exit
        self._own_process = own_process
        self._extend = extend
        self._temporary: TemporaryFolder | None = None
        self._requests = 0
        self._last_activity = time.monotonic()
        self.url = ""
        """Base URL while it listens, without a final ``/``."""

    @property
    def directory(self) -> Path:
        """Where ``input``, ``output`` and ``temp`` are."""
        return self._engine.folders.root

    async def __aenter__(self) -> SandboxServer:
        root = self._directory
        if root is None:
            await asyncio.to_thread(remove_leftovers)
            self._temporary = TemporaryFolder("sandbox")
            root = Path(self._temporary.name)
        folders = Folders(root.resolve())
        folders.create()
        sockets = SocketHub(self._status)
        queue = PromptQueue(sockets.send_status)
        hooks = Hooks()
        self._engine = Engine(folders, hooks, queue, sockets, asyncio.Event())
        self._worker = PromptWorker(queue, sockets, folders, hooks, own_process=self._own_process)
        self._worker.start()
        self._runner = GuardedRunner(self._app(), shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self.__aexit__()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.info("The sandbox listens at %s", self.url)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._engine.queue.close()
        await self._engine.sockets.close()
        await self._runner.cleanup()
        await asyncio.to_thread(self._worker.join, _STOP_SECONDS)
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.cleanup)
            self._temporary = None
        self.url = ""

    async def wait_stopped(self) -> None:
        """Return after ``POST /sandbox/stop``, or when it was idle for long enough."""
        stop = self._engine.stop
        while not stop.is_set():
            left = self._seconds_left()
            if left is not None and left <= 0:
                logger.info("The sandbox was not used for %s s", self._idle_exit)
                return
            try:
                await within(stop.wait(), left)
            except asyncio.TimeoutError:
                continue

    def _seconds_left(self) -> float | None:
        if self._idle_exit is None:
            return None
        if self._requests or self._engine.queue.remaining():
            self._last_activity = time.monotonic()
        return self._last_activity + self._idle_exit - time.monotonic()

    def _status(self) -> dict[str, JsonValue]:
        return {"exec_info": {"queue_remaining": self._engine.queue.remaining()}}

    def _app(self) -> web.Application:
        app = web.Application(
            client_max_size=MAX_UPLOAD_BYTES,
            middlewares=[self._note_activity, _refuse_other_pages],
        )
        app[ENGINE] = self._engine
        add_routes(app, prompt_routes.routes, file_routes.routes, job_routes.routes)
        if self._extend is not None:
            self._extend(app)
        # After what was added: whoever serves a page has scripts of its own.
        add_routes(app, page_routes.routes)
        return app

    @web.middleware
    async def _note_activity(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._requests += 1
        try:
            return await handler(request)
        finally:
            self._requests -= 1
            self._last_activity = time.monotonic()


def add_routes(app: web.Application, *tables: web.RouteTableDef) -> None:
    """Add routes at their paths and below ``/api``, as ComfyUI has all of its own."""
    for table in tables:
        for route in table:
            if isinstance(route, web.RouteDef):
                for prefix in ("", "/api"):
                    app.router.add_route(route.method, prefix + route.path, route.handler)


@web.middleware
async def _refuse_other_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a request that another site's page may have made.

    Stricter than ComfyUI, which compares the origin only where it is asked for as localhost.
    """
    refused = await refusal_of_page(request.method, request.headers)
    if refused is not None:
        logger.warning("Refused a request. %s", refused)
        return web.Response(status=403, text=f"{refused.message} {refused.advice}")
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)
