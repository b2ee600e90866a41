"""HTTP: what ComfyUI's page and other clients ask besides prompts: models, scripts, settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from pydantic import JsonValue

from ..media.files import write_whole
from .body import posted, posted_object
from .engine import ENGINE

__all__ = ["routes", "user_folder"]

# ComfyUI's kinds of models, in its order. The sandbox has none of any.
_MODEL_FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "latent_upscale_models",
    "custom_nodes",
    "datasets",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
    "background_removal",
    "frame_interpolation",
    "geometry_estimation",
    "optical_flow",
    "detection",
)
_SETTINGS = "comfy.settings.json"

routes = web.RouteTableDef()


@routes.get("/embeddings")
@routes.get("/extensions")
async def get_nothing(_request: web.Request) -> web.Response:
    """The embeddings, or the scripts of a page: there are none."""
    return web.json_response([])


@routes.get("/models")
async def get_model_folders(_request: web.Request) -> web.Response:
    """The kinds of models."""
    return web.json_response(_MODEL_FOLDERS)


@routes.get("/models/{folder}")
async def get_models(request: web.Request) -> web.Response:
    """The models of a kind."""
    if request.match_info["folder"] not in _MODEL_FOLDERS:
        return web.Response(status=404)
    return web.json_response([])


@routes.get("/users")
async def get_users(request: web.Request) -> web.Response:
    """One user, whose settings the server keeps."""
    return web.json_response({"storage": "server", "migrated": user_folder(request).exists()})


@routes.get("/settings")
async def get_settings(request: web.Request) -> web.Response:
    """All settings by id."""
    return web.json_response(_settings(request))


@routes.get("/settings/{id}")
async def get_setting(request: web.Request) -> web.Response:
    """One setting, or ``null``."""
    return web.json_response(_settings(request).get(request.match_info["id"]))


@routes.post("/settings")
async def post_settings(request: web.Request) -> web.Response:
    """Change some settings."""
    await _save(request, await posted_object(request))
    return web.Response()


@routes.post("/settings/{id}")
async def post_setting(request: web.Request) -> web.Response:
    """Change one setting."""
    await _save(request, {request.match_info["id"]: await posted(request)})
    return web.Response()


def user_folder(request: web.Request) -> Path:
    """There is one user, whose files are where ComfyUI has them."""
    return request.app[ENGINE].folders.root / "user" / "default"


def _settings(request: web.Request) -> dict[str, JsonValue]:
    try:
        settings = json.loads((user_folder(request) / _SETTINGS).read_bytes())
    except FileNotFoundError:
        return {}
    return settings if isinstance(settings, dict) else {}


async def _save(request: web.Request, changes: Mapping[str, JsonValue]) -> None:
    # The page changes several at once, each by a request of its own.
    async with request.app[ENGINE].settings_lock:
        text = json.dumps({**_settings(request), **changes}, indent=4)
        await asyncio.to_thread(write_whole, user_folder(request) / _SETTINGS, text.encode())
