"""The messages to a page about a remote job: those that ComfyUI sends about a local one.

Source of facts: ``PromptExecutor`` and ``execute`` in ``execution.py``, and
``WebUIProgressHandler`` in ``comfy_execution/progress.py``, of ComfyUI 0.3.64 and 0.33.0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ComfyRemoteError
from ..events import JobState, NodeText, Preview, Progress
from ..outputs import OutputProblem
from ..types import JsonValue
from ..workflow.graph import needed_nodes
from .host import Host, QueueEntry, StatusMessage
from .refusals import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


__all__ = ["JOB_EVENT", "PageMessages"]

JOB_EVENT = "comfy_remote.job"
"""Our own message, for what ComfyUI's cannot carry."""


@dataclass(frozen=True, slots=True)
class _NodeProgress:
    state: str
    value: float = 0.0
    maximum: float = 1.0


class PageMessages:
    """Sends one page the messages about one job, and collects those for the history."""

    def __init__(self, host: Host, entry: QueueEntry, target: str) -> None:
        self.history: list[StatusMessage] = []
        self.progress = Progress()
        """The newest snapshot."""
        self.phase: str | None = None
        """Why it waits, as `Phase.name`; ``None`` where nothing is known."""
        self.note = ""
        """The latest note for people."""
        self.problems: list[OutputProblem] = []
        """What a job that succeeded did not make, or not whole."""
        self.warnings: list[JsonValue] = []
        """What people need to know about the outputs, once the job has ended."""
        self._host = host
        self._entry = entry
        self._target = target
        self._nodes: dict[str, _NodeProgress] = {}
        self._executed: list[str] = []
        self._arriving: set[str] = set()
        self._unseen: set[str] = set()
        self._current: str | None = None

    def job(self, state: JobState, **more: JsonValue) -> None:
        """Send our own message: the job's state and progress, and what is said once."""
        self._send(
            JOB_EVENT,
            {
                "prompt_id": self._entry.prompt_id,
                "target": self._target,
                "state": state.value,
                "fraction": round(self.progress.fraction, 4),
                "estimated": self.progress.estimated,
                "phase": self.phase,
                "message": self.note or self.progress.message,
                "problems": [problem.to_json() for problem in self.problems],
                **({"warnings": self.warnings} if self.warnings else {}),
                **more,
            },
        )

    def started(self) -> None:
        """Send that the target has begun."""
        if self.history:
            return
        self._keep("execution_start", {"prompt_id": self._entry.prompt_id})
        # Which nodes the target has in its cache is not known yet: see `_came_before`.
        self._keep("execution_cached", {"nodes": [], "prompt_id": self._entry.prompt_id})

    def moved(self, progress: Progress) -> None:
        """Send a new snapshot of the progress."""
        self.started()
        self.progress = progress
        node_id = progress.node_id
        if node_id != self._current:
            if self._current is not None:
                self._node_finished(self._current)
            self._current = node_id
            if node_id is not None:
                self._came_before(node_id)
                self._report(node_id, _NodeProgress("running"))
                self._send("executing", self._display(node_id))
        if node_id is not None and progress.step is not None and progress.steps:
            self._stepped(node_id, progress.step, progress.steps)
        self.job(JobState.RUNNING)

    def waits_again(self) -> None:
        """Send that the target has taken it back into its queue: nothing of it has run."""
        self.progress, self.note = Progress(), ""
        self._nodes, self._current = {}, None
        self._executed.clear()
        self._send_state()

    def all_ran(self) -> None:
        """Send the nodes that were too quick to be seen as running, as they were for a moment.

        With that, a page removes the preview that an earlier job has left on a node.
        """
        self.started()
        ran = needed_nodes(self._entry.prompt, self._entry.outputs)
        unseen = [n for n in ran if n not in self._nodes and n not in self._arriving]
        if unseen:
            self._nodes.update(dict.fromkeys(unseen, _NodeProgress("running")))
            self._send_state()

    def preview(self, preview: Preview) -> None:
        """Send a picture of work in progress."""
        node_id = preview.node_id or self._current
        if node_id is None:
            return
        self._host.send_preview(
            preview.data, preview.media_type, self._ids(node_id), self._entry.client_id
        )

    def text(self, text: NodeText) -> None:
        """Send a text that a node shows while it runs."""
        self._host.send_text(text.text, text.node_id, self._entry.client_id)

    def arriving(self, node_id: str) -> None:
        """Note that outputs of a node are being fetched: it finishes when they are here."""
        self._arriving.add(node_id)

    def executed(self, node_id: str, shown: Mapping[str, JsonValue]) -> None:
        """Send what a node shows; its outputs are here."""
        self.started()
        self._arriving.discard(node_id)
        self._send("executed", {**self._display(node_id), "output": dict(shown)})
        if node_id != self._current:
            self._node_finished(node_id)

    def succeeded(self) -> None:
        """Send that the job succeeded; all outputs are here."""
        self.started()
        for node_id in [n for n, one in self._nodes.items() if one.state == "running"]:
            self._node_finished(node_id)
        self._current = None
        self._keep("execution_success", {"prompt_id": self._entry.prompt_id})

    def interrupted(self) -> None:
        """Send that the job was cancelled."""
        self.started()
        where = self._where(self._current or "", None)
        executed: list[JsonValue] = [*self._executed]
        self._keep("execution_interrupted", {**where, "executed": executed}, broadcast=True)

    def failed(self, error: ComfyRemoteError) -> None:
        """Send that the job failed, and where.

        A node is named only where the error has one: the page paints that one red. Without a node,
        pages put the ``exception_type`` before the message, as its title.
        """
        self.started()
        node_id = str(error.details.get("node_id") or "")
        node_class = error.details.get("node_class")
        kind = str(error.details.get("exception_type") or "")
        trace = str(error.details.get("traceback") or "")
        data: dict[str, JsonValue] = {
            **self._where(node_id, str(node_class) if node_class else None),
            "executed": [*self._executed],
            "exception_message": named(self._target, str(error)),
            "exception_type": kind if node_id and kind else "Remote job",
            "traceback": list(trace.splitlines(keepends=True)),
            "current_inputs": {},
            "current_outputs": [],
        }
        self._keep("execution_error", data)

    def ended(self) -> None:
        """Send the last message: the job is in the history."""
        self._send("executing", {"node": None, "prompt_id": self._entry.prompt_id})

    def repeat(self) -> None:
        """Send the job's whole state to a page that has just connected."""
        for event, data in self.history:
            self._send(event, data)
        if self._unseen:
            self._send_cached(self._unseen)
        if self._nodes:
            self._send_state()
        if self._current is not None:
            self._send("executing", self._display(self._current))

    def _came_before(self, node_id: str) -> None:
        """Send the inputs of a node that runs as cached, unless they were seen to run.

        They were in the target's cache, or too quick to be seen; the page counts them as done.
        """
        if node_id not in self._entry.prompt:
            return
        seen = {node_id, *self._nodes, *self._arriving, *self._unseen}
        unseen = set(needed_nodes(self._entry.prompt, [node_id])) - seen
        if unseen:
            self._unseen |= unseen
            self._send_cached(unseen)

    def _send_cached(self, nodes: Iterable[str]) -> None:
        self._send(
            "execution_cached",
            {
                "nodes": [*sorted(nodes)],
                "prompt_id": self._entry.prompt_id,
                "timestamp": int(time.time() * 1000),
            },
        )

    def _stepped(self, node_id: str, step: float, steps: float) -> None:
        known = self._nodes.get(node_id)
        progress = _NodeProgress("running", step, steps)
        if progress == known:
            return
        self._report(node_id, progress)
        self._send(
            "progress",
            {
                "value": _whole(step),
                "max": _whole(steps),
                "prompt_id": self._entry.prompt_id,
                "node": node_id,
            },
            broadcast=True,
        )

    def _node_finished(self, node_id: str) -> None:
        known = self._nodes.get(node_id, _NodeProgress("running"))
        if known.state != "finished" and node_id not in self._arriving:
            self._executed.append(node_id)
            self._report(node_id, _NodeProgress("finished", known.maximum, known.maximum))

    def _report(self, node_id: str, progress: _NodeProgress) -> None:
        self._nodes[node_id] = progress
        self._send_state()

    def _send_state(self) -> None:
        prompt_id = self._entry.prompt_id
        nodes: dict[str, JsonValue] = {
            node_id: {
                "value": progress.value,
                "max": progress.maximum,
                "state": progress.state,
                **self._ids(node_id),
            }
            for node_id, progress in self._nodes.items()
        }
        self._send("progress_state", {"prompt_id": prompt_id, "nodes": nodes}, broadcast=True)

    def _ids(self, node_id: str) -> dict[str, JsonValue]:
        """A node as previews and progress name it."""
        return {
            "node_id": node_id,
            "prompt_id": self._entry.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }

    def _where(self, node_id: str, node_class: str | None) -> dict[str, JsonValue]:
        node = self._entry.prompt.get(node_id)
        return {
            "prompt_id": self._entry.prompt_id,
            "node_id": node_id,
            "node_type": node["class_type"] if node else node_class or "",
        }

    def _display(self, node_id: str) -> dict[str, JsonValue]:
        shown_on = node_id
        # A node that another expanded into: ComfyUI shows what it does on that one.
        while shown_on not in self._entry.prompt and "." in shown_on:
            shown_on = shown_on.rpartition(".")[0]
        if shown_on not in self._entry.prompt:
            shown_on = node_id
        return {"node": node_id, "display_node": shown_on, "prompt_id": self._entry.prompt_id}

    def _keep(self, event: str, data: dict[str, JsonValue], *, broadcast: bool = False) -> None:
        stamped = {**data, "timestamp": int(time.time() * 1000)}
        self.history.append((event, stamped))
        self._send(event, stamped, broadcast=broadcast)

    def _send(self, event: str, data: dict[str, JsonValue], *, broadcast: bool = False) -> None:
        """Send it to the page; without one, to all if ComfyUI does so (progress, interruptions)."""
        if self._entry.client_id is not None or broadcast:
            self._host.send(event, data, self._entry.client_id)


def _whole(number: float) -> int | float:
    """A whole number as an int, as ComfyUI's nodes send steps."""
    return int(number) if float(number).is_integer() else number
