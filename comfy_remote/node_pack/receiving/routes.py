"""The routes by which something is brought here; `wire.receiving` has them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import ValidationError

from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    WorkflowInvalid,
)
from ...json_text import parse_json, problems_in
from ...net.signed import CHALLENGE, SignedRequests
from ...types import JsonValue
from ...version import __version__
from ...wire.models import MODEL_ACTIONS
from ...wire.nodes import NODE_ACTIONS
from ...wire.receiving import (
    INSTALLED,
    RECEIVING,
    Hello,
    InstalledAnswer,
    JobState,
    Since,
)
from ..host import Host
from .guard import ReceivingGuard
from .jobs import ReceivingJob, ReceivingJobs, Times
from .settings import ReceivingSettings

if TYPE_CHECKING:
    from .models import ReceivedModels
    from .nodes import ReceivedNodes

__all__ = ["Receiving"]

_ID = re.compile(r"[0-9a-f]{32}")
_Route = Callable[[web.Request], Awaitable[JobState | Hello]]


class Receiving:
    """What is brought to this ComfyUI.

    Args:
        settings: What its owner allows.
    """

    def __init__(
        self,
        host: Host,
        settings: ReceivingSettings,
        times: Times = Times(),  # noqa: B008 - frozen
    ) -> None:
        self._host = host
        self._settings = settings
        signed = SignedRequests(settings.token) if settings.token is not None else None
        self._guard = ReceivingGuard(signed)
        self._jobs = ReceivingJobs(self._do, times)
        self._models: ReceivedModels | None = None
        self._nodes: ReceivedNodes | None = None
        self._cwd = Path.cwd()
        self._started = time.time()  # what is changed later, ComfyUI has not imported

    async def close(self) -> None:
        """End what is under way."""
        await self._jobs.close()

    def add_routes(self, table: web.RouteTableDef) -> None:
        """Add them to the table of the pack's routes."""
        jobs = f"/{RECEIVING}/jobs/{{job}}"

        @table.get(f"/{RECEIVING}")
        @_answered
        async def hello(request: web.Request) -> Hello:
            await self._guard.check_asker(request)
            models = self._library()
            nodes = self._packs()
            takes = await asyncio.to_thread(lambda: models.library.takes) if models else []
            packs, no_packs = ([], "") if nodes is None else await nodes.takes()
            return Hello(
                version=__version__,
                takes_models=takes,
                takes_nodes=packs,
                no_nodes=no_packs,
                token=self._settings.token is not None,
                challenge=self._guard.challenge,
            )

        @table.post(jobs)
        @_answered
        async def begin(request: web.Request) -> JobState:
            payload = _object(await self._guard.body(request))
            return await self._jobs.begin(_job_id(request), payload).since(0)

        @table.post(f"{jobs}/wait")
        @_answered
        async def wait(request: web.Request) -> JobState:
            body = await self._guard.body(request)
            try:
                seen = Since.model_validate_json(body)
            except ValidationError as error:
                raise ConfigurationError(
                    f"The request is not valid: {problems_in(error, 'it')}."
                ) from None
            return await self._jobs.job(_job_id(request)).since(seen.number)

        @table.post(f"{jobs}/cancel")
        @_answered
        async def cancel(request: web.Request) -> JobState:
            await self._guard.body(request)
            job = self._jobs.job(_job_id(request))
            job.cancel()
            return job.state

        @table.put(f"{jobs}/parts/{{sha256}}")
        @_answered
        async def part(request: web.Request) -> JobState:
            sha256 = request.match_info["sha256"]
            chunks = await self._guard.part(request, sha256)
            return await self._jobs.job(_job_id(request)).receive(sha256, chunks)

    def _library(self) -> ReceivedModels | None:
        if self._models is None and self._settings.models is not None:
            from .models import ReceivedModels

            self._models = ReceivedModels(self._settings.models, self._host.models_folder())
        return self._models

    def _packs(self) -> ReceivedNodes | None:
        program = self._host.program()
        if self._nodes is None and self._settings.nodes is not None and program is not None:
            from ...worker.nodes.program import ComfyUIProgram
            from .nodes import ReceivedNodes

            self._nodes = ReceivedNodes(self._settings.nodes, ComfyUIProgram(*program, self._cwd))
        return self._nodes

    async def _do(self, payload: dict[str, JsonValue], job: ReceivingJob) -> JsonValue:
        action = str(payload.get("action"))
        if action == INSTALLED:
            found = await self._installed()
            return found.model_dump(mode="json")
        models = self._library()
        if action in MODEL_ACTIONS and models is not None:
            return await models.act(payload, job)
        nodes = self._packs()
        if action in NODE_ACTIONS and nodes is not None:
            return await nodes.act(payload, job)
        raise WorkflowInvalid(
            f"This ComfyUI does not do {action[:100]!r} for others.",
            advice="Its owner has not allowed it, or its Comfy Remote is older.",
        )

    async def _installed(self) -> InstalledAnswer:
        from ...worker.packs import installed_packs, packs_in

        folders, nodes = self._host.pack_folders(), self._packs()

        def packs() -> InstalledAnswer:
            names = packs_in(folders)
            found = installed_packs(names, folders, unchanged_since=self._started)
            ours = nodes.running() if nodes is not None else frozenset()
            brought = [one.model_copy(update={"brought": one.name in ours}) for one in found]
            return InstalledAnswer(packs=brought)

        answer = await asyncio.to_thread(packs)
        if (models := self._library()) is not None:
            listed = await models.library.models()
            answer = answer.model_copy(update={"models": listed.models})
        return answer


def _answered(route: _Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for aiohttp; a `ComfyRemoteError` is answered with its status and its JSON."""

    @wraps(route)
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            found = await route(request)
        except ComfyRemoteError as error:
            # 401 asks for a signature; no other request would be answered either.
            refused = isinstance(error, AuthenticationError) and CHALLENGE not in error.details
            status = 403 if refused else error.http_status
            return web.json_response({"error": error.to_json()}, status=status)
        return web.json_response(found.model_dump(mode="json"))

    return handler


def _job_id(request: web.Request) -> str:
    job_id = request.match_info["job"]
    if not _ID.fullmatch(job_id):
        raise ConfigurationError("A job's id has 32 lower-case hex digits.")
    return job_id


def _object(body: bytes) -> dict[str, JsonValue]:
    try:
        found = parse_json(body.decode())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError("The request's body is not a JSON object.")
    return found
