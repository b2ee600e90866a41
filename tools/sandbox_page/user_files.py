"""The files of the page's user: workflows, among others. (Its settings are the sandbox's own.)"""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from pydantic import JsonValue

from comfy_remote.media.files import write_whole
from comfy_remote.sandbox.folders import Folders, PathOutsideFolder
from comfy_remote.sandbox.page_routes import user_folder

__all__ = ["routes"]

routes = web.RouteTableDef()


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
    style = path == user_folder(request).resolve() / "user.css"
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
    await asyncio.to_thread(write_whole, path, await request.read())
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
        return Folders.inside(user_folder(request), name)
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
    folder = user_folder(request).resolve()
    if request.query.get("full_info") == "true":
        return web.json_response(_info(path, folder))
    return web.json_response(path.relative_to(folder).as_posix())
