"""The workflow of an app as an HTTP API of its own, beside the endpoint in the app's front.

Its calls are jobs of the endpoint, which it reaches at loopback as any client would. What it
keeps of calls (their keys, their results) is in the front's container, so there is one front
only: `workflow.py` says so. A container that has ended takes that along; the jobs' own results
stay at Modal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from ...calls.store import ValueStore
from ...calls.workflow import CallableWorkflow
from ...gateway.access import RouteHandler, foreign_page
from ...jobs.client import Client
from ...jobs.record import Record
from ...service import Calls, ServiceServer
from ...service.results import ResultStore
from ...service.server import say_protocol
from ...targets.modal import ModalTarget
from ...workflow.interface import Interface
from ...workflow.load import load_workflow
from ...workflow.schema import Schemas
from .project import PROMPT_FILE

__all__ = ["service_routes"]


@asynccontextmanager
async def service_routes(
    app_name: str, project: Path, port: int, folder: Path
) -> AsyncIterator[list[web.RouteDef]]:
    """The routes of the project's workflow; none if it has no Remote Output.

    Whoever gets to them has been let in by Modal. They may be called inside.

    Args:
        app_name: The endpoint's id.
        project: The folder with prompt.json.
        port: Where the endpoint is, at loopback.
        folder: Where results and the values that callers send are kept.

    Raises:
        WorkflowInvalid: Its keys cannot be used.
    """
    loaded = load_workflow(project / PROMPT_FILE)
    prompt = loaded.prompt or {}
    schemas = Schemas.bundled()
    interface = Interface.of(prompt, schemas)
    if not interface.outputs:
        yield []
        return
    served = CallableWorkflow(app_name, prompt, interface, schemas, None, project)
    target = ModalTarget(app_name, {}, url=f"http://127.0.0.1:{port}")
    with Record(folder) as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            calls = Calls(client, record, served, ResultStore(folder / "results"))
            server = ServiceServer(calls, ValueStore(folder / "values"))
            async with calls:
                sweeping = asyncio.ensure_future(server.sweep())
                try:
                    yield [_guarded(route) for route in server.routes()]
                finally:
                    sweeping.cancel()
                    await asyncio.gather(sweeping, return_exceptions=True)


def _guarded(route: web.RouteDef) -> web.RouteDef:
    handler: RouteHandler = route.handler

    async def guarded(request: web.Request) -> web.StreamResponse:
        refused = foreign_page(request, named_here_only=False)
        response = refused if refused is not None else await handler(request)
        if not response.prepared:
            await say_protocol(request, response)
        return response

    return web.RouteDef(route.method, route.path, guarded, route.kwargs)
