"""The slowest transfer that is accepted. One that brings a byte now and then would never end.

A connection that brings nothing at all ends by its own timeout.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from ..errors import TargetUnreachable

__all__ = ["TOO_SLOW", "Throughput"]

TOO_SLOW = "too_slow"
"""In the details of the error."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """At least ``size`` bytes in each ``seconds``."""

    size: int = 32 * 1024
    seconds: float = 60.0

    async def watched(
        self, chunks: AsyncIterator[bytes], where: str
    ) -> AsyncGenerator[bytes, None]:
        """The same chunks, as long as they come fast enough.

        Args:
            where: What sends them, for the error.

        Raises:
            TargetUnreachable: They do not.
        """
        began, arrived = time.monotonic(), 0
        async for chunk in chunks:
            arrived += len(chunk)
            yield chunk
            if time.monotonic() - began < self.seconds:
                continue
            if arrived < self.size:
                raise TargetUnreachable(
                    f"{where} sent {arrived} bytes in {self.seconds:g} s, which is too slow to go "
                    "on with.",
                    advice="Check the connection, and try again.",
                    details={TOO_SLOW: True},
                )
            began, arrived = time.monotonic(), 0
