"""What all of the pack's routes have in common: JSON in, JSON out, errors in one shape."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import TypeAlias, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ..config.own_page import refusal_of_other_origin, refusal_of_page
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    NotTrusted,
    RequestTooLarge,
)
from ..json_text import problems_in
from ..types import JsonValue
from .advice import error_json

__all__ = [
    "PAGE_HEADER",
    "body_of",
    "check_json",
    "check_zip",
    "json_route",
    "lines_route",
    "page_route",
    "program_route",
    "refused_page",
]

PAGE_HEADER = "Comfy-Remote-Page"
"""What our own scripts in the page send."""

_Model = TypeVar("_Model", bound=BaseModel)
_Route: TypeAlias = "Callable[[web.Request], Awaitable[JsonValue]]"
_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_route(route: _Route) -> _Handler:
    """A handler for aiohttp, from a function that returns the JSON to answer.

    A `ComfyRemoteError` is answered with its own HTTP status and
    ``{"error": {"code", "message", "advice", "details"}}``; a page of another site gets 403.
    """

    async def check(request: web.Request) -> AuthenticationError | None:
        refused = await refusal_of_page(request.method, request.headers)
        return refused or _refusal_of_embedding(request)

    return _handler(route, check)


def program_route(route: _Route) -> _Handler:
    """A `json_route` for programs, which may reach this server by any name.

    For a ``GET`` whose answer is useless to a page that pretends to be this server's own.
    """
    return _handler(route, lambda one: refusal_of_other_origin(one.headers))


def page_route(route: _Handler) -> _Handler:
    """A handler that answers with a page or a file, for a tab of this server's own page."""

    @wraps(route)
    async def handler(request: web.Request) -> web.StreamResponse:
        refused = await refusal_of_page(request.method, request.headers)
        if refused is not None:
            return refused_page(refused)
        try:
            return await route(request)
        except ComfyRemoteError as error:
            return _error(error)

    return handler


def lines_route(route: Callable[[web.Request], AsyncIterator[JsonValue]]) -> _Handler:
    """A `json_route` that answers line by line, each as soon as there is one.

    A `ComfyRemoteError` before the first line is answered as by `json_route`; a later one is the
    last line. Whoever goes away ends it.
    """

    @wraps(route)
    async def handler(request: web.Request) -> web.StreamResponse:
        refused = await refusal_of_page(request.method, request.headers)
        if refused is not None:
            return refused_page(refused)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        lines = route(request)
        try:
            async for line in lines:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(_line(line))
        except ComfyRemoteError as error:
            if not response.prepared:
                return _error(error)
            await response.write(_line({"error": error_json(error)}))
        finally:
            if isinstance(lines, AsyncGenerator):
                await lines.aclose()
        return response

    return handler


def _line(value: JsonValue) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _handler(
    route: _Route, check: Callable[[web.Request], Awaitable[AuthenticationError | None]]
) -> _Handler:
    @wraps(route)
    async def handler(request: web.Request) -> web.StreamResponse:
        refused = await check(request)
        if refused is not None:
            return refused_page(refused)
        try:
            return web.json_response(await route(request))
        except ComfyRemoteError as error:
            return _error(error)

    return handler


def check_json(request: web.Request) -> None:
    """Check that a request says that its body is JSON.

    A form of another site's page can be sent without asking first; JSON cannot.
    """
    _check_type(
        *(request, "application/json", "JSON"),
        "Send it with the header Content-Type: application/json; {} if there is nothing to send.",
    )


def check_zip(request: web.Request) -> None:
    """Check that a request says that its body is a zip; see `check_json`."""
    _check_type(
        *(request, "application/zip", "a zip"),
        "Send it with the header Content-Type: application/zip.",
    )


def _check_type(request: web.Request, wanted: str, called: str, advice: str) -> None:
    if request.content_type != wanted:
        raise ConfigurationError(
            f"The request's body is {request.content_type}, not {called}.", advice=advice
        )


async def body_of(request: web.Request, model: type[_Model]) -> _Model:
    """The request's body, checked.

    Raises:
        ConfigurationError: It is not ``application/json``, or not what the model says.
        RequestTooLarge: It is larger than the server takes (ComfyUI's ``--max-upload-size``).
    """
    check_json(request)
    try:
        return model.model_validate_json(await request.read())
    except web.HTTPRequestEntityTooLarge as error:
        raise RequestTooLarge(
            "The request is larger than this server takes.",
            advice="Send fewer or smaller files at a time, or start ComfyUI with a larger "
            "--max-upload-size.",
        ) from error
    except ValidationError as error:
        raise ConfigurationError(
            f"The request is not valid: {problems_in(error, 'the body')}.",
            advice="docs/routes.md says what each route takes.",
        ) from None


def _refusal_of_embedding(request: web.Request) -> AuthenticationError | None:
    """Refuses a ``GET`` that another site's page may have embedded, as if for a picture.

    Some of our routes ask a target, which may cost money. Over plain http, browsers do not say
    which page it was; but only a server's own scripts can add a header of their own.
    """
    headers = request.headers
    if (
        request.method not in ("GET", "HEAD")
        or not headers.get("User-Agent", "").startswith("Mozilla/")
        or "Sec-Fetch-Site" in headers  # judged already
        or PAGE_HEADER in headers
    ):
        return None
    return AuthenticationError(
        "The request comes from a browser, and does not say from which page.",
        advice=f"Use ComfyUI's page, or send the header {PAGE_HEADER}: 1.",
    )


def refused_page(error: AuthenticationError) -> web.Response:
    """The answer to what another site's page has sent: see `refusal_of_page`."""
    return _error(error, status=403)


def _error(error: ComfyRemoteError, status: int | None = None) -> web.Response:
    body: dict[str, JsonValue] = {"error": error_json(error)}
    if isinstance(error, NotTrusted) and error.page_asks is not None:
        body["confirm"] = error.page_asks
    return web.json_response(body, status=status or error.http_status)
