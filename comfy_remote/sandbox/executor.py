"""Running prompts, one after the other, in a thread of their own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image
from pydantic import JsonValue

from ..errors import WorkflowInvalid
from ..workflow.prompt import Prompt
from .engine import Hooks, ShownByNode
from .folders import Folders
from .graph import CachedResult, execution_order, links, signatures
from .nodes import NODES
from .nodes.base import Interrupted, Node, NodeResult
from .prompt_queue import PromptQueue, QueuedPrompt
from .report import RunReport
from .sockets import SocketHub

__all__ = ["PromptWorker"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What stays from one prompt to the next, if it used it: like ComfyUI's classic cache.

    Attributes:
        results: By signature.
        instances: Nodes by id and class.
    """

    results: dict[str, CachedResult] = field(default_factory=dict)
    instances: dict[tuple[str, str], Node] = field(default_factory=dict)

    def instance(self, node_id: str, class_type: str) -> Node:
        key = (node_id, class_type)
        if key not in self.instances:
            self.instances[key] = NODES[class_type]()
        return self.instances[key]

    def keep_only(self, prompt: Prompt, signatures: Collection[str]) -> None:
        present = {(node_id, node["class_type"]) for node_id, node in prompt.items()}
        self.instances = {key: node for key, node in self.instances.items() if key in present}
        self.results = {key: self.results[key] for key in signatures if key in self.results}


class PromptWorker(threading.Thread):
    """Takes prompts from the queue until it is closed.

    Args:
        own_process: See `nodes.base.NodeContext`.
    """

    def __init__(
        self,
        queue: PromptQueue,
        messenger: SocketHub,
        folders: Folders,
        hooks: Hooks,
        *,
        own_process: bool,
    ) -> None:
        super().__init__(name="sandbox-worker", daemon=True)
        self._queue = queue
        self._messenger = messenger
        self._folders = folders
        self._hooks = hooks
        self._own_process = own_process
        self._memory = _Memory()

    def run(self) -> None:
        """The thread's body."""
        while (item := self._queue.take()) is not None:
            if self._queue.take_forget_results():
                self._memory = _Memory()
            report = RunReport(item, self._messenger)
            run = _PromptRun(item, report, self._memory, self._context(item, report))
            try:
                run.execute()
            # Whatever a prompt does to its run, the next one runs.
            except Exception as error:
                logger.exception("Prompt %s failed unexpectedly", item.prompt_id)
                report.failed(next(iter(item.outputs), ""), error, {})
            self._queue.finish(run.history())
            report.finished()

    def _context(self, item: QueuedPrompt, report: RunReport) -> _Context:
        pnginfo = item.extra_data.get("extra_pnginfo")
        return _Context(
            folders=self._folders,
            hooks=self._hooks,
            prompt=item.prompt,
            extra_pnginfo=pnginfo if isinstance(pnginfo, dict) else {},
            own_process=self._own_process,
            report=report,
            interrupt=self._queue.interrupt,
        )


@dataclass(slots=True)
class _Context:
    """What the running node sees: see `nodes.base.NodeContext`."""

    folders: Folders
    hooks: Hooks
    prompt: Prompt
    extra_pnginfo: Mapping[str, JsonValue]
    own_process: bool
    report: RunReport
    interrupt: threading.Event
    node_id: str = ""

    def linked_type(self, name: str) -> str | None:
        link = links(self.prompt[self.node_id]).get(name)
        if link is None:
            return None
        source, index = link
        return NODES[self.prompt[source]["class_type"]].schema.outputs[index].type

    def run_part(
        self, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], ShownByNode]:
        if self.hooks.run_part is None:
            raise WorkflowInvalid(
                "Comfy Remote's pack, which runs parts of a prompt elsewhere, is not installed.",
                advice="Send the whole prompt instead.",
            )
        return self.hooks.run_part(self, part, values)

    def progress(
        self, value: int, maximum: int, preview: Image | None = None, *, whole: bool = False
    ) -> None:
        self.sleep(0)
        self.report.node_progress(self.node_id, value, maximum, preview, whole=whole)

    def sleep(self, seconds: float) -> None:
        if self.interrupt.wait(seconds):
            raise Interrupted


class _PromptRun:
    """One run of one prompt."""

    def __init__(
        self, item: QueuedPrompt, report: RunReport, memory: _Memory, context: _Context
    ) -> None:
        self._item = item
        self._report = report
        self._memory = memory
        self._context = context
        self._results: dict[str, CachedResult] = {}
        self._shown: dict[str, CachedResult] = {}
        self._succeeded = False

    def execute(self) -> None:
        """Run the prompt. Errors are recorded in the history, not raised."""
        prompt = self._item.prompt
        self._report.started()
        order = execution_order(prompt, self._item.outputs)
        keys = signatures(prompt, order, self._context.folders)
        self._memory.keep_only(prompt, keys.values())
        cache = self._memory.results
        for node_id in order:
            if found := cache.get(keys[node_id]):
                self._results[node_id] = found
        self._report.cached(list(self._results))
        for node_id in execution_order(prompt, self._item.outputs, stop_at=set(self._results)):
            try:
                # Another node with the same signature may have run in the meantime.
                found = cache.get(keys[node_id])
                if found is None:
                    result = self._run_node(node_id)
                    cache[keys[node_id]] = result
                elif node_id in self._item.outputs or node_id not in self._results:
                    result = found
                    self._report.node_finished(node_id, found.ui, from_cache=True)
                else:
                    continue
            except Interrupted:
                logger.info("Prompt %s was interrupted", self._item.prompt_id)
                self._report.interrupted(node_id)
                return
            # Whatever a node raises fails its prompt, not the engine.
            except Exception as error:  # noqa: BLE001
                logger.warning("Node %s failed: %s", node_id, error)
                self._report.failed(node_id, error, self._inputs(node_id))
                return
            self._results[node_id] = result
            if result.ui:
                self._shown[node_id] = result
        self._succeeded = True
        self._report.succeeded()

    def history(self) -> dict[str, object]:
        """What the history says about this run: ``outputs``, ``status`` and ``meta``."""
        return {
            "outputs": {node_id: result.ui for node_id, result in self._shown.items()},
            "status": {
                "status_str": "success" if self._succeeded else "error",
                "completed": self._succeeded,
                "messages": self._report.messages,
            },
            "meta": {node_id: result.meta for node_id, result in self._shown.items()},
        }

    def _run_node(self, node_id: str) -> CachedResult:
        self._report.node_started(node_id)
        self._context.node_id = node_id
        self._context.sleep(0)  # an interrupt may have come between two nodes
        node = self._memory.instance(node_id, self._item.prompt[node_id]["class_type"])
        results = [node.run(self._context, **inputs) for inputs in self._runs(node, node_id)]
        shown = _merged([result.ui for result in results])
        self._report.node_finished(node_id, shown, from_cache=False)
        meta: dict[str, JsonValue] = {
            "node_id": node_id,
            "display_node": node_id,
            "parent_node": None,
            "real_node_id": node_id,
        }
        return CachedResult(_joined(node, results), shown, meta)

    def _runs(self, node: Node, node_id: str) -> Iterator[dict[str, Any]]:
        """The inputs of each of a node's runs: as often as its longest list has items."""
        inputs = self._inputs(node_id)
        if node.schema.input_is_list:
            yield inputs
            return
        count = max((len(values) for values in inputs.values()), default=1)
        for number in range(count):
            # A shorter list goes on with its last item.
            yield {name: values[min(number, len(values) - 1)] for name, values in inputs.items()}

    def _inputs(self, node_id: str) -> dict[str, list[object]]:
        """Each input as a list: a literal is a list of one."""
        node = self._item.prompt[node_id]
        schema = NODES[node["class_type"]].schema
        given = node["inputs"]
        inputs: dict[str, list[object]] = {
            entry.name: [given[entry.name]] for entry in schema.inputs if entry.name in given
        }
        for name, (source, index) in links(node).items():
            inputs[name] = self._results[source].values[index]
        return inputs


def _joined(node: Node, results: Sequence[NodeResult]) -> list[list[object]]:
    """One list for each output: of all runs, in their order."""
    joined: list[list[object]] = []
    for index, output in enumerate(node.schema.outputs):
        values = [result.values[index] for result in results]
        lists = [value for value in values if isinstance(value, list)] if output.is_list else []
        joined.append([item for items in lists for item in items] if output.is_list else values)
    return joined


def _merged(shown: Sequence[Mapping[str, JsonValue] | None]) -> Mapping[str, JsonValue] | None:
    """What several runs of a node show, as one."""
    merged: dict[str, list[JsonValue]] = {}
    for ui in shown:
        for key, values in (ui or {}).items():
            merged.setdefault(key, []).extend(values if isinstance(values, list) else [values])
    return dict(merged) if merged else None
