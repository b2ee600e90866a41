"""The routes of assets: upload, look-up, bytes."""

from __future__ import annotations

from aiohttp import web
from pydantic import ValidationError

from ..errors import WorkflowInvalid
from ..gateway.body import Bodies
from ..wire.comfy_api import AssetFromHash
from .assets import AssetStore
from .content import asset_content
from .errors import ApiRefusal
from .server import api_base
from .shown import shown_asset
from .stored import StoredAsset
from .upload import checked_file_path, receive_upload

__all__ = ["asset_routes"]

_LARGEST_REQUEST = 64 * 1024
_BODIES = 16 * 2**20
_JSON_VALUES = 1000


def asset_routes(store: AssetStore) -> list[web.RouteDef]:
    """The routes, below wherever the API is mounted; who may use them is up to the server."""
    routes = _AssetRoutes(store)
    return [
        web.post("/assets", routes.upload),
        web.post("/assets/from-hash", routes.from_hash),
        web.head("/assets/by-hash/{hash}", routes.by_hash),
        web.get("/assets/{id}", routes.get),
        web.delete("/assets/{id}", routes.delete),
        web.get("/assets/{id}/content", routes.content),
    ]


class _AssetRoutes:
    """The handlers, a method for each route."""

    def __init__(self, store: AssetStore) -> None:
        self._store = store
        self._bodies = Bodies(_BODIES, _JSON_VALUES, store.limits.pause)

    async def upload(self, request: web.Request) -> web.Response:
        """201 for new bytes, 200 if they were here: the asset is a new one all the same."""
        asset, is_new = await receive_upload(request, self._store)
        return _answer(request, asset, status=201 if is_new else 200, created_new=is_new)

    async def from_hash(self, request: web.Request) -> web.Response:
        """201 for a new asset, 200 for one that is here."""
        try:
            async with self._bodies.receive(request, _LARGEST_REQUEST) as body:
                wanted = AssetFromHash.model_validate(self._bodies.json_object(body))
        except ValidationError as error:
            names = sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]})
            raise ApiRefusal(
                "invalid_request",
                f"These are missing, or have values that are not possible: {', '.join(names)}.",
                details={"fields": list(names)},
            ) from None
        except WorkflowInvalid as error:
            if error.http_status != 400:
                raise
            raise ApiRefusal("invalid_request", str(error)) from None
        path = wanted.file_path and checked_file_path(wanted.file_path)
        asset, is_new = await self._store.from_hash(
            wanted.hash, file_path=path or None, expires_in=wanted.expires_in
        )
        return _answer(request, asset, status=201 if is_new else 200, created_new=False)

    async def by_hash(self, request: web.Request) -> web.Response:
        there = await self._store.has(request.match_info["hash"])
        return web.Response(status=200 if there else 404)

    async def get(self, request: web.Request) -> web.Response:
        return _answer(request, await self._asset(request))

    async def delete(self, request: web.Request) -> web.Response:
        await self._store.delete(request.match_info["id"])
        return web.Response(status=204)

    async def content(self, request: web.Request) -> web.StreamResponse:
        return await asset_content(request, await self._asset(request))

    async def _asset(self, request: web.Request) -> StoredAsset:
        asset = await self._store.get(request.match_info["id"])
        if asset is None:
            raise ApiRefusal("not_found", "There is no such asset here, or it has expired.")
        return asset


def _answer(
    request: web.Request,
    asset: StoredAsset,
    *,
    status: int = 200,
    created_new: bool | None = None,
) -> web.Response:
    model = shown_asset(asset, api_base(request), created_new=created_new)
    return web.Response(
        text=model.model_dump_json(exclude_none=True),
        status=status,
        content_type="application/json",
    )
