"""The page's user: settings, and the files that the page saves (workflows, among others)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from pydantic import JsonValue

from comfy_remote.sandbox.engine import ENGINE
from comfy_remote.sandbox.folders import Folders, PathOutsideFolder

__all__ = ["routes"]

_SETTINGS = "comfy.settings.json"

routes = web.RouteTableDef()


def _user_folder(request: web.Request) -> Path:
    """There is one user, whose files are where ComfyUI has them."""
    return request.app[ENGINE].folders.root / "user" / "default"


@routes.get("/users")
async def get_users(request: web.Request) -> web.Response:
    """One user, whose settings the server keeps."""
    return web.json_response({"storage": "server", "migrated": _user_folder(request).exists()})


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
    changes = await _json(request)
    if not isinstance(changes, dict):
        raise web.HTTPBadRequest(text="Settings are an object.")
    _save(request, changes)
    return web.Response()


@routes.post("/settings/{id}")
async def post_setting(request: web.Request) -> web.Response:
    """Change one setting."""
    _save(request, {request.match_info["id"]: await _json(request)})
    return web.Response()


@routes.get("/userdata")
async def list_files(request: web.Request) -> web.Response:
    """The files below ``dir``: as names, ``split`` into parts, or with ``full_info``."""
    folder = _path(request, request.query.get("dir", ""))
    if not folder.is_dir():
        raise web.HTTPNotFound(text="Directory not found")
    files = await asyncio.to_thread(_files, folder, request.query.get("recurse") == "true")
    if request.query.get("full_info") == "true":
        return web.json_response([_info(file, folder) for file in files])
    names = [file.relative_to(folder).as_posix() for file in files]
    if request.query.get("split") == "true":
        return web.json_response([[name, *name.split("/")] for name in names])
    return web.json_response(names)


@routes.get("/userdata/{file}")
async def get_file(request: web.Request) -> web.FileResponse:
    """A file, to be saved rather than shown: a browser might run what is in it."""
    path = _path(request, request.match_info["file"])
    if not path.is_file():
        raise web.HTTPNotFound
    style = path == _user_folder(request).resolve() / "user.css"
    return web.FileResponse(
        path,
        headers={
            "Content-Type": "text/css" if style else "application/octet-stream",
            "Content-Disposition": "inline" if style else "attachment",
            "X-Content-Type-Options": "nosniff",
        },
    )


@routes.post("/userdata/{file}")
async def post_file(request: web.Request) -> web.Response:
    """Write a file; with ``overwrite=false`` only if there is none of that name."""
    path = _path(request, request.match_info["file"])
    if path.exists() and request.query.get("overwrite") == "false":
        raise web.HTTPConflict(text="File already exists")
    await asyncio.to_thread(_write, path, await request.read())
    return _answer(request, path)


@routes.delete("/userdata/{file}")
async def delete_file(request: web.Request) -> web.Response:
    """Remove a file."""
    path = _path(request, request.match_info["file"])
    if not path.is_file():
        raise web.HTTPNotFound
    path.unlink()
    return web.Response(status=204)


@routes.post("/userdata/{file}/move/{target}")
async def move_file(request: web.Request) -> web.Response:
    """Rename a file."""
    source = _path(request, request.match_info["file"])
    target = _path(request, request.match_info["target"])
    if not source.is_file():
        raise web.HTTPNotFound
    if target.exists() and request.query.get("overwrite") == "false":
        raise web.HTTPConflict(text="File already exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    return _answer(request, target)


def _path(request: web.Request, name: str) -> Path:
    """A file of the user's.

    Raises:
        web.HTTPForbidden: The name points elsewhere.
    """
    try:
        return Folders.inside(_user_folder(request), name)
    except PathOutsideFolder as error:
        raise web.HTTPForbidden(text="Invalid path") from error


def _files(folder: Path, recurse: bool) -> list[Path]:
    found = folder.rglob("*") if recurse else folder.glob("*")
    return sorted(path for path in found if path.is_file())


def _info(file: Path, folder: Path) -> dict[str, JsonValue]:
    facts = file.stat()
    return {
        "path": file.relative_to(folder).as_posix(),
        "size": facts.st_size,
        "modified": int(facts.st_mtime * 1000),
        "created": int(facts.st_ctime * 1000),
    }


def _answer(request: web.Request, path: Path) -> web.Response:
    folder = _user_folder(request).resolve()
    if request.query.get("full_info") == "true":
        return web.json_response(_info(path, folder))
    return web.json_response(path.relative_to(folder).as_posix())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: the page reads its settings while it writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


async def _json(request: web.Request) -> JsonValue:
    try:
        value: JsonValue = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"Not valid JSON: {error}") from error
    return value


def _settings(request: web.Request) -> dict[str, JsonValue]:
    try:
        settings = json.loads((_user_folder(request) / _SETTINGS).read_bytes())
    except FileNotFoundError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _save(request: web.Request, changes: Mapping[str, JsonValue]) -> None:
    text = json.dumps({**_settings(request), **changes}, indent=4)
    _write(_user_folder(request) / _SETTINGS, text.encode())
