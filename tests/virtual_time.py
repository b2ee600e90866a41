"""An event loop whose time passes only when nothing is left to do: seconds cost nothing, and a busy
machine changes nothing.

For tests of what happens in one event loop alone. Threads and sockets need real time: while one is
waited for, this loop would let hours pass.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

__all__ = ["in_virtual_time"]


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Never waits for a timer: the clock goes on to it at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout > 0:
            # Rounded up, or the loop would ask for a rest that no float of this size can add.
            self.now += max(timeout, 1e-6)
            timeout = 0
        return super().select(timeout)  # type: ignore[no-any-return]


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._own = _Selector()
        super().__init__(self._own)

    def time(self) -> float:
        return self._own.now


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of that kind; `time.monotonic` is the loop's, too."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = _Loop()
        try:
            with patch.object(time, "monotonic", loop.time):
                loop.run_until_complete(test(*args, **kwargs))
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    return run
