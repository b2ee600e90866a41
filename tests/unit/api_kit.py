"""A front of the served Comfy API in the test's process, on any target."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetLimits, AssetStore
from comfy_remote.api.event_routes import event_routes
from comfy_remote.api.job_routes import job_routes
from comfy_remote.api.jobs import ApiJobs
from comfy_remote.api.server import ApiServer
from comfy_remote.api.times import ApiTimes
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import Target

QUICK = ApiTimes(again=0.05, search=0.2, settle=0.05)
LIMITS = AssetLimits()
PROMPT: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


@dataclass
class Answer:
    """What a server has answered."""

    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


@dataclass
class Front:
    """A front that runs, and a client of it."""

    jobs: ApiJobs
    assets: AssetStore
    record: Record
    url: str
    http: aiohttp.ClientSession = field(repr=False)

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        async with self.http.request(method, f"{self.url}{path}", **more) as response:
            json = response.content_type == "application/json"
            body = await response.json() if json else await response.read()
            return Answer(response.status, body, response.headers)

    async def post(self, workflow: Any = None, *, key: str | None = None, **more: Any) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"workflow": PROMPT if workflow is None else workflow, **more}
        return await self.ask("POST", "/jobs", json=body, headers=headers)

    async def ended(self, job_id: str) -> dict[str, Any]:
        """A job once its stream of events has ended."""
        async with self.http.get(f"{self.url}/jobs/{job_id}/events") as response:
            assert response.status == 200, await response.text()
            async for _ in response.content:
                pass
        job: dict[str, Any] = (await self.ask("GET", f"/jobs/{job_id}")).body
        return job

    async def content(self, output: dict[str, Any]) -> bytes:
        async with self.http.get(output["url"]) as response:
            assert response.status == 200
            return await response.read()


@asynccontextmanager
async def front(
    folder: Path,
    target: Target | str,
    *,
    times: ApiTimes = QUICK,
    limits: AssetLimits = LIMITS,
    name: str = "test",
    now: Callable[[], float] = time.time,
    **more: Any,
) -> AsyncIterator[Front]:
    """A front whose record and store are below a folder: the next one there goes on."""
    with Record(folder / "home") as record:
        async with (
            Client(target, record=record, on_interrupt=None) as client,
            AssetStore(folder / "assets", limits, now=now) as assets,
            ApiJobs(client, assets, name, times=times, now=now, **more) as jobs,
        ):
            routes: list[web.RouteDef] = [
                *job_routes(jobs),
                *asset_routes(assets),
                *event_routes(jobs.live),
            ]
            async with ApiServer(routes) as server, aiohttp.ClientSession() as http:
                url = f"{server.url.rstrip('/')}/api/v2"
                yield Front(jobs, assets, record, url, http)
