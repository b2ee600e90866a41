"""The pack's own routes, all below ``/remote/``: see docs/routes.md.

The page speaks only to these. No answer contains a key.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Annotated

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from ..aio import Background, within
from ..config.cache_settings import CacheMode
from ..config.environment import unused_files
from ..config.folders import shared_values
from ..config.settings import Configuration
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    NotTrusted,
    TargetError,
)
from ..jobs.keep_warm import LONGEST, can_keep_warm
from ..jobs.prices import hour_to_json, known_price
from ..jobs.run_cost import run_cost
from ..json_text import parse_json
from ..media.received_inputs import InputFolder
from ..media.shared_values import SharedValues
from ..targets.base import WaitsForWorkers
from ..targets.kinds import typed_target
from ..targets.opening import open_target
from ..targets.own_command import own_command
from ..version import __version__
from ..workflow.load import parse_prompt, parse_workflow
from ..workflow.schema import Schemas
from .advice import error_json, for_page
from .batch_routes import add_batch_routes
from .batches import PageBatches
from .bring_routes import add_bring_routes
from .bringing import Bringing
from .deploy_routes import add_deploy_routes
from .deploying import Deployments
from .host import Host
from .job_routes import add_job_routes
from .json_route import body_of, check_json, json_route, program_route
from .known_targets import KnownTarget, describe_target, known_targets
from .lane import RemoteLane
from .offload import Offload
from .own_targets import OwnTargets
from .packed import add_packed_route
from .panel_jobs import PanelJobs
from .saved_images import SaveRequest, save_images
from .setup_routes import add_setup_routes, setup_state
from .switch import Switch
from .target_models import choices_there, nodes_there
from .target_pool import TargetPool
from .trusted_targets import check_target, confirm, unconfirmed_address
from .warming import WarmUps, can_warm_up

__all__ = ["routes"]

logger = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds that a target has to answer."""


_Target = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(typed_target)]


class _SwitchRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    client_id: Annotated[str, Field(min_length=1, max_length=200)]
    target: _Target | None
    usual: _Target | None = None
    repo_list: bool = True
    cache: CacheMode | None = None


class _WarmRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    target: _Target
    on: bool = True
    seconds: Annotated[float, Field(gt=0, le=LONGEST)] | None = None


class _AddressRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    target: _Target


class _EstimateRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    target: _Target
    prompt: dict[str, JsonValue]


class _CutRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    client_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    prompt: dict[str, JsonValue]
    workflow: dict[str, JsonValue]
    partial_execution_targets: list[str] | None = None


def routes(
    host: Host,
    switch: Switch,
    pool: TargetPool,
    lane: RemoteLane,
    offload: Offload,
    batches: PageBatches,
    bringing: Bringing,
) -> web.RouteTableDef:
    """The table."""
    table = web.RouteTableDef()
    shared = SharedValues(shared_values())
    inputs = InputFolder(host.folder("input"), shared)
    background = Background()
    warm_ups = WarmUps(pool)
    pool.before_close.append(warm_ups.close)

    @table.get("/remote/status")
    @json_route
    async def status(request: web.Request) -> JsonValue:
        targets = await asyncio.to_thread(_known)
        return {
            "version": __version__,
            "target": switch.target_of(request.query.get("client_id")),
            "targets": [target.to_json() for target in targets],
            "jobs": lane.jobs(),
            "unused": [for_page(one) for one in await asyncio.to_thread(unused_files)],
            "setup": await asyncio.to_thread(setup_state, host, request),
        }

    @table.post("/remote/switch")
    @json_route
    async def set_switch(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _SwitchRequest)
        if wanted.target is not None:
            await asyncio.to_thread(_check_usable, wanted.target)
        switch.set(
            wanted.client_id,
            wanted.target,
            wanted.usual,
            with_repo_list=wanted.repo_list,
            cache=wanted.cache,
        )
        if wanted.target is not None:
            # What the page asks next takes seconds on a ComfyUI with many nodes.
            background.start(_prefetch(pool, wanted.target))
        return {"target": wanted.target}

    @table.get("/remote/targets/{name:.+}")
    @json_route
    async def target_state(request: web.Request) -> JsonValue:
        name = typed_target(request.match_info["name"])
        target = await asyncio.to_thread(
            lambda: describe_target(name, Configuration.load(), os.environ)
        )
        return await _state_of(pool, warm_ups, target)

    @table.post("/remote/warm")
    @json_route
    async def warm(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _WarmRequest)
        if not wanted.on:
            await warm_ups.stop(wanted.target)
        else:
            client = await pool.client(wanted.target)
            if not can_warm_up(client.target):
                raise ConfigurationError(f"{wanted.target} has no workers that could be started.")
            until = None if wanted.seconds is None else time.time() + wanted.seconds
            if until is not None and not can_keep_warm(client.target):
                raise ConfigurationError(f"Workers of {wanted.target} cannot be kept.")
            await warm_ups.start(wanted.target, until)
        return {
            "target": wanted.target,
            "warming": wanted.on,
            "until": warm_ups.until(wanted.target),
        }

    @table.get("/remote/object_info")
    @json_route
    async def object_info(request: web.Request) -> JsonValue:
        name = _required(request, "target")
        there = (await pool.capabilities(name)).nodes
        if there is None:
            # Nothing went wrong: RunPod has no way to ask a worker, short of a job.
            return {"target": name, "known": False, "nodes": {}, "choices": {}}
        here = Schemas(await _own_object_info(request), "this ComfyUI")
        schemas = await pool.schemas(name) or Schemas(there, name)
        # Large: seconds of JSON and lists must not hold up the server's other pages.
        return await asyncio.to_thread(
            lambda: {
                "target": name,
                "known": True,
                "nodes": nodes_there(here, there),
                "choices": choices_there(here, schemas),
            }
        )

    @table.get("/remote/addresses")
    @json_route
    async def address_state(request: web.Request) -> JsonValue:
        target = typed_target(_required(request, "target"))
        address = await asyncio.to_thread(unconfirmed_address, target)
        return {
            "target": target,
            "confirmed": address is None,
            "address": address,
            "command": own_command(),
        }

    @table.post("/remote/addresses")
    @json_route
    async def confirm_address(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _AddressRequest)
        # Only a person in a page may confirm, not a program. Every browser names its page here.
        if "Origin" not in request.headers:
            raise NotTrusted(
                "Only ComfyUI's page can confirm an address.",
                advice="Without the page, add it to allowed_addresses in your own "
                "comfy-remote.toml.",
            )
        return {"confirmed": await asyncio.to_thread(confirm, wanted.target)}

    @table.get("/remote/jobs")
    @json_route
    async def jobs(_request: web.Request) -> JsonValue:
        return {"jobs": lane.jobs()}

    @table.post("/remote/estimate")
    @json_route
    async def estimate(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _EstimateRequest)
        prompt = parse_workflow(wanted.prompt, "The prompt").prompt
        if prompt is None:
            raise ConfigurationError(
                "The prompt is in UI format.", advice="Send what the page posts to /prompt."
            )
        return await run_cost(pool.record, wanted.target, prompt)

    @table.post("/remote/cut")
    @json_route
    async def cut(request: web.Request) -> JsonValue:
        wanted = await body_of(request, _CutRequest)
        prompt = parse_prompt(wanted.prompt, "The prompt")
        found = await offload.cut(
            prompt, wanted.workflow, wanted.client_id, wanted.partial_execution_targets
        )
        return found.to_json()

    @table.post("/remote/save")
    @json_route
    async def save(request: web.Request) -> JsonValue:
        wanted = await body_of(request, SaveRequest)
        saved = await asyncio.to_thread(
            save_images, wanted.images, host.folder("output"), wanted.files
        )
        return {"saved": [*saved]}

    # Answers only whoever has the file already, and so knows its hash.
    @table.get("/remote/inputs/{name:.+}")
    @program_route
    async def has_input(request: web.Request) -> JsonValue:
        name, sha256 = request.match_info["name"], request.query.get("sha256", "")
        return {"there": await inputs.has(name, sha256)}

    @table.put("/remote/inputs/{name:.+}")
    @json_route
    async def put_input(request: web.Request) -> JsonValue:
        name, sha256 = request.match_info["name"], request.query.get("sha256", "")
        return {"name": await inputs.receive(name, sha256, request.content.iter_any())}

    @table.put("/remote/values")
    @json_route
    async def put_value(request: web.Request) -> JsonValue:
        return {"name": await inputs.receive_value(request.content.iter_any())}

    @table.get("/remote/values/{stem}")
    @json_route
    async def has_value(request: web.Request) -> JsonValue:
        return {"there": await inputs.has_value(request.match_info["stem"])}

    @table.post("/remote/values/{stem}")
    @json_route
    async def share_value(request: web.Request) -> JsonValue:
        check_json(request)
        stem, temp = request.match_info["stem"], host.folder("temp")
        return {"there": await asyncio.to_thread(shared.offer, stem, temp)}

    add_job_routes(table, PanelJobs(host, pool, lane), switch)
    own = OwnTargets(pool)
    add_setup_routes(table, host, own, pool, switch)
    add_deploy_routes(table, host, Deployments(pool, own))
    add_batch_routes(table, host, batches)
    add_packed_route(table, host)
    add_bring_routes(table, host, bringing)
    return table


def _known() -> list[KnownTarget]:
    return list(known_targets(Configuration.load(), os.environ))


def _check_usable(target: str) -> None:
    check_target(target)
    open_target(target)  # raises if it means nothing, or its key is missing


async def _prefetch(pool: TargetPool, target: str) -> None:
    try:
        await pool.capabilities(target)
    except ComfyRemoteError as error:
        # The page sees the error when it asks itself.
        logger.info("%s did not say what it has: %s", target, error.message)


async def _state_of(pool: TargetPool, warm_ups: WarmUps, target: KnownTarget) -> JsonValue:
    """The state of a target; an error in asking it is part of the answer."""
    state: dict[str, JsonValue] = {
        "name": target.name,
        "address": target.address,
        "kind": target.speaks,
        "state": "unusable",
        "last_start": None,
        "warm_up": None,
        **hour_to_json(target.hour),
        "health": None,
        "device": None,
        "engine": None,
        "known": None,
        "error": None,
        "advice": None,
    }
    try:
        await within(_ask(pool, warm_ups, target, state), _PATIENCE)
    except asyncio.TimeoutError:
        late = TargetError(f"{target.name} has not answered within {_PATIENCE:.0f} s.")
        state["error"] = late.to_json()
    except ComfyRemoteError as error:
        state["error"] = error_json(error)
        state["advice"] = error.advice or None
    return state


async def _ask(
    pool: TargetPool, warm_ups: WarmUps, target: KnownTarget, state: dict[str, JsonValue]
) -> None:
    client = await pool.client(target.name)
    if target.billing is not None:
        # The next answer has it: no page waits for a provider.
        configuration = await asyncio.to_thread(Configuration.load)
        asking = known_price(target.name, configuration, background=client.background)
        client.background.start(asking)
    health = await client.target.health()
    if health.counted:
        state["health"] = {
            "ready": health.ready,
            "running": health.running,
            "queued": health.queued,
            "starting": health.starting,
            "throttled": health.throttled,
        }
    idle = health.ready == 0 and health.running == 0
    state["state"] = "ready"
    if isinstance(client.target, WaitsForWorkers):
        waiting = warm_ups.waiting(target.name)
        if idle:
            state["advice"] = f"No worker is ready. {client.target.no_worker}"
            quiet = health.queued == 0 and health.starting == 0 and waiting is None
            state["state"] = "asleep" if quiet else "waking"
        learned = warm_ups.took(target.name)
        if learned is None:
            learned = await asyncio.to_thread(pool.record.last_start, target.name)
        state["last_start"] = None if learned is None else round(learned, 1)
        failed = warm_ups.error(target.name)
        if can_warm_up(client.target):
            state["warm_up"] = {
                "seconds": None if waiting is None else round(waiting, 1),
                "error": None if failed is None else error_json(failed),
                "until": warm_ups.until(target.name),
                "can_keep": can_keep_warm(client.target),
            }
    capabilities = await pool.capabilities(target.name)
    state["device"], state["engine"] = capabilities.device, capabilities.engine
    state["known"] = capabilities.nodes is not None


async def _own_object_info(request: web.Request) -> dict[str, JsonValue]:
    """What this server's ``/object_info`` answers; asked without a connection to itself."""
    own = request.clone(method="GET", rel_url="/object_info")
    answer = await (await request.app.router.resolve(own)).handler(own)
    body = answer.body if isinstance(answer, web.Response) else None
    nodes = parse_json(body.decode()) if isinstance(body, bytes) else None
    if not isinstance(nodes, dict):
        raise ConfigurationError("This server does not list its nodes.")
    return nodes


def _required(request: web.Request, name: str) -> str:
    if value := request.query.get(name):
        return value
    raise ConfigurationError(
        f"The query parameter {name} is missing.", advice=f"Add ?{name}=… to the address."
    )
