"""`asyncio.timeout`; on Python 3.10, which lacks it, the one of aiohttp's own dependency."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = ["timeout"]
