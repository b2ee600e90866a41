"""Saying how a batch ended to somebody who does not look: ``--notify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import ComfyRemoteError, JobCancelled
from ...jobs.record import BatchState
from ...units import counted
from ..console import json_text, printable_line
from ..interrupt import run_interruptible
from ..reporter import LINES_VERSION
from .reporter import ended_json
from .words import failed_of

if TYPE_CHECKING:
    from ...batch.events import Stopped

__all__ = ["Notified"]

_STATES = {
    BatchState.ENDED: "succeeded",
    BatchState.CANCELLED: "cancelled",
    BatchState.PAUSED: "incomplete",
}


class Notified:
    """Whom to tell how a batch ended.

    Args:
        notify: The values of ``--notify``.

    Raises:
        ConfigurationError: One of them cannot work.
    """

    def __init__(self, notify: Sequence[str]) -> None:
        from ..notify import way_of

        self._ways = [way_of(text) for text in notify]

    def stopped(self, stopped: Stopped) -> None:
        """It has ended, was cancelled, or is paused. Blocking."""
        if not self._ways:
            return
        entry = stopped.entry
        state = _STATES.get(entry.state, "failed")
        if state == "succeeded" and entry.succeeded < entry.count:
            state = "incomplete"
        words = (
            f"Batch {entry.name} on {entry.target}: {entry.succeeded} of "
            f"{counted(entry.count, 'run')} succeeded, {entry.failed} failed. {entry.why or ''}"
        )
        line = ended_json(stopped, failed_of(entry), None)
        self._say(state, words, line, entry.id, entry.target)

    def failed(self, error: ComfyRemoteError) -> None:
        """It did not begin, or the command was stopped. Blocking."""
        if not self._ways:
            return
        state = "cancelled" if isinstance(error, JobCancelled) else "failed"
        line = {"event": "error", **error.to_json(), "resume": None}
        self._say(state, f"{state.capitalize()}: {error.message}", line, "", "")

    def _say(
        self, state: str, words: str, line: Mapping[str, object], batch_id: str, target: str
    ) -> None:
        from ..notify import Ending, say_all

        whose = {"batch_id": batch_id or None, "job_id": None, "version": LINES_VERSION}
        text = json_text({**line, **whose})
        ending = Ending(state, printable_line(words).strip(), batch_id, target, text)
        run_interruptible(say_all(self._ways, ending))
