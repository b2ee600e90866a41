"""The front: RunPod's endpoint API and the workflow's own, in a light container without a GPU."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from ...gateway.access import Access, refusals
from ...gateway.client_routes import client_routes
from ...gateway.endpoint import Endpoint
from ...gateway.listening import listen
from ...media.temporary import TemporaryFolder
from ...net.serving import GuardedRunner
from ...service.server import LARGEST_BODY
from .calls import ModalCalls
from .endpoint import ModalEndpoint
from .notes import Notes, TextDict
from .outputs import OutputVolume
from .service import service_routes

__all__ = ["front_app", "serve_front"]

_PATIENCE = 30.0
_log = logging.getLogger(__name__)


def front_app(
    app_name: str, endpoint: Endpoint, more: Sequence[web.RouteDef] = ()
) -> web.Application:
    """The routes below ``/v2/APP``, and others.

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
        port: The one that ``@modal.web_server`` was told.
        app_name: The endpoint's id.
        workflow: The class whose ``run`` does the jobs; see `ModalCalls`.
        project: The folder with prompt.json.
        notes: The app's Dict.
        outputs: The volume with large outputs.

    Raises:
        ConfigurationError: The port cannot be listened on.
        WorkflowInvalid: prompt.json cannot be served.
    """
    endpoint = ModalEndpoint(ModalCalls(workflow), Notes(notes), outputs)
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
    # Whatever it is: who waits for the front to listen is told why it does not.
    except Exception as error:
        if listening.done():
            _log.exception("the front has ended")
            raise
        listening.set_exception(error)
