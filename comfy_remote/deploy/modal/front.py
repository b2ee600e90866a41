"""The front: RunPod's endpoint API and the workflow's own, in a light container without a GPU.

The calls of the workflow's own API are jobs of the endpoint, which it reaches at loopback as any
client does. Their keys and results are in the front's container, so there is only one front:
`workflow.py` says so. A container that ends takes them along; the jobs' own results stay at Modal.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from ...calls.store import ValueStore
from ...calls.workflow import CallableWorkflow
from ...gateway.access import Access, RouteHandler, other_page_refusal, refusals
from ...gateway.client_routes import client_routes
from ...gateway.endpoint import Endpoint
from ...gateway.listening import listen
from ...jobs.client import Client
from ...jobs.record import Record
from ...media.temporary import TemporaryFolder
from ...net.serving import GuardedRunner
from ...service import Calls, ServiceServer
from ...service.results import ResultStore
from ...service.server import LARGEST_BODY, say_protocol
from ...targets.modal import modal_target
from ...workflow.load import load_workflow
from .calls import ModalCalls
from .config import CONFIG_FILE, ModalConfig
from .endpoint import ModalEndpoint
from .notes import Notes, TextDict
from .outputs import OutputVolume
from .project import PROMPT_FILE

__all__ = ["front_app", "serve_front"]

_PATIENCE = 30.0
_log = logging.getLogger(__name__)


def front_app(
    app_name: str, endpoint: Endpoint, more: Sequence[web.RouteDef] = ()
) -> web.Application:
    """The routes below ``/v2/APP``, and others.

    Modal has checked whoever reaches them (``requires_proxy_auth``).
    """
    access = Access(
        endpoint_id=app_name,
        client_token=None,
        # There are no routes for workers: Modal brings them their jobs.
        worker_token=SecretStr(secrets.token_urlsafe(32)),
        limits=endpoint.limits,
        behind_proxy=True,
    )
    app = web.Application(middlewares=[refusals], client_max_size=LARGEST_BODY)
    app.add_routes([*client_routes(endpoint, access), *more])
    return app


def serve_front(
    port: int,
    app_name: str,
    workflow: Any,
    *,
    project: Path,
    notes: TextDict,
    outputs: OutputVolume,
) -> None:
    """Serve an app's front, from a thread of its own. Returns once it listens.

    Args:
        port: The same as in ``@modal.web_server``.
        workflow: The class whose ``run`` does the jobs; see `ModalCalls`.

    Raises:
        ConfigurationError: The port cannot be listened on.
        WorkflowInvalid: prompt.json cannot be served.
    """
    config = ModalConfig.read(project / CONFIG_FILE)
    endpoint = ModalEndpoint(
        *(ModalCalls(workflow), Notes(notes), outputs, config.scaledown_window, config.hardware)
    )
    listening: Future[None] = Future()
    serving = _serve(port, app_name, endpoint, project, listening)
    threading.Thread(target=asyncio.run, args=(serving,), name="front", daemon=True).start()
    listening.result(_PATIENCE)


async def _serve(
    port: int, app_name: str, endpoint: Endpoint, project: Path, listening: Future[None]
) -> None:
    try:
        with TemporaryFolder("front") as folder:
            async with service_routes(app_name, project, port, Path(folder)) as more:
                runner = GuardedRunner(front_app(app_name, endpoint, more))
                await runner.setup()
                # Modal looks for the server at the container's own address, not at loopback.
                await listen(runner, "0.0.0.0", port, None)  # noqa: S104
                listening.set_result(None)
                _log.info("the front of %s listens on port %d", app_name, port)
                await asyncio.Event().wait()
    # Whatever it is: who waits for the front to listen has to learn why it does not.
    except Exception as error:
        if listening.done():
            _log.exception("the front has ended")
            raise
        listening.set_exception(error)


@asynccontextmanager
async def service_routes(
    app_name: str, project: Path, port: int, folder: Path
) -> AsyncIterator[list[web.RouteDef]]:
    """The routes of the project's workflow; none if it has no Remote Output.

    Modal has checked whoever reaches them. The routes work while the context is open.

    Args:
        port: Where the endpoint is, at loopback.
        folder: For results, and for the values that callers send.

    Raises:
        WorkflowInvalid: Its keys cannot be used.
    """
    prompt = load_workflow(project / PROMPT_FILE).prompt or {}
    served = replace(CallableWorkflow.of_prompt(prompt), name=app_name, base=project)
    if not served.interface.outputs:
        yield []
        return
    target = modal_target(app_name, {}, url=f"http://127.0.0.1:{port}")
    with Record(folder) as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            calls = Calls(client, served, ResultStore(folder / "results"))
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
        refused = other_page_refusal(request, named_here_only=False)
        response = refused if refused is not None else await handler(request)
        if not response.prepared:
            await say_protocol(request, response)
        return response

    return web.RouteDef(route.method, route.path, guarded, route.kwargs)
