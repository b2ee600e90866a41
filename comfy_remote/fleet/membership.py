"""Ends a worker whose machine is no longer in the cluster.

A machine that is cut off runs on, and nobody can see that. So its worker ends by itself once the
machine has been out of the cluster for `settings.WorkersSettings.away` seconds; whoever waits for
longer than that (see `surely_ended`), from the moment at which the cluster has given the machine
up, knows that the worker is dead, and its job may be started once more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

__all__ = ["Membership", "surely_ended"]

_EVERY = 2.0
_WATCH_EVERY = 0.5

_log = logging.getLogger(__name__)


class Membership:
    """Asks whether this machine is in the cluster; where it is not, the process ends.

    Args:
        is_member: Asks the cluster. It may block for long, or raise.
        patience: Seconds.
        end: Ends the process, without cleaning up: the machine's guard ends the engine.
    """

    def __init__(
        self,
        is_member: Callable[[], bool],
        *,
        patience: float,
        every: float = _EVERY,
        end: Callable[[], None] = lambda: os._exit(1),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_member = is_member
        self._patience = patience
        self._every = min(every, patience / 4)
        self._end = end
        self._monotonic = monotonic
        self._last = monotonic()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch, in threads of its own: a question that hangs must not hold up the end."""
        for work in (self._ask, self._watch):
            threading.Thread(target=work, name="membership", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _ask(self) -> None:
        while not self._stopped.wait(self._every):
            asked = self._monotonic()
            try:
                member = self._is_member()
            except Exception as error:  # noqa: BLE001 - Ray raises what it likes; none is an answer
                _log.warning("The cluster does not answer: %s", error)
                continue
            if member:
                # What was true when it was asked: the answer may have been on its way for long.
                self._last = asked

    def _watch(self) -> None:
        while not self._stopped.wait(min(_WATCH_EVERY, self._every)):
            if self._monotonic() - self._last > self._patience:
                _log.error("This machine is not in the cluster any more: its worker ends.")
                self._end()
                return


def surely_ended(away: float) -> float:
    """Seconds after which a worker that ends after ``away`` has ended.

    What kills its engine looks twice a second, and clocks run apart.
    """
    return away * 1.5 + _WATCH_EVERY * 4
