"""The routes by which the page brings models to a target: see docs/routes.md.

Whoever may set up targets may: models are sent from here, with the owner's keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .bringing import Bringing, PlanRequest
from .host import Host
from .json_route import body_of, check_json, json_route, lines_route
from .setup_routes import check_owner, is_owners

__all__ = ["add_bring_routes"]

_MOST = 5000


class _StartRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: Annotated[str, Field(min_length=1, max_length=200)]
    steps: Annotated[list[int], Field(max_length=_MOST)]


def add_bring_routes(table: web.RouteTableDef, host: Host, bringing: Bringing) -> None:
    """Add them to the table of the pack's routes."""

    def check(request: web.Request) -> None:
        check_owner(request, host, "bring models to a target", "sync")

    @table.get("/remote/bring")
    @json_route
    async def shown(request: web.Request) -> JsonValue:
        return bringing.to_json() if is_owners(request, host) else {"bringing": []}

    @table.post("/remote/bring/plan")
    @lines_route
    async def plan(request: web.Request) -> AsyncIterator[JsonValue]:
        check(request)
        async for line in bringing.plan(await body_of(request, PlanRequest)):
            yield line

    @table.post("/remote/bring")
    @json_route
    async def start(request: web.Request) -> JsonValue:
        check(request)
        wanted = await body_of(request, _StartRequest)
        return await bringing.start(wanted.plan, wanted.steps)

    @table.post("/remote/bring/{id}/stop")
    @json_route
    async def stop(request: web.Request) -> JsonValue:
        check(request)
        check_json(request)
        return await bringing.stop(request.match_info["id"])

    @table.delete("/remote/bring/{id}")
    @json_route
    async def forget(request: web.Request) -> JsonValue:
        check(request)
        check_json(request)
        await bringing.forget(request.match_info["id"])
        return {"forgotten": request.match_info["id"]}
