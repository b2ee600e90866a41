"""One line in the log for each request, with ``-v`` or ``DEBUG=1``.

Method, host, path, status and time. No query, which may be a signature, and no headers or bodies.
"""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import aiohttp
from yarl import URL

__all__ = ["logged_requests"]

_log = logging.getLogger(__name__)


def logged_requests() -> aiohttp.TraceConfig:
    """For the ``trace_configs`` of a session. Costs nothing unless the log is read."""
    trace = aiohttp.TraceConfig()
    if not _log.isEnabledFor(logging.DEBUG):
        return trace
    trace.on_request_start.append(_began)
    trace.on_request_end.append(_answered)
    trace.on_request_exception.append(_failed)
    return trace


async def _began(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestStartParams,
) -> None:
    context.began = time.perf_counter()


async def _answered(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestEndParams,
) -> None:
    _line(params.method, params.url, str(params.response.status), context)


async def _failed(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestExceptionParams,
) -> None:
    # Its class only: its words may have the whole address.
    _line(params.method, params.url, type(params.exception).__name__, context)


def _line(method: str, url: URL, outcome: str, context: SimpleNamespace) -> None:
    milliseconds = (time.perf_counter() - context.began) * 1000
    where = f"{url.host}:{url.port}" if not url.is_default_port() else url.host
    _log.debug("%s %s%s: %s in %.0f ms", method, where, url.raw_path, outcome, milliseconds)
