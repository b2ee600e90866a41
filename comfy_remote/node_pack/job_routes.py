"""The routes by which the panel shows jobs, stops them and runs them again: see docs/routes.md."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .json_route import body_of, check_json, json_route
from .middleware import Peers
from .panel_jobs import PanelJobs
from .switch import Switch

__all__ = ["add_job_routes"]

_USUAL, _MOST = 10, 500


class _ByRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    client_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class _NameRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=200)]


def add_job_routes(table: web.RouteTableDef, jobs: PanelJobs, switch: Switch) -> None:
    """Add them to the table of the pack's routes."""

    @table.get("/remote/jobs/recent")
    @json_route
    async def recent(request: web.Request) -> JsonValue:
        try:
            limit = int(request.query.get("limit", _USUAL))
        except ValueError:
            limit = _USUAL
        return await jobs.recent(max(0, min(limit, _MOST)))

    @table.get("/remote/jobs/{prompt_id}")
    @json_route
    async def details(request: web.Request) -> JsonValue:
        return await jobs.details(request.match_info["prompt_id"])

    @table.post("/remote/jobs/cancel")
    @json_route
    async def cancel_all(request: web.Request) -> JsonValue:
        return await jobs.cancel_all((await body_of(request, _ByRequest)).client_id)

    @table.post("/remote/jobs/{prompt_id}/cancel")
    @json_route
    async def cancel(request: web.Request) -> JsonValue:
        check_json(request)
        await jobs.cancel(request.match_info["prompt_id"])
        return {"cancelled": request.match_info["prompt_id"]}

    @table.post("/remote/jobs/{prompt_id}/again")
    @json_route
    async def run_again(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _ByRequest)
        return await jobs.run_again(
            request.match_info["prompt_id"],
            wanted.client_id,
            Peers.of(request),
            over_cap=switch.take_over_cap(wanted.client_id),
        )

    @table.post("/remote/jobs/{prompt_id}/name")
    @json_route
    async def name(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _NameRequest)
        return {"named": jobs.name(request.match_info["prompt_id"], wanted.name)}
