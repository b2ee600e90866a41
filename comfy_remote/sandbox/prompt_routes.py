"""HTTP: prompts, the queue, the history, and what the engine is."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from aiohttp import web
from pydantic import JsonValue

from ..version import __version__
from ..workflow.check.rules import node_error
from ..workflow.prompt import Prompt
from .body import Trouble, posted_keys, posted_object
from .engine import ENGINE
from .nodes import NODES
from .prompt_queue import QueuedPrompt
from .sockets import SERVER_FEATURES
from .validation import validate_prompt

__all__ = ["MODELLED_ON", "routes"]

MODELLED_ON = "0.33.0"
"""The ComfyUI version whose API this is."""

# ComfyUI keeps these away from the queue and the history. The sandbox has no use for them.
_SENSITIVE = ("auth_token_comfy_org", "api_key_comfy_org")

routes = web.RouteTableDef()


@routes.post("/prompt")
async def post_prompt(request: web.Request) -> web.Response:
    """Check a prompt and queue it."""
    engine = request.app[ENGINE]
    body = await posted_keys(request)
    number = _number(body, engine.queue.next_number)
    if "prompt" not in body:
        return _refused("no_prompt", "No prompt provided", "No prompt provided")
    for change in engine.hooks.prompts:
        body = change(body)
    prompt_id = body.get("prompt_id")
    if prompt_id is None:
        prompt_id = str(uuid.uuid4())
    elif not isinstance(prompt_id, str) or not _is_canonical_uuid(prompt_id):
        return _refused(
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
            "omit it to let the server generate one",
        )
    prompt = _prompt(body["prompt"])
    targets = body.get("partial_execution_targets")
    validated = validate_prompt(
        prompt, engine.folders, [*map(str, targets)] if isinstance(targets, list) else None
    )
    extra = body.get("extra_data", {})
    if not isinstance(extra, dict):
        raise Trouble
    if validated.error is not None:
        return web.json_response(validated.to_json(), status=400)
    extra_data: dict[str, JsonValue] = dict(extra)
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    for key in _SENSITIVE:
        extra_data.pop(key, None)
    extra_data["create_time"] = int(time.time() * 1000)
    engine.queue.put(
        QueuedPrompt(number, prompt_id, validated.prompt, extra_data, validated.outputs)
    )
    return web.json_response(
        {"prompt_id": prompt_id, "number": number, "node_errors": validated.node_errors}
    )


@routes.get("/prompt")
async def get_prompt(request: web.Request) -> web.Response:
    """The length of the queue."""
    remaining = request.app[ENGINE].queue.remaining()
    return web.json_response({"exec_info": {"queue_remaining": remaining}})


@routes.get("/queue")
async def get_queue(request: web.Request) -> web.Response:
    """What runs and what waits."""
    running, waiting = request.app[ENGINE].queue.snapshot()
    return web.json_response(
        {
            "queue_running": [item.to_json() for item in running],
            "queue_pending": [item.to_json() for item in waiting],
        }
    )


@routes.post("/queue")
async def post_queue(request: web.Request) -> web.Response:
    """``{"clear": true}`` or ``{"delete": [prompt ids]}``: drop what waits."""
    queue = request.app[ENGINE].queue
    return await _clear_or_delete(request, queue.clear, queue.delete)


@routes.get("/history")
async def get_history(request: web.Request) -> web.Response:
    """All that has run, or ``max_items`` of it from ``offset`` on."""
    try:
        most = request.query.get("max_items")
        max_items = None if most is None else int(most)
        offset = int(request.query.get("offset", "-1"))
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    history = request.app[ENGINE].queue.history(max_items=max_items, offset=offset)
    return web.json_response(history)


@routes.get("/history/{prompt_id}")
async def get_history_of_prompt(request: web.Request) -> web.Response:
    """``{prompt id: entry}``, or ``{}`` while it has not run."""
    queue = request.app[ENGINE].queue
    return web.json_response(queue.history(request.match_info["prompt_id"]))


@routes.post("/history")
async def post_history(request: web.Request) -> web.Response:
    """``{"clear": true}`` or ``{"delete": [prompt ids]}``: forget what has run."""
    queue = request.app[ENGINE].queue
    return await _clear_or_delete(request, queue.clear_history, queue.delete_history)


@routes.post("/interrupt")
async def post_interrupt(request: web.Request) -> web.Response:
    """Stop what runs; with ``{"prompt_id"}``, only if it is that prompt."""
    body = await posted_object(request) if await _is_json(request) else {}
    prompt_id = body.get("prompt_id")
    request.app[ENGINE].queue.interrupt_running(str(prompt_id) if prompt_id else None)
    return web.Response()


@routes.post("/free")
async def post_free(request: web.Request) -> web.Response:
    """``{"free_memory": true}`` forgets the results of earlier prompts."""
    if (await posted_object(request)).get("free_memory"):
        request.app[ENGINE].queue.forget_results()
    return web.Response()


@routes.get("/object_info")
async def get_object_info(request: web.Request) -> web.Response:
    """Every node's schema."""
    folders = request.app[ENGINE].folders
    return web.json_response({name: node.schema.to_json(folders) for name, node in NODES.items()})


@routes.get("/object_info/{node_class}")
async def get_object_info_of_class(request: web.Request) -> web.Response:
    """One node's schema, or ``{}``."""
    name, folders = request.match_info["node_class"], request.app[ENGINE].folders
    node = NODES.get(name)
    return web.json_response({} if node is None else {name: node.schema.to_json(folders)})


@routes.get("/system_stats")
async def get_system_stats(request: web.Request) -> web.Response:
    """What the engine runs on. ``system.sandbox`` is there in no other engine."""
    total, free = _memory()
    memory = {"vram_total": total, "vram_free": free}
    return web.json_response(
        {
            "system": {
                "os": sys.platform,
                "ram_total": total,
                "ram_free": free,
                "comfyui_version": MODELLED_ON,
                "sandbox": __version__,
                "python_version": sys.version,
                "pytorch_version": "none",
                "embedded_python": False,
                "argv": ["sandbox", "--base-directory", str(request.app[ENGINE].folders.root)],
            },
            "devices": [
                {
                    "name": "cpu",
                    "type": "cpu",
                    "index": None,
                    **memory,
                    **{f"torch_{key}": value for key, value in memory.items()},
                }
            ],
        }
    )


@routes.get("/features")
async def get_features(_request: web.Request) -> web.Response:
    """What clients may rely on."""
    return web.json_response(dict(SERVER_FEATURES))


@routes.get("/ws")
async def get_socket(request: web.Request) -> web.WebSocketResponse:
    """The WebSocket."""
    return await request.app[ENGINE].sockets.handle(request)


@routes.post("/sandbox/stop")
async def post_stop(request: web.Request) -> web.Response:
    """End the sandbox; with ``?unless_followed=1`` only if no WebSocket is connected, else 409.

    ComfyUI has nothing like it.
    """
    engine = request.app[ENGINE]
    if "unless_followed" in request.query:
        # Those that are being closed are not counted.
        for _ in range(10):
            if not engine.sockets.connected:
                break
            await asyncio.sleep(0.05)
        else:
            return web.Response(status=409, text="A client follows a job here.")
    engine.stop.set()
    return web.Response()


def _refused(kind: str, message: str, details: str) -> web.Response:
    error = node_error(kind, message, details)
    return web.json_response({"error": error, "node_errors": {}}, status=400)


async def _clear_or_delete(
    request: web.Request, clear: Callable[[], None], delete: Callable[[Sequence[object]], None]
) -> web.Response:
    body = await posted_keys(request)
    if body.get("clear"):
        clear()
    ids = body.get("delete", [])
    if not isinstance(ids, list | str | dict):
        raise Trouble
    delete(list(ids))
    return web.Response()


async def _is_json(request: web.Request) -> bool:
    try:
        await request.json()
    except ValueError:
        return False
    return True


def _number(body: Mapping[str, JsonValue], next_number: Callable[[], int]) -> float:
    """The position in the queue."""
    if "number" in body:
        try:
            return float(body["number"])  # type: ignore[arg-type] # as ComfyUI does
        except (TypeError, ValueError):
            raise Trouble from None
    number = next_number()
    return -number if body.get("front") else number


def _prompt(value: JsonValue) -> Prompt:
    """The prompt, of a shape that ComfyUI can check. Raises `Trouble` for any other."""
    if not isinstance(value, dict):
        raise Trouble
    for node in value.values():
        if not isinstance(node, dict) or not isinstance(node.get("inputs", {}), dict):
            raise Trouble
        if isinstance(node.get("class_type"), list | dict):
            raise Trouble
    return cast("Prompt", value)


def _is_canonical_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _memory() -> tuple[int, int]:
    """Bytes of memory there are and that are free; zeros where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0, 0
