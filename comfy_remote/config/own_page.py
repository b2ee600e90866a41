"""Refuses requests of other sites' pages: `net.page_origin`, with the names the owner allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from ..errors import AuthenticationError, ConfigurationError
from ..net.own_names import allowed_by_environment
from ..net.page_origin import origin_refusal, page_refusal
from .folders import CONFIG_NAME, owner_folders
from .settings import Configuration

__all__ = ["refusal_of_other_origin", "refusal_of_page"]

_log = logging.getLogger(__name__)


async def refusal_of_page(method: str, headers: Mapping[str, str]) -> AuthenticationError | None:
    """Why a request is refused, if another site's page may have made it; else ``None``."""
    if page_refusal(method, headers) is None:
        return None
    # Not read for each of the page's own requests.
    allowed, file = await asyncio.to_thread(_allowed_hosts)
    return page_refusal(method, headers, allowed, file=file)


async def refusal_of_other_origin(headers: Mapping[str, str]) -> AuthenticationError | None:
    """The same, if the browser says that another page made it; whatever host is asked for."""
    if origin_refusal(headers) is None:
        return None
    allowed, file = await asyncio.to_thread(_allowed_hosts)
    return origin_refusal(headers, allowed, file=file)


def _allowed_hosts() -> tuple[tuple[str, ...], str]:
    """Further names of this machine's servers, and the file that more can be written into."""
    try:
        listed = Configuration.load().allowed_hosts
    except ConfigurationError as error:
        _log.warning("No further names of this server are known. %s", error)
        listed = ()
    return (*listed, *allowed_by_environment()), str(owner_folders()[0] / CONFIG_NAME)
