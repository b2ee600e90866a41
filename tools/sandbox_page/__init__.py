"""ComfyUI's own page on the sandbox, for ``make page`` and for the tests of what we add to it.

Not part of the package: who runs workflows needs no page on the sandbox. It serves the page itself,
the scripts of extensions, the user's settings and files (`user_files`), and what the page asks for
when it starts. What a sandbox does not have (models, templates, translations) is an empty list, as
of a ComfyUI without any.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from comfy_remote.errors import ConfigurationError
from comfy_remote.sandbox.engine import ENGINE
from comfy_remote.sandbox.server import add_routes

from . import user_files

__all__ = ["find_frontend", "with_page"]

_PACKAGE = "comfyui_frontend_package"
_LOCALES = Path(__file__).resolve().parents[2] / "locales"
# The page must never be an old one that asks for scripts which are gone.
_NEVER_CACHED = {"Cache-Control": "no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}


@dataclass(frozen=True, slots=True)
class _Page:
    frontend: Path
    web_directories: Mapping[str, Path]
    templates: Mapping[str, Path]


_PAGE = web.AppKey("page", _Page)

routes = web.RouteTableDef()


def with_page(
    frontend: Path | str = "installed",
    *,
    web_directories: Mapping[str, Path] | None = None,
    templates: Mapping[str, Path] | None = None,
    extend: Callable[[web.Application], object] | None = None,
) -> Callable[[web.Application], None]:
    """What `SandboxServer` takes as ``extend``, to serve the page::

        SandboxServer(extend=with_page())

    Args:
        frontend: See `find_frontend`.
        web_directories: Folders with the scripts of extensions, by the extension's name, as
            ComfyUI has its node packs' ``WEB_DIRECTORY``.
        templates: Folders with example workflows, also by the extension's name.
        extend: What else is to be added to the application.

    Raises:
        ConfigurationError: There is no page.
    """
    page = _Page(find_frontend(frontend), dict(web_directories or {}), dict(templates or {}))

    def add(app: web.Application) -> None:
        app[_PAGE] = page
        add_routes(app, routes, user_files.routes)
        if extend is not None:
            extend(app)
        for name, directory in page.web_directories.items():
            app.router.add_static(f"/extensions/{name}", directory)
        for name, directory in page.templates.items():
            app.router.add_static(f"/api/workflow_templates/{name}", directory)
        # Last: the page's files are at any path that nothing else is at.
        app.router.add_get("/", get_page)
        app.router.add_static("/", page.frontend)

    return add


def find_frontend(where: Path | str = "installed") -> Path:
    """The folder with the page's ``index.html``.

    Args:
        where: ``"installed"`` for the package ``comfyui-frontend-package`` in this Python,
            else a folder: that of the page itself, or one in which the package lies.

    Raises:
        ConfigurationError: There is no page.
    """
    if where == "installed":
        spec = find_spec(_PACKAGE)
        places = [] if spec is None or spec.origin is None else [Path(spec.origin).parent]
    else:
        places = [Path(where), Path(where) / _PACKAGE]
    for place in places:
        for folder in (place, place / "static"):
            if (folder / "index.html").is_file():
                return folder.resolve()
    if where == "installed":
        raise ConfigurationError(
            "ComfyUI's page is not installed in this Python.",
            advice="Install it: pip install comfyui-frontend-package",
        )
    raise ConfigurationError(
        f"There is no index.html of ComfyUI's page in {where}.",
        advice='Name the folder "static" of an unpacked comfyui-frontend-package.',
    )


async def get_page(request: web.Request) -> web.FileResponse:
    """The page."""
    return web.FileResponse(request.app[_PAGE].frontend / "index.html", headers=_NEVER_CACHED)


@routes.get("/extensions")
async def get_extensions(request: web.Request) -> web.Response:
    """The paths of all scripts that the page shall import."""
    page = request.app[_PAGE]
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


@routes.get("/experiment/models")
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
    templates = request.app[_PAGE].templates
    names = {name: sorted(file.stem for file in d.glob("*.json")) for name, d in templates.items()}
    return web.json_response(names)


@routes.get("/i18n")
async def get_translations(_request: web.Request) -> web.Response:
    """The texts in ``locales``, by language and file, as ComfyUI serves those of its packs."""
    return web.json_response(await asyncio.to_thread(_translations))


def _translations() -> dict[str, dict[str, object]]:
    return {
        folder.name: {file.stem: json.loads(file.read_text("utf-8")) for file in folder.iterdir()}
        for folder in _LOCALES.iterdir()
    }


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
