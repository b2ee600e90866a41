"""Log handlers that write no secret, and one line for each message."""

from __future__ import annotations

import logging
import os

from ..clean import clean, one_line
from ..secrets import redact

__all__ = ["CleanRecords", "clean_handlers", "log_to_stderr"]

_FORMATTER = logging.Formatter()


class CleanRecords(logging.Filter):
    """For a handler: takes secrets and control characters out of what it is to write.

    A record's message becomes one line, since it may hold what a stranger has sent; the lines of
    a traceback stay.

    Args:
        name: Only records of loggers below this one are touched; all of them pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record, which always passes."""
        if self.name and not super().filter(record):
            return True
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # as logging itself reports it, without its arguments
            message = str(record.msg)
        record.msg, record.args = one_line(redact(message, os.environ)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = clean(redact(record.exc_text, os.environ))
        if record.stack_info:
            record.stack_info = clean(redact(record.stack_info, os.environ))
        return True


def log_to_stderr(level: int, form: str, datefmt: str | None = None) -> None:
    """Log to standard error, clean. Where there are handlers already, they become clean."""
    logging.basicConfig(level=level, format=form, datefmt=datefmt)
    clean_handlers()


def clean_handlers(name: str = "") -> None:
    """Have this process's handlers write clean records; see `CleanRecords`.

    This includes the one that writes warnings where no log is set up.
    """
    last = [logging.lastResort] if logging.lastResort is not None else []
    for handler in [*logging.getLogger().handlers, *last]:
        known = (one.name for one in handler.filters if isinstance(one, CleanRecords))
        if name not in known:
            handler.addFilter(CleanRecords(name))
