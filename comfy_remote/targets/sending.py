"""Whether a submission that is interrupted has sent its job yet.

A target's `submit` says by `base.before_sending` while it only prepares (it sends files, or waits
for a full queue). Interrupted then, the job surely runs nowhere, and there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Sending"]

_current: ContextVar[Sending | None] = ContextVar("sending", default=None)


class Sending:
    """How far one submission is, or several that begin inside of one `watched`."""

    def __init__(self) -> None:
        self._parts: list[Sending] = []
        self._preparing = False
        self.stopped = False
        """Whether it is not to go on: nobody wants the job any more."""

    @staticmethod
    def current() -> Sending | None:
        """The one that is watched where this is called."""
        return _current.get()

    @property
    def surely_not(self) -> bool:
        """Whether nothing has been sent that could make a job run."""
        return all(part.surely_not for part in self._parts) if self._parts else self._preparing

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Submissions that begin inside, also in tasks, are this one's."""
        if (outer := _current.get()) is not None:
            outer._parts.append(self)
            self.stopped = outer.stopped
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def stop(self) -> None:
        """Let nothing be sent any more, after what is on its way now."""
        self.stopped = True
        for part in self._parts:
            part.stop()

    def prepares(self) -> None:
        """Note that nothing has been sent that counts: what was, if any, has been refused.

        Raises:
            asyncio.CancelledError: It was stopped.
        """
        self._preparing = True
        self._check()

    def sends(self) -> None:
        """Note that the job is about to be sent.

        Raises:
            asyncio.CancelledError: It was stopped.
        """
        self._check()
        self._preparing = False

    def _check(self) -> None:
        if self.stopped:
            raise asyncio.CancelledError
