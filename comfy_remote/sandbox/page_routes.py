"""HTTP: ComfyUI's page itself, the scripts of extensions, and what the page asks for at its start.

Only there when the sandbox was given a frontend (see ``frontend.py``). What a sandbox has
none of, models, templates, translations, it answers with an empty list, as a ComfyUI
without any does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from .engine import ENGINE

__all__ = ["PAGE", "Page", "add_page", "routes"]

# The page must never be an old one that asks for scripts which are gone.
_NEVER_CACHED = {"Cache-Control": "no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}


@dataclass(frozen=True, slots=True)
class Page:
    """What the page is made of.

    Attributes:
        frontend: The folder with ``index.html``.
        web_directories: Folders with the scripts of extensions, by the extension's name, as
            ComfyUI keeps its node packs' ``WEB_DIRECTORY``.
        templates: Folders with example workflows, also by the extension's name.
    """

    frontend: Path
    web_directories: Mapping[str, Path]
    templates: Mapping[str, Path]


PAGE = web.AppKey("page", Page)

routes = web.RouteTableDef()


def add_page(app: web.Application, page: Page) -> None:
    """Serve the page's own files. To be called last: they are looked for everywhere."""
    app[PAGE] = page
    for name, directory in page.web_directories.items():
        app.router.add_static(f"/extensions/{name}", directory)
    for name, directory in page.templates.items():
        app.router.add_static(f"/api/workflow_templates/{name}", directory)
    app.router.add_get("/", get_page)
    app.router.add_static("/", page.frontend)


async def get_page(request: web.Request) -> web.FileResponse:
    """The page."""
    return web.FileResponse(request.app[PAGE].frontend / "index.html", headers=_NEVER_CACHED)


@routes.get("/extensions")
async def get_extensions(request: web.Request) -> web.Response:
    """The paths of all scripts that the page shall import."""
    page = request.app[PAGE]
    folders = {
        "/": (page.frontend, "extensions/**/*.js"),
        **{
            f"/extensions/{quote(name)}/": (directory, "**/*.js")
            for name, directory in page.web_directories.items()
        },
    }
    return web.json_response(await asyncio.to_thread(_scripts, folders))


def _scripts(folders: Mapping[str, tuple[Path, str]]) -> list[str]:
    return [
        f"{prefix}{quote(file.relative_to(folder).as_posix())}"
        for prefix, (folder, pattern) in folders.items()
        for file in sorted(folder.glob(pattern))
    ]


@routes.get("/embeddings")
@routes.get("/models")
@routes.get("/experiment/models")
@routes.get("/models/{folder}")
@routes.get("/experiment/models/{folder}")
async def get_nothing(_request: web.Request) -> web.Response:
    """A list of models of some kind."""
    return web.json_response([])


@routes.get("/templates/index.json")
async def get_own_templates(_request: web.Request) -> web.Response:
    """ComfyUI's own templates."""
    return web.json_response([])


@routes.get("/workflow_templates")
async def get_templates(request: web.Request) -> web.Response:
    """The names of the workflows that extensions bring along, by the extension's name."""
    templates = request.app[PAGE].templates
    names = {name: sorted(file.stem for file in d.glob("*.json")) for name, d in templates.items()}
    return web.json_response(names)


@routes.get("/i18n")
@routes.get("/global_subgraphs")
@routes.get("/node_replacements")
@routes.get("/internal/folder_paths")
@routes.get("/templates/index_logo.json")
async def get_no_entries(_request: web.Request) -> web.Response:
    """What other packs bring along, by name."""
    return web.json_response({})


@routes.get("/internal/logs")
async def get_logs(_request: web.Request) -> web.Response:
    """The log as one text. The sandbox keeps none."""
    return web.json_response("")


@routes.get("/internal/logs/raw")
async def get_raw_logs(_request: web.Request) -> web.Response:
    """The log as entries, for the page's terminal panel."""
    return web.json_response({"entries": [], "size": {"cols": 80, "rows": 24}})


@routes.patch("/internal/logs/subscribe")
async def patch_log_subscription(_request: web.Request) -> web.Response:
    """Would send the log's new lines."""
    return web.Response()


@routes.get("/internal/files/{folder_type}")
async def get_files(request: web.Request) -> web.Response:
    """``name [folder]`` of the files in a folder, the newest first."""
    folder_type = request.match_info["folder_type"]
    folder = request.app[ENGINE].folders.by_type(folder_type)
    if folder is None:
        return web.json_response({"error": "Invalid directory type"}, status=400)
    names = await asyncio.to_thread(_newest_first, folder)
    return web.json_response([f"{name} [{folder_type}]" for name in names])


def _newest_first(folder: Path) -> list[str]:
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    return [file.name for file in sorted(files, key=lambda file: -file.stat().st_mtime)]
