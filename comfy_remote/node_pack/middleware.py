"""Requests to ComfyUI's own routes that are for the remote lane."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from ..aio import Background
from ..config.own_page import refusal_of_page
from ..errors import AuthenticationError, ComfyRemoteError, NotTrusted
from ..targets.base import CHOICE_KEY
from ..types import JsonValue, mapping
from .host import Host
from .json_route import refused_page
from .lane import RemoteLane
from .offload import Offload
from .posted_prompt import Posted
from .refusals import REFUSED_EVENT, refusal_body, refusal_event
from .switch import Switch
from .trusted_targets import (
    CONFIRM_EVENT,
    SENDING_NODES,
    addresses_in,
    check_addresses,
    check_target,
)
from .waiting_jobs import STATES, WAITING_AND_RUNNING, job_shown, jobs_shown, queue_shown

__all__ = ["LaneRouter", "Peers"]

_log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,12}")
_JOB = re.compile(r"^/jobs/(?P<id>[^/]+)(?P<cancel>/cancel)?$")
_CONNECT_PATIENCE = 10.0
_CONNECT_POLL = 0.05
_MOST_PEERS = 1000

_WORDS_OF_OURS = (CHOICE_KEY.encode(), *(name.encode() for name in SENDING_NODES))

_Route = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class Peers:
    """The browser of each page, since an interrupt does not say which page it comes from.

    A browser is its address and its ``User-Agent``.
    """

    def __init__(self) -> None:
        self._peers: OrderedDict[str, object] = OrderedDict()

    @staticmethod
    def of(request: web.Request) -> object:
        """The browser that a request comes from."""
        return request.remote, request.headers.get("User-Agent")

    def note(self, client_id: str, request: web.Request) -> None:
        """A page of that id is in this browser."""
        self._peers.pop(client_id, None)
        self._peers[client_id] = self.of(request)
        while len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)

    def get(self, client_id: str | None) -> object:
        """The browser of a page; ``None`` when it is not known."""
        return None if client_id is None else self._peers.get(client_id)


class LaneRouter:
    """Sends the lane's requests to the lane, and lets all others pass unchanged.

    What another site's page sends never reaches the lane: ComfyUI itself takes prompts from any
    page where it is reached by another address than localhost's.
    """

    def __init__(self, host: Host, switch: Switch, lane: RemoteLane, offload: Offload) -> None:
        self._host = host
        self._offload = offload
        self._switch = switch
        self._lane = lane
        self._peers = Peers()
        self._greetings = Background()
        self._routes: dict[tuple[str, str], _Route] = {
            ("POST", "/prompt"): self._prompt,
            ("POST", "/queue"): self._queue,
            ("GET", "/queue"): self._queue_shown,
            ("GET", "/jobs"): self._jobs_shown,
            ("POST", "/interrupt"): self._interrupt,
            ("POST", "/jobs/cancel"): self._cancel_jobs,
            ("GET", "/ws"): self._socket,
        }

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """For the application's `middlewares`, as the innermost: the others have run already."""
        path = request.path.removeprefix("/api")
        if route := self._routes.get((request.method, path)):
            return await route(request, handler)
        job = _JOB.match(path)
        if job is None or not self._lane.has(job["id"]):
            return await handler(request)
        if request.method == "GET" and not job["cancel"]:
            answer = await handler(request)
            return _changed(answer, lambda shown: job_shown(shown, self._lane.waiting()))
        if request.method != "POST" or not job["cancel"]:
            return await handler(request)
        if refused := await _other_page(request):
            return refused_page(refused)
        return web.json_response({"cancelled": await self._lane.cancel(job["id"])})

    async def _prompt(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        raw = await request.read()
        if refused := await _other_page(request):
            posted = Posted(await _object(request))
            if self._switch.target_of(posted.client_id) or posted.leaves_this_machine:
                return web.json_response(refusal_body(refused), status=403)
            return await handler(request)
        # Most prompts are local, and some have megabytes: not parsed twice for nothing.
        if not self._switch.in_use and not any(word in raw for word in _WORDS_OF_OURS):
            return await handler(request)
        posted = Posted(await _object(request))
        if "prompt" not in posted.body:
            return await handler(request)
        chosen, target = posted.choice
        if not chosen:
            target = self._switch.target_of(posted.client_id)
        try:
            await asyncio.to_thread(_check_addresses, target, posted)
        except ComfyRemoteError as error:
            return self._refused(error, posted)
        if target is None:
            return await (handler(request) if chosen else self._here(request, handler, posted))
        self._offload.note_ignored_marks(posted, target)
        body = self._host.before_prompt(dict(posted.body))
        try:
            answer = await self._lane.submit(
                body,
                target,
                self._peers.of(request),
                with_repo_list=self._switch.with_repo_list(posted.client_id),
                cache=self._switch.cache_of(posted.client_id),
                over_cap=self._switch.take_over_cap(posted.client_id),
            )
        except ComfyRemoteError as error:
            return self._refused(error, posted, target)
        return web.json_response(answer)

    async def _here(
        self, request: web.Request, handler: Handler, posted: Posted
    ) -> web.StreamResponse:
        """Let the host run it, but for the nodes that are marked to run elsewhere."""
        try:
            ready = await self._offload.prepare(posted, _own_port(request))
        except ComfyRemoteError as error:
            return self._refused(error, posted)
        if ready is None:
            return await handler(request)
        with self._offload.applied(ready):
            return await handler(request)

    def _refused(
        self, error: ComfyRemoteError, posted: Posted, target: str | None = None
    ) -> web.Response:
        """ComfyUI's own refusal; the page also gets the address to ask its user about, if any."""
        _log.info("The prompt was refused: %s", error)
        asked = error.page_asks if isinstance(error, NotTrusted) else None
        lacking = error.details.get("lacking")  # of a part that was to run elsewhere
        told = lacking if target is None and isinstance(lacking, str) else target
        if posted.client_id is not None and asked is not None:
            self._host.send(CONFIRM_EVENT, asked, posted.client_id)
        elif posted.client_id is not None and told is not None:
            self._host.send(REFUSED_EVENT, refusal_event(error, told), posted.client_id)
        return web.json_response(refusal_body(error, target), status=400)

    async def _queue(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await _object(request)
        if await _other_page(request):
            return await handler(request)
        if body.get("clear"):
            self._lane.cancel_waiting()
        ids = body.get("delete")
        for prompt_id in ids if isinstance(ids, list) else ():
            await self._lane.cancel(prompt_id)
        # ComfyUI looks for these ids among what waits here, and finds none of ours.
        return await handler(request)

    async def _queue_shown(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        waiting = self._lane.waiting()
        return _changed(answer, lambda queue: queue_shown(mapping(queue), waiting), waiting)

    async def _jobs_shown(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        waiting = self._lane.waiting()
        states = [*filter(None, re.split(r"[\s,]+", request.query.get("status", "").lower()))]
        states = states or [*STATES]
        limit, offset = request.query.get("limit"), request.query.get("offset", "0")
        plain = _NUMBER.fullmatch(offset) and (
            limit is None or (_NUMBER.fullmatch(limit) and int(limit) > 0)
        )
        if not waiting or not plain or WAITING_AND_RUNNING.isdisjoint(states):
            return await handler(request)
        # ComfyUI counts ours as running, so a page of its list may have too many or too few.
        query = {k: v for k, v in request.query.items() if k not in ("limit", "offset")}
        query["status"] = ",".join(dict.fromkeys([*states, *sorted(WAITING_AND_RUNNING)]))
        answer = await handler(request.clone(rel_url=request.rel_url.with_query(query)))
        return _changed(
            answer,
            lambda jobs: jobs_shown(
                mapping(jobs),
                waiting,
                states=states,
                limit=None if limit is None else int(limit),
                offset=int(offset),
            ),
        )

    async def _interrupt(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        prompt_id = (await _object(request)).get("prompt_id")
        refused = await _other_page(request)
        if prompt_id and self._lane.has(prompt_id):
            if refused:
                return refused_page(refused)
            await self._lane.cancel(prompt_id)
            return web.Response()
        if prompt_id or refused:
            return await handler(request)
        # "Stop what runs", and nothing says who asks. A prompt that runs on this machine is
        # stopped as usual, unless another browser started it and this one has a remote job.
        peer = self._peers.of(request)
        local = self._host.local_prompt()
        theirs = local is None or self._peers.get(local.client_id) != peer
        if theirs and self._lane.interrupt(peer):
            return web.Response()
        return await handler(request)

    async def _cancel_jobs(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        ids = (await _object(request)).get("job_ids")
        if not isinstance(ids, list) or not any(self._lane.has(one) for one in ids):
            return await handler(request)
        if refused := await _other_page(request):
            return refused_page(refused)
        if not all(_is_uuid(one) for one in ids):
            return await handler(request)  # refused there, before anything is cancelled
        # Not passed on: ComfyUI would see ours run, and interrupt whatever it runs itself.
        cancelled = [
            await self._lane.cancel(one) or self._host.cancel_local(str(one)) for one in ids
        ]
        return web.json_response({"cancelled": any(cancelled)})

    async def _socket(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        client_id = request.query.get("clientId")
        if client_id and not await _other_page(request):
            self._peers.note(client_id, request)
            before = self._host.connection(client_id)
            self._greetings.start(self._greet(client_id, before))
        return await handler(request)

    async def _greet(self, client_id: str, before: object | None) -> None:
        """Once the page listens, send it the state of its running jobs."""
        waited = 0.0
        while waited < _CONNECT_PATIENCE:
            await asyncio.sleep(_CONNECT_POLL)
            waited += _CONNECT_POLL
            connection = self._host.connection(client_id)
            if connection is not None and connection is not before:
                self._lane.show_running(client_id)
                return


def _check_addresses(target: str | None, posted: Posted) -> None:
    """Check that nothing of a prompt goes to an address that the owner has not confirmed.

    A prompt that runs elsewhere as a whole is checked there: its nodes send from there.
    """
    if target is not None:
        check_target(target)
    else:
        check_addresses(addresses_in(mapping(posted.body.get("prompt"))))


async def _other_page(request: web.Request) -> AuthenticationError | None:
    return await refusal_of_page(request.method, request.headers)


def _changed(
    answer: web.StreamResponse,
    change: Callable[[JsonValue], JsonValue],
    needed: object = True,
) -> web.StreamResponse:
    """ComfyUI's answer with other contents, where it is one and that is needed."""
    if not needed or answer.status != 200 or not isinstance(answer, web.Response):
        return answer
    try:
        shown = json.loads(answer.text or "")
    except ValueError:
        return answer
    return web.json_response(change(shown))


def _own_port(request: web.Request) -> int | None:
    """The port of this server that a request came to."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return name[1] if isinstance(name, tuple) and len(name) > 1 else None


async def _object(request: web.Request) -> dict[str, JsonValue]:
    """The body, if it is a JSON object; otherwise empty, and ComfyUI refuses it.

    Decoded as ComfyUI does, by the charset that the request names: both see the same prompt.
    """
    try:
        body = json.loads(await request.text())
    except (ValueError, LookupError, RecursionError, web.HTTPUnsupportedMediaType):
        return {}
    return body if isinstance(body, dict) else {}


def _is_uuid(value: object) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False
