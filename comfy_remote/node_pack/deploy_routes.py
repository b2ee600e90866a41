"""The routes by which the page makes and removes endpoints at RunPod: see docs/routes.md.

Only ComfyUI's own page may use them, and where people share a ComfyUI, only its owner's.
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from .deploy_form import DeployForm
from .deploying import Deployments
from .host import Host
from .json_route import body_of, check_json, json_route
from .setup_routes import check_keys, check_owner

__all__ = ["add_deploy_routes"]


class _OptionsRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, Field(max_length=8192)] | None = None
    workflow: Annotated[str, Field(max_length=1000)] = ""
    prompt: dict[str, JsonValue] | None = None


class _RemovalRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200)]
    with_volume: bool = False


class _StartRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: Annotated[str, Field(max_length=100)]


def add_deploy_routes(table: web.RouteTableDef, host: Host, deployments: Deployments) -> None:
    """Add them to the table of the pack's routes."""

    @table.post("/remote/deploy/runpod/options")
    @json_route
    async def options(request: web.Request) -> JsonValue:
        check_owner(request, host)
        wanted = await body_of(request, _OptionsRequest)
        check_keys(request, [wanted.key])
        return await deployments.options(wanted.key, wanted.workflow, wanted.prompt)

    @table.post("/remote/deploy/runpod/plan")
    @json_route
    async def plan(request: web.Request) -> JsonValue:
        check_owner(request, host)
        return await deployments.plan(await body_of(request, DeployForm))

    @table.post("/remote/deploy/runpod/removal")
    @json_route
    async def plan_removal(request: web.Request) -> JsonValue:
        check_owner(request, host)
        wanted = await body_of(request, _RemovalRequest)
        return await deployments.plan_removal(wanted.name, with_volume=wanted.with_volume)

    @table.post("/remote/deploy/runpod/start")
    @json_route
    async def start(request: web.Request) -> JsonValue:
        check_owner(request, host)
        return deployments.start((await body_of(request, _StartRequest)).plan)

    @table.post("/remote/deploy/runpod/state")
    @json_route
    async def state(request: web.Request) -> JsonValue:
        check_owner(request, host)
        check_json(request)
        return await deployments.state()
