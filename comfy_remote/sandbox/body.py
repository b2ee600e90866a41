"""What is posted, and ComfyUI's answer where its own code raises on it."""

from __future__ import annotations

from aiohttp import web
from pydantic import JsonValue

__all__ = ["Trouble", "posted", "posted_keys", "posted_object"]


class Trouble(web.HTTPInternalServerError):
    """A 500, as aiohttp makes one of an error in a route."""

    def __init__(self) -> None:
        super().__init__(text="500 Internal Server Error\n\nServer got itself in trouble")


async def posted(request: web.Request) -> JsonValue:
    """The body, whatever JSON it is. Raises `Trouble` if it is not JSON."""
    try:
        body: JsonValue = await request.json()
    except ValueError:
        raise Trouble from None
    return body


async def posted_object(request: web.Request) -> dict[str, JsonValue]:
    """The body, a JSON object. Raises `Trouble` if it is not."""
    body = await posted(request)
    if not isinstance(body, dict):
        raise Trouble
    return body


async def posted_keys(request: web.Request) -> dict[str, JsonValue]:
    """The same, but empty for a list or a text: ComfyUI looks for keys in it, and finds none."""
    body = await posted(request)
    if isinstance(body, list | str):
        return {}
    if not isinstance(body, dict):
        raise Trouble
    return body
