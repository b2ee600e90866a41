"""The routes of assets: upload, look-up, bytes."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from .assets import AssetStore

__all__ = ["asset_routes"]


def asset_routes(store: AssetStore, base: Callable[[web.Request], str]) -> list[web.RouteDef]:
    """The routes, below wherever the API is mounted; who may use them is up to the server.

    Args:
        base: The address of the API as a request reached it: ``http://HOST:PORT/api/v2``.
    """
    raise NotImplementedError
