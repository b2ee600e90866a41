"""Marked nodes run elsewhere, the rest of their prompt here: what a page posts is cut before
ComfyUI gets it.

The cut is made while the request waits, since the targets may have to be asked. ComfyUI's own
hook for prompts then takes what is ready: it is not to wait, and not to fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..errors import CutImpossible
from ..workflow.cut import Cut, marks_in
from ..workflow.interface import MOST_PART_VALUES
from ..workflow.load import parse_prompt
from ..workflow.prompt import Prompt
from .cutting import Cutter
from .host import Host
from .input_files import InputFiles
from .submission import workflow_of

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Offload", "ReadyPrompt"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyPrompt:
    """A prompt that was cut.

    Attributes:
        prompt: What runs here; a node stands for each part that runs elsewhere.
        targets: Its output nodes. Always told: a part that none of them needs (behind a lazy
            switch) is an output node for ComfyUI, too.
    """

    prompt: Prompt
    targets: list[str]


# Each request has its own: aiohttp handles it, hook and all, in one task.
_ready: ContextVar[ReadyPrompt | None] = ContextVar("comfy_remote_ready_prompt", default=None)


# Pages of a server that runs for months: they need not be told of twice for ever.
_MOST_TOLD = 1000


class Offload:
    """Cuts what pages post.

    Args:
        host: Runs what is not marked.
        cutter: Knows marks and targets.
    """

    def __init__(self, host: Host, cutter: Cutter) -> None:
        self._host = host
        self._cutter = cutter
        self._files = InputFiles(host)
        self._told: set[str] = set()
        host.on_prompt(_replaced)

    async def prepare(
        self, body: Mapping[str, JsonValue], own_port: int | None = None
    ) -> ReadyPrompt | None:
        """What to run instead; ``None`` where nothing that runs is marked.

        Args:
            body: Of ``POST /prompt``.
            own_port: That this server listens on.

        Raises:
            CutImpossible: What is marked cannot run elsewhere.
            ComfyRemoteError: The prompt is none, or a target cannot be asked.
        """
        workflow = workflow_of(body)
        if workflow is None or not marks_in(workflow) or not isinstance(body.get("prompt"), dict):
            return None
        prompt = parse_prompt(body["prompt"], "The prompt", check_links=False)
        client_id = body.get("client_id")
        wanted = body.get("partial_execution_targets")
        only = [str(node_id) for node_id in wanted] if isinstance(wanted, list) else None
        made = await self._cutter.cut(
            prompt, workflow, client_id if isinstance(client_id, str) else None, only
        )
        if not made.parts:
            return None
        _check_size(made)
        for part in made.parts:
            await self._cutter.check_elsewhere(part.name, own_port)
        classes = {node["class_type"] for node in prompt.values()}
        schemas = await asyncio.to_thread(self._host.schemas, classes)
        hashes = {
            part.node_id: await self._files.hashes(part.prompt, schemas) for part in made.parts
        }
        for note in made.notes:
            _log.info("Part of the workflow runs elsewhere: %s", note)
        return ReadyPrompt(made.with_files(hashes), [*made.targets])

    def note_ignored_marks(self, body: Mapping[str, JsonValue], target: str) -> None:
        """The whole of a prompt runs elsewhere, marked or not: said once for each page."""
        client_id = body.get("client_id")
        if not isinstance(client_id, str) or client_id in self._told:
            return
        workflow = workflow_of(body)
        if workflow is not None and marks_in(workflow):
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told.add(client_id)
            _log.info(
                "Remote is on, so all of the workflow runs on %s, and its marks mean nothing. "
                "Switch Remote off to run only the marked nodes elsewhere.",
                target,
            )

    @contextmanager
    def applied(self, ready: ReadyPrompt) -> Iterator[None]:
        """While this is open, the prompt that the host gets in this task is another one."""
        token = _ready.set(ready)
        try:
            yield
        finally:
            _ready.reset(token)


def _replaced(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The host's hook."""
    ready = _ready.get()
    if ready is None:
        return body
    prompt = cast("JsonValue", ready.prompt)
    return {**body, "prompt": prompt, "partial_execution_targets": [*ready.targets]}


def _check_size(made: Cut) -> None:
    for part in made.parts:
        for what, values in (("take", part.inputs), ("give", part.outputs)):
            if len(values) > MOST_PART_VALUES:
                raise CutImpossible(
                    f"The nodes marked for {part.name} would {what} {len(values)} values, and "
                    f"{MOST_PART_VALUES} can cross.",
                    advice="Mark fewer nodes, or those between them as well.",
                    details={"node_id": part.node_id},
                )
