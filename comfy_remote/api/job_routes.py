"""The routes of jobs: post, look, cancel, list."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from .jobs import ApiJobs

__all__ = ["job_routes"]


def job_routes(jobs: ApiJobs, base: Callable[[web.Request], str]) -> list[web.RouteDef]:
    """The routes; who may use them is up to the server. Those of events: `event_routes`.

    Args:
        base: The address of the API as a request reached it: ``http://HOST:PORT/api/v2``.
    """
    raise NotImplementedError
