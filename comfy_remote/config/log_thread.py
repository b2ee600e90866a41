"""A log that holds up nobody: a thread writes it.

A terminal may be paused (Ctrl-S, a selection in a Windows console), and a pipe may be full. Whoever
logs, an event loop above all, must not wait for that.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from copy import copy
from logging.handlers import QueueHandler

__all__ = ["LogThread", "log_in_thread"]

_MOST = 10_000
_PATIENCE = 1.0


class LogThread(QueueHandler):
    """Has a thread hand records to other handlers, with all that these do: cleaning, writing.

    Args:
        handlers: They are called in the thread.
        most: Records that may wait. Those that exceed it are lost; how many is said when there is
            room again.
    """

    def __init__(self, *handlers: logging.Handler, most: int = _MOST) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(most)
        super().__init__(self._records)
        self._handlers = handlers
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with its message as it is now; a traceback has lines of its own."""
        ready = copy(record)
        try:
            ready.msg, ready.args = record.getMessage(), None
        except (TypeError, ValueError):
            ready.args = None  # as logging itself reports it, without its arguments
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Have a record written, if there is room for it."""
        try:
            if self._lost:
                self._records.put_nowait(_about_lost(self._lost))
                self._lost = 0
            self._records.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what waits, for a moment at most."""
        try:
            self._records.put(None, timeout=_PATIENCE)
        except queue.Full:
            return
        self._thread.join(_PATIENCE)
        super().close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            for handler in self._handlers:
                handler.handle(record)


def log_in_thread() -> None:
    """Have a thread write what this process logs from now on."""
    root = logging.getLogger()
    thread = LogThread(*root.handlers)
    root.handlers[:] = [thread]
    atexit.register(thread.close)


def _about_lost(count: int) -> logging.LogRecord:
    words = "%d lines of the log were lost: it could not be written as fast as it grew."
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, (count,), None)
