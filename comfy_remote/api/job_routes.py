"""The routes of jobs: post, look, cancel, list."""

from __future__ import annotations

import re
from dataclasses import replace

from aiohttp import web
from pydantic import BaseModel

from ..errors import RequestTooLarge, WorkflowInvalid
from ..gateway.body import Bodies
from ..wire.comfy_api import (
    MOST_LABELS_ASKED,
    ApiStatus,
    label_problem,
)
from .errors import ApiRefusal
from .jobs import ApiJobs
from .listing import JobsWanted
from .posted import PostedJob, posted_job
from .server import api_base, sent_key

__all__ = ["LARGEST_PROMPT", "job_routes"]

LARGEST_PROMPT = 10 * 2**20
"""Bytes of a request for a job: files go before it, as assets."""

_BODIES = 128 * 2**20
_JSON_VALUES = 300_000
_LABEL_ASKED = re.compile(r"metadata\[(?P<key>[^\]]*)\]")
_USUAL_PAGE, _LARGEST_PAGE = 100, 500


def job_routes(jobs: ApiJobs) -> list[web.RouteDef]:
    """The routes, below wherever the API is mounted; who may use them is up to the server.

    Those of events: `event_routes`.
    """
    routes = _JobRoutes(jobs)
    return [
        web.post("/jobs", routes.post),
        web.get("/jobs", routes.list, allow_head=False),
        web.get("/jobs/{id}", routes.get, allow_head=False),
        web.get("/jobs/{id}/workflow", routes.workflow, allow_head=False),
        web.post("/jobs/{id}/cancel", routes.cancel),
    ]


class _JobRoutes:
    def __init__(self, jobs: ApiJobs) -> None:
        self._jobs = jobs
        self._bodies = Bodies(_BODIES, _JSON_VALUES)

    async def post(self, request: web.Request) -> web.Response:
        key = sent_key(request)
        async with (
            self._bodies.receive(request, LARGEST_PROMPT) as body,
            self._bodies.parsed(body, self._posted) as posted,
        ):
            pass
        job = await self._jobs.start(
            posted,
            base=api_base(request),
            key=key,
            token=request.headers.get("Authorization", ""),
        )
        return _answer(job, status=201)

    def _posted(self, body: bytes) -> PostedJob:
        try:
            said = self._bodies.json_object(body)
        except RequestTooLarge:
            raise
        except WorkflowInvalid as error:
            raise ApiRefusal("invalid_request", str(error)) from None
        return replace(posted_job(said), size=len(body))

    async def list(self, request: web.Request) -> web.Response:
        return _answer(await self._jobs.page(_wanted(request)))

    async def get(self, request: web.Request) -> web.Response:
        return _answer(await self._jobs.get(request.match_info["id"], base=api_base(request)))

    async def workflow(self, request: web.Request) -> web.Response:
        return _answer(await self._jobs.workflow(request.match_info["id"]))

    async def cancel(self, request: web.Request) -> web.Response:
        return _answer(await self._jobs.cancel(request.match_info["id"], base=api_base(request)))


def _answer(said: BaseModel, *, status: int = 200) -> web.Response:
    return web.Response(text=said.model_dump_json(), status=status, content_type="application/json")


def _wanted(request: web.Request) -> JobsWanted:
    labels: dict[str, str] = {}
    states: set[ApiStatus] = set()
    limit, cursor = _USUAL_PAGE, None
    for name, value in request.query.items():
        if (asked := _LABEL_ASKED.fullmatch(name)) is not None:
            if (problem := label_problem(asked["key"], value)) is not None:
                raise ApiRefusal("invalid_metadata_filter", problem)
            labels[asked["key"]] = value
        elif name == "status":
            states |= {_status(one) for one in value.split(",")}
        elif name == "limit":
            limit = _limit(value)
        elif name == "cursor" and value:
            cursor = value
    if len(labels) > MOST_LABELS_ASKED:
        raise ApiRefusal(
            "invalid_metadata_filter",
            f"A list is asked for {MOST_LABELS_ASKED} labels at most, not {len(labels)}.",
        )
    return JobsWanted(labels, frozenset(states), limit, cursor)


def _status(text: str) -> ApiStatus:
    try:
        return ApiStatus(text)
    except ValueError:
        known = ", ".join(one.value for one in ApiStatus)
        raise ApiRefusal("invalid_request", f"status is one of {known}.") from None


def _limit(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1:
        return min(int(text), _LARGEST_PAGE)
    raise ApiRefusal("invalid_request", "limit is a whole number from 1 on.")
