"""What is posted, and ComfyUI's answer where its own code raises on it."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from pydantic import JsonValue

__all__ = ["Trouble", "posted", "posted_object"]


class Trouble(web.HTTPInternalServerError):
    """A 500, as aiohttp makes one of an error in a route."""

    def __init__(self) -> None:
        super().__init__(text="500 Internal Server Error\n\nServer got itself in trouble")


async def posted(request: web.Request) -> JsonValue:
    """The body, whatever JSON it is. Raises `Trouble` if it is none."""
    try:
        body: JsonValue = await request.json()
    except ValueError:
        raise Trouble from None
    return body


async def posted_object(request: web.Request) -> Mapping[str, JsonValue]:
    """The body's keys: none if it is a list or a text. Raises `Trouble` for any other JSON."""
    body = await posted(request)
    if isinstance(body, dict):
        return body
    if isinstance(body, list | str):  # which ComfyUI looks for keys in, and finds none
        return {}
    raise Trouble
