"""What a run tells its client and leaves in the history: ComfyUI's messages, in its order."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from PIL.Image import Image
from pydantic import JsonValue

from ..workflow.check.validation import full_type_name
from .prompt_queue import QueuedPrompt
from .sockets import SocketHub

__all__ = ["RunReport"]

_OUT_OF_MEMORY_ADVICE = "The node ran out of memory. Try smaller images or a smaller batch."


@dataclass(slots=True)
class _Progress:
    state: str
    value: float = 0.0
    maximum: float = 1.0


class RunReport:
    """The messages of one run.

    Attributes:
        client_id: Who started the prompt; most messages go nowhere without one.
        messages: ``[event, data]`` pairs for the history's ``status``.
    """

    def __init__(self, item: QueuedPrompt, messenger: SocketHub) -> None:
        client_id = item.extra_data.get("client_id")
        self.client_id = client_id if isinstance(client_id, str) else None
        self.messages: list[list[object]] = []
        self._item = item
        self._messenger = messenger
        self._progress: dict[str, _Progress] = {}
        self._executed: list[str] = []

    def started(self) -> None:
        """The prompt has begun."""
        self._message("execution_start", {"prompt_id": self._item.prompt_id})

    def cached(self, node_ids: list[str]) -> None:
        """These nodes need not run."""
        data = {"nodes": node_ids, "prompt_id": self._item.prompt_id}
        self._message("execution_cached", data)

    def succeeded(self) -> None:
        """All nodes have run."""
        self._message("execution_success", {"prompt_id": self._item.prompt_id})

    def interrupted(self, node_id: str) -> None:
        """The prompt was interrupted at this node."""
        data = {**self._facts(node_id), "executed": list(self._executed)}
        self._message("execution_interrupted", data, broadcast=True)

    def failed(self, node_id: str, error: Exception, inputs: Mapping[str, list[object]]) -> None:
        """The node raised ``error``; each input is a list, which mostly has one item."""
        kind = full_type_name(type(error))
        advice = _OUT_OF_MEMORY_ADVICE if kind == "torch.OutOfMemoryError" else ""
        data = {
            **self._facts(node_id),
            "executed": list(self._executed),
            "exception_message": f"{error}\n{advice}",
            "exception_type": kind,
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {
                name: [
                    value if isinstance(value, (int, float, str)) else str(value)
                    for value in values
                ]
                for name, values in inputs.items()
            },
            "current_outputs": list(self._item.prompt),
        }
        self._message("execution_error", data)

    def finished(self) -> None:
        """The history has the prompt. Sent last, success or not."""
        self._messenger.set_executing(None, None)
        if self.client_id is not None:
            self._send("executing", {"node": None, "prompt_id": self._item.prompt_id})

    def node_started(self, node_id: str) -> None:
        """The node is about to run."""
        self._report(node_id, _Progress("running"))
        if self.client_id is not None:
            self._messenger.set_executing(self.client_id, node_id)
            self._send("executing", self._display(node_id))

    def node_progress(
        self,
        node_id: str,
        value: float,
        maximum: float,
        preview: Image | None,
        *,
        whole: bool = False,
    ) -> None:
        """The node has done ``value`` of ``maximum`` steps."""
        prompt_id = self._item.prompt_id
        self._report(node_id, _Progress("running", value, maximum))
        self._send(
            "progress", {"value": value, "max": maximum, "prompt_id": prompt_id, "node": node_id}
        )
        if preview is not None:
            metadata: dict[str, JsonValue] = {
                "node_id": node_id,
                "prompt_id": prompt_id,
                "display_node_id": node_id,
                "parent_node_id": None,
                "real_node_id": node_id,
            }
            self._messenger.send_preview(preview, metadata, self.client_id, whole=whole)

    def node_finished(
        self, node_id: str, ui: Mapping[str, JsonValue] | None, *, from_cache: bool
    ) -> None:
        """The node has run, or its result was there already."""
        if self.client_id is not None and (ui or from_cache):
            self._send("executed", {**self._display(node_id), "output": ui})
        entry = self._progress.get(node_id, _Progress("running"))
        self._report(node_id, _Progress("finished", entry.maximum, entry.maximum))
        if not from_cache:
            self._executed.append(node_id)

    def _send(self, event: str, data: Mapping[str, object]) -> None:
        self._messenger.send(event, data, self.client_id)

    def _message(self, event: str, data: Mapping[str, object], *, broadcast: bool = False) -> None:
        """A message that is also in the history."""
        stamped = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append([event, stamped])
        if self.client_id is not None or broadcast:
            self._send(event, stamped)

    def _facts(self, node_id: str) -> dict[str, object]:
        return {
            "prompt_id": self._item.prompt_id,
            "node_id": node_id,
            "node_type": self._item.prompt[node_id]["class_type"],
        }

    def _display(self, node_id: str) -> dict[str, object]:
        return {"node": node_id, "display_node": node_id, "prompt_id": self._item.prompt_id}

    def _report(self, node_id: str, progress: _Progress) -> None:
        """Send the state of all nodes that have begun, to one client or to all."""
        self._progress[node_id] = progress
        prompt_id = self._item.prompt_id
        nodes = {
            known: {
                "value": entry.value,
                "max": entry.maximum,
                "state": entry.state,
                "node_id": known,
                "prompt_id": prompt_id,
                "display_node_id": known,
                "parent_node_id": None,
                "real_node_id": known,
            }
            for known, entry in self._progress.items()
        }
        self._send("progress_state", {"prompt_id": prompt_id, "nodes": nodes})
