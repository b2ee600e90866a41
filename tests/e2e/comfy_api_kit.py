"""Fronts that serve Comfy API v2, in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetStore
from comfy_remote.api.event_routes import StreamLimits, event_routes
from comfy_remote.api.job_routes import job_routes
from comfy_remote.api.jobs import ApiJobs
from comfy_remote.api.server import ApiServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record

KEY = "0123456789abcdef"


@dataclass(frozen=True)
class Front:
    """What serves, and what is behind it."""

    url: str
    client: Client
    assets: AssetStore
    jobs: ApiJobs


@asynccontextmanager
async def served(
    target: str,
    folder: Path,
    *,
    token: SecretStr | None = None,
    streams: int | None = None,
    **arguments: Any,
) -> AsyncIterator[Front]:
    """A front of a target, for as long as the context lasts.

    Args:
        folder: Of its record and its assets: the next front there is the same one.
        streams: Event streams at a time; ``None`` for as many as there are by default.
        arguments: Of `ApiJobs`.
    """
    folder.mkdir(exist_ok=True)
    limits = StreamLimits() if streams is None else StreamLimits(streams=streams)
    with Record(folder / "home") as record:
        client = Client(target, record=record, on_interrupt=None)
        store = AssetStore(folder / "assets")
        async with client, store, ApiJobs(client, store, "tests", **arguments) as jobs:
            routes = [*job_routes(jobs), *asset_routes(store), *event_routes(jobs.live, limits)]
            async with ApiServer(routes, token=token) as server:
                yield Front(server.url, client, store, jobs)
