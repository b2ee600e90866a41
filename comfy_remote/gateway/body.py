"""Reading a request's body up to a limit, and writing JSON quickly."""

from __future__ import annotations

from aiohttp import web
from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ..errors import RequestTooLarge, WorkflowInvalid

__all__ = ["json_answer", "read_json", "read_limited"]

_CHUNK = 256 * 1024


async def read_limited(request: web.Request, limit: int) -> bytes:
    """The body.

    Raises:
        RequestTooLarge: It has more than ``limit`` bytes.
    """
    body = bytearray()
    if (request.content_length or 0) <= limit:
        async for chunk in request.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise RequestTooLarge(
        f"The request's body is larger than the {limit} bytes ({limit / 2**20:g} MiB) accepted.",
        advice="Send large files by URL, or make them smaller.",
        details={"limit": limit},
    )


async def read_json(request: web.Request, limit: int) -> dict[str, JsonValue]:
    """The body as a JSON object, whatever its content type says: the RunPod SDK sends JSON as
    ``application/x-www-form-urlencoded``.

    Raises:
        RequestTooLarge: It has more than ``limit`` bytes.
        WorkflowInvalid: It is no JSON object.
    """
    body = await read_limited(request, limit)
    try:
        value = from_json(body)
    except ValueError as error:
        raise WorkflowInvalid(f"The request's body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise WorkflowInvalid("The request's body is not a JSON object.")
    return value


def json_answer(value: JsonValue, *, status: int = 200) -> web.Response:
    """``value`` as an answer."""
    return web.Response(body=to_json(value), status=status, content_type="application/json")
