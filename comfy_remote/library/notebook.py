"""Progress in a notebook. IPython is not imported, and need not be installed: a notebook has it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from ..events import Event, Finished, Log, Progress, Queued, Started

__all__ = ["Display"]


class _Handle(Protocol):
    """What IPython's ``display(…, display_id=True)`` returns."""

    def update(self, shown: object) -> None:
        """Show that instead."""


class _Line:
    """One line that a notebook shows."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class Display:
    """Shows how a job goes, in one place of a notebook; elsewhere, nothing.

    Used as a context manager.
    """

    def __init__(self) -> None:
        self._handle: _Handle | None = None

    def __enter__(self) -> Display:
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if ipython is not None and hasattr(shell, "kernel"):
            self._handle = ipython.display.display(_Line("Sending …"), display_id=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._update(_Line(f"Stopped: {type(error).__name__}"))

    def show(self, event: Event) -> None:
        """Show it, if it says how the job goes."""
        match event:
            case Queued(position):
                self._update(_Line(f"Queued, {position} ahead" if position else "Queued"))
            case Started():
                self._update(_Line("Running"))
            case Progress():
                self._update(event)
            case Log():
                self._update(_Line(event.message))
            case Finished():
                self._update(_Line(f"The job has {event.state.value}."))

    def _update(self, shown: object) -> None:
        if self._handle is not None:
            self._handle.update(shown)
