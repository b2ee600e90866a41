"""Removing what a job wrote into the engine's folders, once its outputs are elsewhere.

A worker that stays up for hours would fill its disk, and one person's pictures would lie there
while another's job runs.

An engine caches: a node that has run before is not run again, and lists the files that it wrote
then. These have been removed, and their names may be another node's by now. So such a node gets an
input that no node knows, which makes it run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from ..outputs import RemoteOutput
from ..targets.engine_folders import EngineFolders, folders_in
from ..workflow.prompt import Node, Prompt
from ..workflow.sources import linked_node
from .run import EngineTarget, at_most

__all__ = ["Cleaner"]

_PATIENCE = 10.0
_RUN_AGAIN = "comfy_remote_run"
# Clocks of file systems and of Python differ by a little.
_CLOCK_SLACK = 2.0

_log = logging.getLogger(__name__)


class Cleaner:
    """Cleans up after the jobs of one engine that was started here."""

    def __init__(self) -> None:
        self._removed: set[str] = set()

    def runnable(self, prompt: Prompt) -> Prompt:
        """The prompt, with those nodes made to run again whose files were removed."""
        if not self._removed:
            return prompt
        stale = [name for name in prompt if _identity(prompt, name) in self._removed]
        if not stale:
            return prompt
        marker: JsonValue = uuid.uuid4().hex
        return {
            name: _marked(node, marker) if name in stale else node for name, node in prompt.items()
        }

    async def clean(
        self,
        target: EngineTarget,
        prompt: Prompt,
        outputs: Sequence[RemoteOutput],
        uploaded: Iterable[str],
        *,
        stats: Mapping[str, JsonValue],
        prompt_id: str,
        since: float,
    ) -> None:
        """Remove a job's files and its entry in the history.

        Args:
            target: Open; if it is gone, the files stay.
            prompt: As the job has it, before `runnable`.
            outputs: What its nodes have listed.
            uploaded: Names of its files in the input folder.
            stats: The engine's ``/system_stats``, which tell its folders.
            prompt_id: The engine's.
            since: Seconds since the epoch: only what was written after that is removed.
        """

        folders = folders_in(stats)
        forgotten = at_most(_PATIENCE, target.forget(prompt_id), "forget the job")
        if folders is None:
            await forgotten
            return
        files = [(o.folder, o.subfolder, o.filename) for o in outputs if o.text is None]
        files = [one for one in files if one[0] in ("output", "temp")]
        inputs = [("input", *_split(name)) for name in uploaded]
        self.run_again(prompt, outputs)
        await asyncio.gather(
            forgotten, asyncio.to_thread(_remove, folders, [*files, *inputs], since)
        )

    def run_again(self, prompt: Prompt, outputs: Sequence[RemoteOutput]) -> None:
        """Have the nodes that made these run again when they come again.

        Args:
            prompt: As for `clean`.
        """
        for output in outputs:
            # Of a node that another expanded into, the id begins with that of the drawn one.
            name = (output.node_id or "").partition(".")[0]
            if output.text is None and name in prompt:
                self._removed.add(_identity(prompt, name))


def _split(name: str) -> tuple[str, str]:
    subfolder, _, filename = name.rpartition("/")
    return subfolder, filename


def _remove(folders: EngineFolders, files: Iterable[tuple[str, str, str]], since: float) -> None:
    for folder, subfolder, filename in set(files):
        path = folders.file(folder, subfolder, filename)
        if path is None:
            continue
        with contextlib.suppress(OSError):
            # An older one is not this job's: a node only shows it, or it was there already.
            if path.stat().st_mtime >= since - _CLOCK_SLACK:
                path.unlink()


def _marked(node: Node, marker: JsonValue) -> Node:
    return {**node, "inputs": {**node["inputs"], _RUN_AGAIN: marker}}


def _identity(prompt: Prompt, name: str) -> str:
    """What an engine's cache knows a node by: its class, its inputs, and all before it."""
    numbers = {name: 0}
    waiting = [name]
    described: list[JsonValue] = []
    while waiting:
        node = prompt[waiting.pop(0)]
        inputs: dict[str, JsonValue] = {}
        for key, value in sorted(node["inputs"].items()):
            link = linked_node(prompt, value)
            if link is None:
                inputs[key] = value
                continue
            if link[0] not in numbers:
                numbers[link[0]] = len(numbers)
                waiting.append(link[0])
            # Not the id: the same nodes under other ids are the same to the cache.
            inputs[key] = {"node": numbers[link[0]], "output": link[1]}
        described.append([node["class_type"], inputs])
    document = json.dumps(described, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()
