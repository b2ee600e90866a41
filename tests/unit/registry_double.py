"""A stand-in for the Comfy Registry, held to the shapes of its published API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


def entry(name: str, inputs: Any, outputs: list[str]) -> dict[str, Any]:
    """A class as the registry has it: types are JSON in texts."""
    return {
        "category": "test",
        "comfy_node_name": name,
        "deprecated": False,
        "description": "",
        "experimental": False,
        "function": "run",
        "input_types": json.dumps(inputs),
        "output_is_list": [False for _ in outputs],
        "policy": "ComfyNodePolicyActive",
        "return_names": json.dumps(outputs),
        "return_types": json.dumps(outputs),
    }


class RegistryDouble:
    """Packs by id and version; ``asked`` has the paths of all questions."""

    def __init__(self, packs: dict[str, dict[str, list[dict[str, Any]]]], *, page: int = 2) -> None:
        self.packs = packs
        self.asked: list[str] = []
        self.broken: web.Response | None = None
        self._page = page

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/nodes/{pack}/versions/{version}/comfy-nodes", self._classes)
        app.router.add_get("/nodes/{pack}/install", self._install)
        app.router.add_get("/comfy-nodes", self._find)
        app.router.add_get("/comfy-nodes/{name}/node", self._pack_of)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.broken is not None:
            return self.broken
        response: web.StreamResponse = await handler(request)
        return response

    async def _classes(self, request: web.Request) -> web.Response:
        versions = self.packs.get(request.match_info["pack"], {})
        classes = versions.get(request.match_info["version"])
        if classes is None:
            return web.json_response({"message": "not found", "error": ""}, status=404)
        page = int(request.query.get("page", "1"))
        size = min(self._page, int(request.query.get("limit", "10")))
        pages = -(-len(classes) // size)
        shown = classes[(page - 1) * size : page * size]
        return web.json_response({"comfy_nodes": shown, "totalNumberOfPages": pages})

    async def _install(self, request: web.Request) -> web.Response:
        versions = self.packs.get(request.match_info["pack"])
        if not versions:
            return web.json_response({"message": "not found", "error": ""}, status=404)
        return web.json_response({"id": "x", "version": list(versions)[-1], "downloadUrl": ""})

    async def _find(self, request: web.Request) -> web.Response:
        name = request.query["comfy_node_name"]
        found = [
            one
            for versions in self.packs.values()
            for classes in versions.values()
            for one in classes
            if one["comfy_node_name"] == name
        ]
        return web.json_response({"comfy_nodes": found, "total": len(found)})

    async def _pack_of(self, request: web.Request) -> web.Response:
        for pack, versions in self.packs.items():
            version, classes = list(versions.items())[-1]
            if any(one["comfy_node_name"] == request.match_info["name"] for one in classes):
                newest = {"id": "x", "version": version, "downloadUrl": "", "deprecated": False}
                repository = f"https://github.com/someone/{pack}"
                return web.json_response(
                    {"id": pack, "name": pack, "repository": repository, "latest_version": newest}
                )
        return web.json_response({"message": "not found", "error": ""}, status=404)
