"""The front: RunPod's endpoint API over HTTP, in a light container without a GPU."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from concurrent.futures import Future
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from ...errors import ConfigurationError
from ...gateway.access import Access, refusals
from ...gateway.client_routes import client_routes
from ...gateway.endpoint import Endpoint
from .calls import ModalCalls
from .endpoint import ModalEndpoint
from .notes import Notes, TextDict
from .outputs import OutputVolume

__all__ = ["front_app", "serve_front"]

_PATIENCE = 30.0
_log = logging.getLogger(__name__)


def front_app(app_name: str, endpoint: Endpoint) -> web.Application:
    """The routes below ``/v2/APP``.

    Whoever gets here has been let in by Modal (``requires_proxy_auth``).
    """
    access = Access(
        endpoint_id=app_name,
        client_token=None,
        # There are no routes for workers: Modal brings them their jobs.
        worker_token=SecretStr(secrets.token_urlsafe(32)),
        limits=endpoint.limits,
        behind_proxy=True,
    )
    app = web.Application(middlewares=[refusals])
    app.add_routes(client_routes(endpoint, access))
    return app


def serve_front(
    port: int, app_name: str, workflow: Any, *, notes: TextDict, outputs: OutputVolume
) -> None:
    """Serve an app's front, from a thread of its own. Returns once it listens.

    Args:
        port: The one that ``@modal.web_server`` was told.
        app_name: The endpoint's id.
        workflow: The class whose ``run`` does the jobs; see `ModalCalls`.
        notes: The app's Dict.
        outputs: The volume with large outputs.

    Raises:
        ConfigurationError: The port cannot be listened on.
    """
    endpoint = ModalEndpoint(ModalCalls(workflow), Notes(notes), outputs)
    listening: Future[None] = Future()
    threading.Thread(
        target=_serve, args=(port, app_name, endpoint, listening), name="front", daemon=True
    ).start()
    try:
        listening.result(_PATIENCE)
    except OSError as error:
        raise ConfigurationError(
            f"The front cannot listen on port {port}: {error}.", advice="Choose another PORT."
        ) from error


def _serve(port: int, app_name: str, endpoint: Endpoint, listening: Future[None]) -> None:
    async def serve() -> None:
        runner = web.AppRunner(front_app(app_name, endpoint), access_log=None)
        await runner.setup()
        try:
            # Modal looks for the server at the container's own address, not at loopback.
            await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104
        except OSError as error:
            listening.set_exception(error)
            return
        listening.set_result(None)
        _log.info("the front of %s listens on port %d", app_name, port)
        await asyncio.Event().wait()

    asyncio.run(serve())
