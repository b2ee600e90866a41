"""Telling a client's address that its job is final."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from yarl import URL

__all__ = ["deliver"]

_ATTEMPTS = 3
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_log = logging.getLogger(__name__)


async def deliver(address: str, body: bytes, *, retry_delay: float) -> bool:
    """POST ``body`` (what ``/status`` answers) until it is answered by 200, three times at most.

    Redirects are not followed. What fails is logged, not raised: nobody waits for it.

    Returns:
        Whether it was accepted.
    """
    url = URL(address)
    host = url.host
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(retry_delay)
            try:
                async with session.post(
                    url,
                    data=body,
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as response:
                    if response.status == 200:
                        return True
                    _log.warning("The webhook at %s answered %d.", host, response.status)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                _log.warning("The webhook at %s could not be reached: %s.", host, error)
    return False
