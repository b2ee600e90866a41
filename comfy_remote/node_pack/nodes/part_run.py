"""A part of a prompt on its target: values go there, and others come back. Knows no ComfyUI."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ...calls.values import ValueForm, is_plain
from ...errors import ExecutionFailed, OutputLost, WorkflowInvalid
from ...events import Event, NodeText, Preview, Progress, ShownValues
from ...jobs.client import Client
from ...jobs.job import Job
from ...media.files import private_folder
from ...media.images import decoded_preview
from ...media.remote_values import VALUES_KEY, encode_items, value_file_name
from ...outputs import RemoteOutput
from ...targets.base import InputFile, OnThisMachine, RunRequest, TakesValues, Target
from ...types import JsonValue
from ...workflow.interface import Argument, Interface, ValueFileName
from ...workflow.prompt import Prompt
from ...workflow.schema import Schemas
from ..host import Host
from ..input_files import InputFiles
from ..part_document import PartDocument, PartValue
from ..saved_outputs import OutputSaver
from ..trusted_targets import check_target
from .remote_run import RemoteRun
from .watched import LineWatcher

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PartResult", "PartRun", "PartWatcher"]


class PartWatcher(LineWatcher, Protocol):
    """What shows how a part goes on each of its own nodes, which are in the page."""

    async def node_progress(
        self, node_id: str, done: float, total: float, picture: Image | None
    ) -> None:
        """Move the bar of a node, and show its work in progress."""

    async def node_finished(self, node_id: str) -> None:
        """The node has run."""

    def node_text(self, node_id: str, text: str) -> None:
        """The node shows a text while it runs."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a part gave.

    Attributes:
        values: Of each output, all items of ComfyUI's list; ``None`` for one that was blocked
            there (ComfyUI's ``ExecutionBlocker``).
        shown: By node, what it saved and shows, in ComfyUI's own form.
    """

    values: list[list[object] | None]
    shown: dict[str, dict[str, JsonValue]]


@dataclass(frozen=True)
class PartRun:
    """Runs one part, once.

    Args:
        form: What the values become that come back; its adapters are for those that go, too.
        workflow: In UI format, to be embedded in what it saves.
    """

    host: Host
    document: PartDocument
    watcher: PartWatcher
    form: ValueForm = field(default_factory=lambda: ValueForm(tensors="torch"))
    workflow: Mapping[str, JsonValue] | None = None

    async def run(self, values: Sequence[Sequence[object]]) -> PartResult:
        """Run it. If this ends early, the job is cancelled on the target.

        Args:
            values: Of each of the part's inputs, all items of ComfyUI's list.
        """
        document = self.document
        # It may have come in a workflow as it is, and not been cut here.
        await asyncio.to_thread(check_target, document.name)
        if len(values) != len(document.inputs):
            raise WorkflowInvalid(
                f"Remote part takes {len(document.inputs)} values, but got {len(values)}.",
                advice="Queue the workflow from the page again.",
            )
        with private_folder(self.host.folder("temp")) as folder:
            async with Client(document.name, on_interrupt=None) as client:
                request = await self._request(client, values, folder)
                nodes = _Nodes(self.watcher, document.page_nodes())
                remote = RemoteRun(document.name, nodes, source="remote part", on_event=nodes.note)
                result = await remote.run(client, request, lambda job: self._collect(client, job))
                await nodes.end()
                return result

    async def _request(
        self, client: Client, values: Sequence[Sequence[object]], folder: Path
    ) -> RunRequest:
        prompt = self.document.runnable()
        schemas = await self._schemas(client, prompt)
        prompt, files = await InputFiles(self.host).collect(prompt, client.target, schemas)
        sent = folder / "sent"
        arguments: dict[str, Argument] = {}
        for value, items in zip(self.document.inputs, values, strict=True):
            argument = await self._argument(client.target, value, list(items), sent)
            if isinstance(argument, InputFile):
                files.append(argument)
                arguments[value.key] = ValueFileName(argument.name)
            else:
                arguments[value.key] = argument
        here = isinstance(client.target, OnThisMachine) and client.target.local
        prompt = Interface.of(prompt).with_values(
            *(prompt, arguments),
            results=False,
            images=self.document.images,
            content_hash="blake3" if here else "sha256",
        )
        once = {file.name: file for file in files}
        return RunRequest(str(uuid.uuid4()), prompt, list(once.values()), self.workflow)

    async def _schemas(self, client: Client, prompt: Prompt) -> Schemas:
        """Those of the nodes that load files from here; the target's, for nodes it alone has."""
        classes = {node["class_type"] for node in prompt.values()}
        here = await asyncio.to_thread(self.host.schemas, classes)
        return here if all(name in here for name in classes) else await client.schemas(prompt)

    async def _argument(
        self, target: Target, value: PartValue, items: list[object], folder: Path
    ) -> InputFile | ValueFileName | JsonValue:
        if len(items) == 1 and is_plain(items[0]):
            return cast("JsonValue", items[0])
        encoded = await asyncio.to_thread(
            encode_items,
            *(items, value.type),
            images=self.document.images,
            adapters=self.form.adapters,
        )
        if isinstance(target, TakesValues):
            name = await target.put_value(encoded)
            if name is not None:
                return ValueFileName(name)
        path = await asyncio.to_thread(encoded.write_into, folder)
        return InputFile(value_file_name(path.stem), path, encoded.size, path.stem)

    async def _collect(self, client: Client, job: Job) -> PartResult:
        listed = await job.listed()
        saved = [one for one in listed if one.key != VALUES_KEY]
        sent = self._sent_values([one for one in listed if one.key == VALUES_KEY])
        saver = OutputSaver(self.host, client.target, job.id)
        try:
            files, _ = await asyncio.gather(
                job.fetch_values([one for one in sent if one is not None], self.form.limits),
                self._save(saver, saved, job.finished.shown if job.finished else {}),
            )
        finally:
            await saver.stop()
        if saver.failure is not None:
            raise saver.failure
        await saver.release(saved)
        arrived = iter(files)
        values = [
            None if file is None else await asyncio.to_thread(self._decoded, next(arrived), value)
            for file, value in zip(sent, self.document.outputs, strict=True)
        ]
        # ComfyUI puts the items of all calls of a node into one list, key by key.
        shown: dict[str, dict[str, JsonValue]] = {
            node_id: {key: value for key, value in ui.items() if isinstance(value, list)}
            for node_id, ui in saver.shown.items()
        }
        return PartResult(values, shown)

    def _sent_values(self, listed: Sequence[RemoteOutput]) -> list[RemoteOutput | None]:
        """The value file of each output.

        ComfyUI leaves an output node out whose input is blocked, so that one may be missing.
        Where none came at all, the target is likelier to have withheld them.
        """
        outputs = self.document.outputs
        nodes = {one.key: one.node_id for one in Interface.of(self.document.runnable()).outputs}
        files = {one.node_id: one for one in listed}
        sent = [files.get(nodes[value.key]) for value in outputs]
        if outputs and not any(sent):
            raise OutputLost(
                f"The part ran on {self.document.name}, but gave none of its values: "
                f"{', '.join(value.key for value in outputs)}.",
                advice="Either its nodes blocked all of them, or the worker there does not return "
                "value files: it has to be Comfy Remote's.",
            )
        return sent

    async def _save(
        self, saver: OutputSaver, outputs: Sequence[RemoteOutput], shown: Mapping[str, ShownValues]
    ) -> None:
        by_node: dict[str | None, list[RemoteOutput]] = {}
        for output in outputs:
            by_node.setdefault(output.node_id, []).append(output)
        values: dict[str | None, ShownValues] = dict(shown.items())
        for node_id in {**by_node, **values}:
            await saver.bring(node_id, by_node.get(node_id, []), values.get(node_id))

    def _decoded(self, data: bytearray | memoryview, value: PartValue) -> list[object]:
        found = self.form.decoded(data)
        if not found.is_list or not isinstance(found.value, list):
            raise ExecutionFailed(
                f"{self.document.name} sent one value for {value.key} instead of a list of values.",
                advice="Update Comfy Remote on the target.",
            )
        return found.value


class _Nodes:
    """The `Watcher` of the job. It passes on what concerns the part's own nodes."""

    def __init__(self, watcher: PartWatcher, inside: frozenset[str]) -> None:
        self.say, self.log, self.check = watcher.say, watcher.log, watcher.check
        self._watcher = watcher
        self._inside = inside
        self._newest: Progress | None = None
        self._current: str | None = None
        self._steps = (0.0, 1.0)

    def note(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._newest = event
        elif isinstance(event, NodeText) and event.node_id in self._inside:
            self._watcher.node_text(event.node_id, event.text)

    async def progress(self, done: float, total: float) -> None:
        # `done` is of the whole job, which has no bar of its own here.
        newest = self._newest
        if newest is None or newest.node_id not in self._inside:
            return
        if newest.node_id != self._current:
            await self.end()
            self._current = newest.node_id
        counts = newest.step is not None and newest.steps
        self._steps = (newest.step or 0.0, newest.steps or 1.0) if counts else (0.0, 1.0)
        await self._watcher.node_progress(str(newest.node_id), *self._steps, None)

    async def preview(self, preview: Preview) -> None:
        node_id = preview.node_id or self._current
        picture = decoded_preview(preview.data)
        if picture is not None and node_id is not None and node_id in self._inside:
            steps = self._steps if node_id == self._current else (0.0, 1.0)
            await self._watcher.node_progress(node_id, *steps, picture)

    async def end(self) -> None:
        """The node that was shown last has run."""
        if self._current is not None:
            await self._watcher.node_finished(self._current)
        self._current = None
