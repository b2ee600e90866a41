"""`asyncio.timeout`, which Python 3.10 does not have: there it is aiohttp's own dependency."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = ["timeout"]
