"""The slowest transfer that is accepted: one that brings a byte now and then would never end.

A connection that brings nothing at all ends by its own timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable

from ..data_class import dataclass

__all__ = ["TOO_SLOW", "Throughput", "TooSlow"]

TOO_SLOW = "too_slow"
"""In the details of an error for a transfer that was too slow."""


class TooSlow(asyncio.TimeoutError):
    """The bytes arrive too slowly to wait for them."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """At least ``size`` bytes in each ``seconds`` of waiting for them."""

    size: int = 32 * 1024
    seconds: float = 60.0

    async def watched(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The same chunks, as long as they arrive fast enough.

        Measured again and again, so that a transfer that began fast may not drip later. The time
        that the consumer takes between them does not count.

        Raises:
            TooSlow: They do not; what had arrived was yielded before.
        """
        arrived, waited, since = 0, 0.0, time.monotonic()
        async for chunk in chunks:
            arrived += len(chunk)
            waited += time.monotonic() - since
            yield chunk
            if waited >= self.seconds:
                if arrived < self.size:
                    raise TooSlow(f"sent {arrived} bytes in {waited:.0f} s, which is too slow")
                arrived, waited = 0, 0.0
            since = time.monotonic()
