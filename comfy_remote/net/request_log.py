"""One line in the log for each request, with ``-v`` or ``DEBUG=1``.

Method, host, path, status and time. No query, which may be a signature, and no headers or bodies.
"""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import aiohttp

__all__ = ["logged_requests"]

_log = logging.getLogger(__name__)


def logged_requests() -> aiohttp.TraceConfig:
    """For the ``trace_configs`` of a session. Costs nothing unless the log is read."""
    trace = aiohttp.TraceConfig()
    if not _log.isEnabledFor(logging.DEBUG):
        return trace
    trace.on_request_start.append(_began)
    trace.on_request_end.append(_ended)
    trace.on_request_exception.append(_ended)
    return trace


async def _began(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.began = time.perf_counter()


async def _ended(
    _session: object,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestEndParams | aiohttp.TraceRequestExceptionParams,
) -> None:
    if isinstance(params, aiohttp.TraceRequestEndParams):
        outcome = str(params.response.status)
    else:
        outcome = type(params.exception).__name__  # its text may have the whole address
    milliseconds, url = (time.perf_counter() - context.began) * 1000, params.url
    where = url.host if url.is_default_port() else f"{url.host}:{url.port}"
    _log.debug("%s %s%s: %s in %.0f ms", params.method, where, url.raw_path, outcome, milliseconds)
