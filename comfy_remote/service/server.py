"""The routes of a service, and its server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import BodyPartReader, web
from pydantic import SecretStr

from ..calls.arguments import (
    argument_of_file,
    arguments_of,
    media_type_of_input,
    plain_argument,
)
from ..calls.store import ValueStore
from ..calls.values import Argument
from ..errors import AuthenticationError, OutputLost, WorkflowInvalid
from ..gateway.access import RouteHandler, other_page_refusal, refusals, sent_token
from ..gateway.body import Bodies, body_chunks, json_answer, number_in_query
from ..gateway.forms import form_parts, part_chunks
from ..gateway.listening import check_token, serving
from ..media.temporary import remove_leftovers
from ..media.values import read_value
from ..media.values.plain_files import PlainFile, files_of
from ..wire.call import PROTOCOL, PROTOCOL_HEADER, CallAnswer, named_inputs
from .calls import Calls
from .openapi import openapi

__all__ = ["LARGEST_BODY", "ServiceServer", "say_protocol"]

LARGEST_BODY = 256 * 1024 * 1024
_BODIES = 512 * 1024 * 1024
_JSON_VALUES = 1_000_000
_MOST_FILES = 10**6
_LONGEST_WAIT = 90.0
_LONGEST_KEY = 200
_SWEEP_EVERY = 600.0


class ServiceServer:
    """A workflow over HTTP. Used as an asynchronous context manager.

    Args:
        host: Name or address to listen on. Anything but loopback needs a token.
        port: 0 picks a free one.
        token: What callers must send as bearer token; at least 16 characters.
        keep: Seconds after which results and files are deleted.

    Raises:
        ConfigurationError: The arguments do not fit together.
    """

    def __init__(
        self,
        calls: Calls,
        values: ValueStore,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: SecretStr | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keep: float = 24 * 3600.0,
    ) -> None:
        check_token(host, token)
        self._calls = calls
        self._values = values
        self._host = host
        self._port = port
        self._token = token
        self._ssl_context = ssl_context
        self._keep = keep
        self._bodies = Bodies(_BODIES, _JSON_VALUES)
        self._serving = contextlib.AsyncExitStack()
        self._sweeping: asyncio.Task[None] | None = None
        self.url = ""

    async def __aenter__(self) -> ServiceServer:
        await asyncio.to_thread(remove_leftovers)
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST_BODY)
        app.add_routes(self.routes())
        app.on_response_prepare.append(say_protocol)
        serves = serving(app, self._host, self._port, self._ssl_context)
        self.url = f"{await self._serving.enter_async_context(serves)}/"
        self._sweeping = asyncio.get_running_loop().create_task(self.sweep())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._serving.aclose()

    def routes(self) -> list[web.RouteDef]:
        """The routes without the guard, for an application that is guarded otherwise."""
        return [
            web.get("/openapi.json", self._openapi),
            web.post("/", self._call),
            web.get("/calls/{call}", self._status),
            web.delete("/calls/{call}", self._cancel),
            web.get("/calls/{call}/results/{key}", self._result),
            web.head("/values/{sha256}", self._has_value),
            web.put("/values/{sha256}", self._put_value),
            web.get("/", self._openapi, allow_head=False),
        ]

    @web.middleware
    async def _guard(self, request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        async def guarded(request: web.Request) -> web.StreamResponse:
            refused = other_page_refusal(request, named_here_only=self._token is None)
            if refused is not None:
                return refused
            if self._token is not None and not sent_token(request, self._token):
                raise AuthenticationError(
                    "The token is missing or wrong.",
                    advice="Send `Authorization: Bearer TOKEN` with the token this service was "
                    "started with.",
                )
            return await handler(request)

        return await refusals(request, guarded)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return json_answer(openapi(self._calls.workflow, with_token=self._token is not None))

    async def _call(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key", "").strip() or None
        if key is not None and (len(key) > _LONGEST_KEY or not key.isprintable()):
            raise WorkflowInvalid(
                f"The Idempotency-Key must have {_LONGEST_KEY} printable characters at most.",
                advice="Send a UUID.",
            )
        wait = _wait(request)
        if request.content_type == "multipart/form-data":
            arguments = await self._form(request)
        else:
            interface = self._calls.workflow.interface
            async with (
                self._bodies.receive(request, LARGEST_BODY) as body,
                self._bodies.parsed(body, self._bodies.json_object) as call,
            ):
                del body
                arguments = await arguments_of(named_inputs(call), interface, self._values)
        call_id = await self._calls.start(arguments, key=key)
        return _answer(await self._calls.answer(call_id, "/calls", wait=wait), started=True)

    async def _form(self, request: web.Request) -> dict[str, Argument]:
        """A form as curl sends it: ``-F image=@photo.png -F prompt="a cat"``."""
        arguments: dict[str, Argument] = {}
        with self._bodies.counting(LARGEST_BODY) as count:
            async for name, part in form_parts(request):
                if name in arguments:
                    raise WorkflowInvalid(f"The form has two parts named {name}.")
                arguments |= await self._argument(part, name, count)
        return arguments

    async def _argument(
        self, part: BodyPartReader, name: str, count: Callable[[int], None]
    ) -> dict[str, Argument]:
        interface = self._calls.workflow.interface
        entry = interface.input(name)
        content = bytearray()
        async for chunk in part_chunks(part):
            count(len(chunk))
            content += chunk
        if part.filename:
            said = part.headers.get("Content-Type", "text/plain")
            media_type = media_type_of_input(part.filename, said)
            return {name: await argument_of_file(entry, bytes(content), media_type, self._values)}
        text = content.decode("utf-8", "replace")
        return await arguments_of({name: plain_argument(text, entry.type)}, interface, self._values)

    async def _status(self, request: web.Request) -> web.Response:
        call_id = request.match_info["call"]
        await self._calls.check(call_id)
        return _answer(await self._calls.answer(call_id, "/calls", wait=_wait(request)))

    async def _cancel(self, request: web.Request) -> web.Response:
        call_id = request.match_info["call"]
        await self._calls.check(call_id)
        await self._calls.cancel(call_id)
        return _answer(await self._calls.answer(call_id, "/calls", wait=_wait(request)))

    async def _result(self, request: web.Request) -> web.StreamResponse:
        call_id, key = request.match_info["call"], request.match_info["key"]
        await self._calls.check(call_id)
        file = self._calls.results.one(call_id, key)
        if request.query.get("encoding", "safetensors") != "file":
            return web.FileResponse(
                file.path,
                headers={
                    "Content-Type": "application/octet-stream",
                    "X-Content-Type-Options": "nosniff",
                },
            )
        async with self._values.decoding:
            files = await asyncio.to_thread(_plain_files, file.path)
        index = number_in_query(request, "index", 0, least=0, most=_MOST_FILES)
        if index >= len(files):
            raise OutputLost(f"The result has {len(files)} items; index counts from 0.")
        chosen = files[index]
        return web.Response(
            body=chosen.data,
            headers={
                "Content-Type": chosen.media_type,
                "Comfy-Remote-Count": str(len(files)),
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def _has_value(self, request: web.Request) -> web.Response:
        found = self._values.get(request.match_info["sha256"])
        return web.Response(status=404 if found is None else 200)

    async def _put_value(self, request: web.Request) -> web.Response:
        stored = await self._values.put(
            request.match_info["sha256"], body_chunks(request.content.read)
        )
        return json_answer({"sha256": stored.sha256, "size": stored.size})

    async def sweep(self) -> None:
        """Delete old results and files every ten minutes, until cancelled."""
        while True:
            for folder in (self._calls.results.folder, self._values.folder):
                await asyncio.to_thread(folder.sweep, self._keep)
            await asyncio.sleep(_SWEEP_EVERY)


def _answer(answer: CallAnswer, *, started: bool = False) -> web.Response:
    response = json_answer(
        answer.to_json(), status=202 if started and not answer.status.final else 200
    )
    if answer.retry_after is not None and not answer.status.final:
        response.headers["Retry-After"] = str(math.ceil(answer.retry_after))
    return response


async def say_protocol(_request: web.Request, response: web.StreamResponse) -> None:
    """Name the protocol in each answer; for ``on_response_prepare``."""
    response.headers[PROTOCOL_HEADER] = PROTOCOL


def _wait(request: web.Request) -> float:
    """Seconds to wait for the end: ``?wait=30``, or ``Prefer: wait=30`` (RFC 7240)."""
    said = request.query.get("wait")
    for preference in request.headers.get("Prefer", "").replace(";", ",").split(","):
        name, _, value = preference.strip().partition("=")
        if said is None and name.lower() == "wait":
            said = value.strip('" ')
    try:
        seconds = float(said or 0)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise WorkflowInvalid(f"wait is {said!r}, which is not a number of seconds.")
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _plain_files(path: Path) -> list[PlainFile]:
    files = files_of(read_value(path, tensors="numpy"))
    if not files:
        raise WorkflowInvalid(
            "That result is not a picture, sound or text.",
            advice="Omit `encoding=file` to get it as a value file (docs/values.md).",
        )
    return files
