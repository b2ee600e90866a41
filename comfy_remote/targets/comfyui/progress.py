"""From ComfyUI's messages to one snapshot of where a prompt stands. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...events import Progress
from ...types import JsonValue
from ...workflow.graph import needed_nodes
from ...workflow.prompt import Prompt

__all__ = ["ProgressTracker"]


class ProgressTracker:
    """Keeps the snapshot of one prompt.

    Nodes that others expand into at run time (ids like ``5.0.1``) count as the node that the
    person drew, which ComfyUI names in ``display_node``.
    """

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._needed = set(prompt)
        self._done: set[str] = set()
        self._current: str | None = None
        self._step: float | None = None
        self._steps: float | None = None

    @property
    def current(self) -> str | None:
        """The node that is running."""
        return self._current

    def wanted(self, outputs: Iterable[str]) -> None:
        """Take note of which nodes were asked for (``/queue`` tells)."""
        self._needed = set(needed_nodes(self._prompt, outputs)) or self._needed

    def cached(self, nodes: JsonValue) -> None:
        """``execution_cached``: these will not run."""
        if isinstance(nodes, list):
            self._done.update(n for n in nodes if isinstance(n, str) and n in self._prompt)

    def executing(self, node_id: str | None) -> None:
        """``executing``: this node begins, so the one before it is done."""
        if node_id == self._current:
            return
        if self._current is not None:
            self._done.add(self._current)
        self._current = node_id
        self._step = self._steps = None

    def executed(self, node_id: str) -> None:
        """``executed``: this node has finished and shown something."""
        if node_id in self._prompt:
            self._done.add(node_id)

    def progress(self, node_id: str | None, value: JsonValue, maximum: JsonValue) -> None:
        """``progress``: steps of one node."""
        if node_id is not None and node_id in self._prompt and node_id != self._current:
            self.executing(node_id)
        step, steps = _number(value), _number(maximum)
        if step is not None and steps is not None and steps > 0:
            self._step, self._steps = min(max(step, 0.0), steps), steps

    def state(self, nodes: JsonValue) -> None:
        """``progress_state``: all nodes at once."""
        if not isinstance(nodes, dict):
            return
        for node in nodes.values():
            if not isinstance(node, dict):
                continue
            own = str(node.get("node_id", ""))
            shown = str(node.get("display_node_id") or own)
            if node.get("state") == "running" and shown in self._prompt:
                maximum = _number(node.get("max"))
                if maximum is not None and maximum > 1:
                    self.progress(shown, node.get("value"), maximum)
                elif self._current is None:
                    self.executing(shown)
            elif node.get("state") == "finished" and own in self._prompt:
                self._done.add(own)

    def finished(self) -> None:
        """The prompt has succeeded: everything is done."""
        self._done |= self._needed
        self._current = self._step = self._steps = None

    def snapshot(self) -> Progress:
        """Where the prompt stands now."""
        current = self._current
        node = self._prompt.get(current) if current else None
        return Progress(
            nodes_done=len((self._done & self._needed) - ({current} if current else set())),
            nodes_total=len(self._needed),
            node_id=current,
            node_class=node["class_type"] if node else None,
            step=self._step,
            steps=self._steps,
        )


def _number(value: JsonValue) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no largest one
        return None
    return number if math.isfinite(number) else None
