"""Nodes marked to run elsewhere: a page's prompt is cut before ComfyUI gets it.

The cut is made while the request waits, since the targets may have to be asked. ComfyUI's own
hook for prompts then takes what is ready: it must not wait, and must not fail.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

from ..config.settings import Configuration
from ..errors import CutImpossible
from ..jobs.inputs import loaded_pictures
from ..types import JsonValue
from ..workflow.cut import Cut, cut, images_in, impossible, marked_nodes, marks_in
from ..workflow.interface import MOST_PART_VALUES
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .host import Host
from .input_files import InputFiles
from .known_targets import known_targets
from .posted_prompt import Posted
from .switch import Switch
from .target_pool import TargetPool
from .trusted_targets import NamedAddress, check_addresses, refuse_own_address

__all__ = ["Offload", "ReadyPrompt"]


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyPrompt:
    """A prompt that was cut.

    Attributes:
        prompt: What runs here; a node stands for each part that runs elsewhere.
        targets: Its output nodes, always given: a part that none of them needs (behind a lazy
            switch) is an output node for ComfyUI, too.
    """

    prompt: Prompt
    targets: list[str]


# Each request has its own: aiohttp handles it, hook and all, in one task.
_ready: ContextVar[ReadyPrompt | None] = ContextVar("comfy_remote_ready_prompt", default=None)

# Pages that have been notified of ignored marks; the server may run for months.
_MOST_NOTED = 1000


class Offload:
    """Cuts prompts by the marks in their workflows and by what is installed on each side."""

    def __init__(self, host: Host, switch: Switch, pool: TargetPool) -> None:
        self._host = host
        self._switch = switch
        self._pool = pool
        self._files = InputFiles(host)
        self._noted: set[str] = set()
        host.on_prompt(_replaced)

    async def cut(
        self,
        prompt: Prompt,
        workflow: Mapping[str, JsonValue],
        client_id: str | None,
        targets: Collection[str] | None = None,
    ) -> Cut:
        """What would run where. Without marks there are no parts, and no target is asked.

        A part has the name of its target: a mark without one means the target that the client's
        switch is set to, or would be.

        Args:
            workflow: The same in UI format, as it comes with the prompt.
            targets: Output nodes to run it for (``partial_execution_targets``); all by default.

        Raises:
            CutImpossible: What is marked cannot run there.
            WorkflowInvalid: There is nothing to run.
            NotTrusted: A target is an address that the owner has neither named nor confirmed.
            ConfigurationError: A target means nothing, or its key is missing.
            TargetError: A target cannot be asked what it has.
        """
        marks = marked_nodes(prompt, marks_in(workflow))
        if "" in marks.values():
            usual = await asyncio.to_thread(self._usual_target, client_id)
            marks = {node_id: name or usual for node_id, name in marks.items()}
        named = [
            NamedAddress.of(name, node_id, prompt[node_id], "mark")
            for node_id, name in marks.items()
        ]
        await asyncio.to_thread(check_addresses, named)
        names = list(dict.fromkeys(marks.values()))
        answers = await asyncio.gather(*map(self._pool.schemas, names))
        remote = dict(zip(names, answers, strict=True))
        classes = {node["class_type"] for node in prompt.values()}

        def work() -> Cut:
            local = self._host.schemas(classes)
            loaded = loaded_pictures(prompt, self._files.find) if marks else {}
            images = images_in(workflow)
            made = cut(prompt, marks, local, remote, targets=targets, loaded=loaded, images=images)
            _check_carriers(made, prompt, remote)
            return made

        return await asyncio.to_thread(work)

    async def prepare(self, posted: Posted, own_port: int | None = None) -> ReadyPrompt | None:
        """Cut what a page posts; ``None`` where nothing that runs is marked.

        Args:
            own_port: The port that this server listens on, where nothing may be sent.

        Raises:
            CutImpossible: What is marked cannot run elsewhere.
            ComfyRemoteError: It is not a prompt, or a target cannot be asked.
        """
        workflow, nodes = posted.workflow, posted.body.get("prompt")
        if workflow is None or not posted.has_marks or not isinstance(nodes, dict):
            return None
        prompt = parse_prompt(nodes, "The prompt", check_links=False)
        made = await self.cut(prompt, workflow, posted.client_id, posted.only_outputs)
        if not made.parts:
            return None
        _check_size(made)
        for part in made.parts:
            refuse_own_address((await self._pool.client(part.name)).target, own_port)
        classes = {node["class_type"] for node in prompt.values()}
        schemas = await asyncio.to_thread(self._host.schemas, classes)
        hashes = {
            part.node_id: await self._files.hashes(part.prompt, schemas) for part in made.parts
        }
        for note in made.notes:
            _log.info("Part of the workflow runs elsewhere: %s", note)
        return ReadyPrompt(made.with_files(hashes), [*made.targets])

    def note_ignored_marks(self, posted: Posted, target: str) -> None:
        """Log, once for each page, that all of its prompt runs elsewhere, marked or not."""
        client_id = posted.client_id
        if client_id is None or client_id in self._noted or not posted.has_marks:
            return
        if len(self._noted) >= _MOST_NOTED:
            self._noted.clear()
        self._noted.add(client_id)
        _log.info(
            "Remote is on, so all of the workflow runs on %s, and its marks are ignored. "
            "Switch Remote off to run only the marked nodes elsewhere.",
            target,
        )

    @contextmanager
    def applied(self, ready: ReadyPrompt) -> Iterator[None]:
        """While this is open, the host gets the cut prompt instead, in this task."""
        token = _ready.set(ready)
        try:
            yield
        finally:
            _ready.reset(token)

    def _usual_target(self, client_id: str | None) -> str:
        chosen = self._switch.usual_target_of(client_id)
        if chosen is not None:
            return chosen
        known = list(known_targets(Configuration.load(), os.environ))
        return next(target.name for target in known if target.default)


def _replaced(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The host's hook."""
    ready = _ready.get()
    if ready is None:
        return body
    prompt = cast("JsonValue", ready.prompt)
    return {**body, "prompt": prompt, "partial_execution_targets": [*ready.targets]}


def _check_carriers(made: Cut, prompt: Prompt, remote: Mapping[str, Schemas | None]) -> None:
    """Check that each target has the nodes of ours that carry values in and out."""
    for part in made.parts:
        has = remote[part.name]
        added = {node["class_type"] for n, node in part.prompt.items() if n not in prompt}
        if has is None or all(one in has for one in added):
            continue
        raise impossible(
            prompt,
            f"{part.name} cannot take a part of a graph: its ComfyUI does not have Comfy Remote's "
            "nodes, which carry the values in and out.",
            f"Install the node pack comfy-remote on {part.name}, or mark the nodes for a target "
            "that has it.",
            [n for n in part.nodes if n in prompt],
            f"{part.name} does not have the node pack comfy-remote",
        )


def _check_size(made: Cut) -> None:
    for part in made.parts:
        for what, values in (("take", part.inputs), ("give", part.outputs)):
            if len(values) > MOST_PART_VALUES:
                raise CutImpossible(
                    f"The nodes marked for {part.name} would {what} {len(values)} values, and "
                    f"at most {MOST_PART_VALUES} can be sent.",
                    advice="Mark fewer nodes, or those between them as well.",
                    details={"node_id": part.node_id},
                )
