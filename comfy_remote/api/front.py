"""A target behind Comfy API v2: its client, its assets and its jobs, opened and closed together."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import SecretStr

from ..config.folders import home
from ..errors import ConfigurationError
from ..gateway.access import RouteHandler
from ..jobs.client import Client
from .asset_routes import asset_routes
from .assets import AssetStore
from .event_routes import event_routes
from .job_routes import job_routes
from .jobs import ApiJobs
from .server import api_application, guard
from .times import ApiTimes

__all__ = ["ApiFront", "front_folder", "front_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ApiFront:
    """What one address of the API serves. Used as an asynchronous context manager::

        client = Client("runpod:abc123", on_interrupt=None)
        async with ApiFront(client, "desk", folder) as front, ApiServer(front.routes()):
            ...

    Jobs go on when it ends; the next front of that name and folder follows them.

    Args:
        client: Not open yet, and made with ``on_interrupt=None``. It is opened and closed here.
        name: Of the front: two with one record of jobs have two names.
        folder: Where its assets are.
        keep: Seconds after its end for which a job, and what it made, stay at least.
        partner_keys: Whether a caller's key for partner nodes may be passed on to the target.

    Attributes:
        used_before: Whether a front had this folder before: its jobs may have to be followed.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        folder: Path,
        *,
        keep: float = 24 * 3600.0,
        partner_keys: bool = False,
    ) -> None:
        self.client = client
        self.used_before = folder.exists()
        self.assets = AssetStore(folder)
        times = ApiTimes(retention=keep)
        self.jobs = ApiJobs(client, self.assets, name, partner_keys=partner_keys, times=times)
        self._open = AsyncExitStack()
        self._opening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ApiFront:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open it, unless it is open."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._all())
        opening = self._opening
        try:
            # Whoever asked first may hang up.
            await asyncio.shield(opening)
        except Exception:
            if self._opening is opening:
                self._opening = None  # the next one tries again
            raise

    async def close(self) -> None:
        """Close it, if it is open."""
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._open.aclose()

    async def _all(self) -> None:
        async with AsyncExitStack() as opened:
            for one in (self.client, self.assets, self.jobs):
                await opened.enter_async_context(one)
            self._open = opened.pop_all()

    def routes(self) -> list[web.RouteDef]:
        """The routes below ``/api/v2``, without a guard."""
        return [
            *job_routes(self.jobs),
            *event_routes(self.jobs.live),
            *asset_routes(self.assets),
        ]

    def application(self, token: SecretStr | None) -> web.Application:
        """The API for another server's application, with a guard: it is opened when it is used."""
        return api_application(self.routes(), [guard(token), self._opened()])

    def _opened(self) -> Middleware:
        @web.middleware
        async def opened(request: web.Request, handler: RouteHandler) -> web.StreamResponse:
            await self.open()
            return await handler(request)

        return opened


def front_name(target: str, given: str | None = None) -> str:
    """What a front is called: as given, or after its target.

    Raises:
        ConfigurationError: That is no name for it.
    """
    name = given or re.sub(r"[^A-Za-z0-9._-]+", "-", target).strip("-._")[:64] or "target"
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a front.",
            advice="Use 1 to 64 letters, digits, - and _.",
        )
    return name


def front_folder(name: str) -> Path:
    """Where the assets of a front of that name are."""
    return home() / "api" / name
