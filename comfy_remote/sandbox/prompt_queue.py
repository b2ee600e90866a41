"""What waits, what runs and what has run."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..workflow.prompt import Prompt

__all__ = ["PromptQueue", "QueuedPrompt"]

_LONGEST_HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """One prompt that was accepted.

    Attributes:
        number: Decides the order; lower comes first.
        outputs: The output nodes to run.
    """

    number: float
    prompt_id: str
    prompt: Prompt
    extra_data: dict[str, JsonValue]
    outputs: list[str] = field(default_factory=list)

    def to_json(self) -> list[object]:
        """``[number, prompt_id, prompt, extra_data, outputs]``, as ``/queue`` shows it."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


class PromptQueue:
    """A queue and a history, shared by the event loop and the thread that runs prompts.

    Args:
        changed: Called after every change, from either thread.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._waiting: list[tuple[float, int, QueuedPrompt]] = []
        self._arrival = itertools.count()
        self._numbers = itertools.count()
        self._running: QueuedPrompt | None = None
        self._shown: dict[str, QueuedPrompt] = {}
        self._history: dict[str, dict[str, object]] = {}
        self.interrupt = threading.Event()
        """Set while the running prompt is to be interrupted."""
        self._forget_results = False
        self._closed = False

    def next_number(self) -> int:
        """The number for a prompt that has none."""
        return next(self._numbers)

    def put(self, item: QueuedPrompt) -> None:
        """Add a prompt."""
        with self._lock:
            heapq.heappush(self._waiting, (item.number, next(self._arrival), item))
            self._wake.notify()
        self._changed()

    def take(self) -> QueuedPrompt | None:
        """Wait for the next prompt and mark it as running; ``None`` once closed.

        An interrupt meant for an earlier prompt is dropped here, under the lock, so that one for
        this prompt cannot be lost.
        """
        with self._lock:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            _, _, item = heapq.heappop(self._waiting)
            self._running = item
            self.interrupt.clear()
        self._changed()
        return item

    def finish(self, result: dict[str, object]) -> None:
        """Move the running prompt into the history, with ``result`` beside its ``prompt``."""
        with self._lock:
            if self._running is None:
                raise RuntimeError("No prompt is running")
            self._remember(self._running, result)
            self._running = None
        self._changed()

    @property
    def running(self) -> QueuedPrompt | None:
        """What the sandbox itself runs."""
        with self._lock:
            return self._running

    def show(self, item: QueuedPrompt) -> None:
        """Count a prompt that runs somewhere else among those that run."""
        with self._lock:
            self._shown[item.prompt_id] = item
        self._changed()

    def finish_shown(self, prompt_id: str, result: dict[str, object]) -> None:
        """Move a prompt that ran somewhere else into the history."""
        with self._lock:
            self._remember(self._shown.pop(prompt_id), result)
        self._changed()

    def announce(self) -> None:
        """Report a change of a prompt that runs somewhere else."""
        self._changed()

    def _remember(self, item: QueuedPrompt, result: dict[str, object]) -> None:
        if len(self._history) >= _LONGEST_HISTORY:
            del self._history[next(iter(self._history))]
        self._history[item.prompt_id] = {"prompt": item.to_json(), **result}

    def interrupt_running(self, prompt_id: str | None = None) -> bool:
        """Stop what runs, if it is the prompt named (or whatever it is, without a name)."""
        with self._lock:
            running = self._running
            if running is None or (prompt_id and running.prompt_id != prompt_id):
                return False
            self.interrupt.set()
            return True

    def delete(self, prompt_ids: Sequence[object]) -> None:
        """Drop prompts that wait."""
        with self._lock:
            self._waiting = [one for one in self._waiting if one[2].prompt_id not in prompt_ids]
            heapq.heapify(self._waiting)
        self._changed()

    def clear(self) -> None:
        """Drop all prompts that wait."""
        with self._lock:
            self._waiting = []
        self._changed()

    def remaining(self) -> int:
        """How many wait or run."""
        with self._lock:
            return len(self._waiting) + len(self._shown) + (self._running is not None)

    def snapshot(self) -> tuple[list[QueuedPrompt], list[QueuedPrompt]]:
        """What runs, and what waits in the order it will run."""
        with self._lock:
            running = [*([self._running] if self._running else []), *self._shown.values()]
            return running, [item for _, _, item in sorted(self._waiting, key=lambda e: e[:2])]

    def history(
        self, prompt_id: str | None = None, max_items: int | None = None, offset: int = -1
    ) -> dict[str, dict[str, object]]:
        """The history, oldest first; the newest ``max_items`` unless there is an ``offset``."""
        with self._lock:
            if prompt_id is not None:
                entry = self._history.get(prompt_id)
                return {} if entry is None else {prompt_id: entry}
            items = list(self._history.items())
        if max_items is None:
            return dict(items[max(0, offset) :])
        start = len(items) - max_items if offset < 0 else offset
        return dict(items[max(0, start) :][:max_items])

    def delete_history(self, prompt_ids: Sequence[object]) -> None:
        """Forget prompts that have run."""
        with self._lock:
            for prompt_id in prompt_ids:
                if isinstance(prompt_id, str):
                    self._history.pop(prompt_id, None)

    def clear_history(self) -> None:
        """Forget everything that has run."""
        with self._lock:
            self._history = {}

    def forget_results(self) -> None:
        """Ask for the cache of results to be emptied before the next prompt."""
        with self._lock:
            self._forget_results = True

    def take_forget_results(self) -> bool:
        """Whether that was asked for since the last call."""
        with self._lock:
            asked, self._forget_results = self._forget_results, False
            return asked

    def close(self) -> None:
        """Stop what runs, and let `take` return ``None``."""
        with self._lock:
            self._closed = True
            self.interrupt.set()
            self._wake.notify_all()
