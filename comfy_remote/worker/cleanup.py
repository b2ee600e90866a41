"""Removing what a job wrote into the engine's folders, once its outputs are elsewhere.

A worker that stays up for hours would fill its disk, and one person's pictures would lie there
while another's job runs.

An engine caches: a node that has run before is not run again, and lists the files that it wrote
then. These have been removed, and their names may be another node's by now. So such a node gets an
input that no node knows, which makes it run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from ..aio import in_thread
from ..media.file_changes import remove_file
from ..outputs import RemoteOutput
from ..targets.engine_files import EngineFolders, files_since
from ..workflow.graph import linked_node
from ..workflow.prompt import Prompt, with_inputs

__all__ = ["Cleaner"]

_RUN_AGAIN = "comfy_remote_run"
# Clocks of file systems and of Python differ by a little.
_CLOCK_SLACK = 2.0
_MOST_REMOVED = 10_000  # nodes

_log = logging.getLogger(__name__)


class Cleaner:
    """Cleans up after the jobs of one engine that was started here."""

    def __init__(self) -> None:
        self._removed: dict[str, None] = {}

    def runnable(self, prompt: Prompt) -> Prompt:
        """The prompt, with those nodes made to run again whose files were removed."""
        if not self._removed:
            return prompt
        identities = _identities(prompt)
        stale = {name for name in prompt if identities[name] in self._removed}
        if not stale:
            return prompt
        marker: JsonValue = uuid.uuid4().hex
        return with_inputs(prompt, {(name, _RUN_AGAIN): marker for name in stale})

    async def remove_files(
        self,
        folders: EngineFolders,
        prompt: Prompt,
        outputs: Sequence[RemoteOutput],
        uploaded: Iterable[str],
        since: float,
    ) -> None:
        """Remove a job's files from the engine's folders.

        Args:
            prompt: As the job has it, before `runnable`.
            uploaded: Names of its files in the input folder.
            since: Seconds since the epoch: only what was written after that is removed.
        """
        files = [(o.folder, o.subfolder, o.filename) for o in outputs if o.text is None]
        files = [one for one in files if one[0] in ("output", "temp")]
        inputs = [("input", *name.rpartition("/")[::2]) for name in uploaded]
        self.run_again(prompt, outputs)
        if files or inputs:
            await in_thread(_remove, folders, [*files, *inputs], since)

    async def remove_rest(
        self, folders: EngineFolders, uploaded: Iterable[str], since: float
    ) -> None:
        """Remove what a job that was stopped has written, whether a node has listed it or not."""

        def remove() -> None:
            inputs = [("input", *name.rpartition("/")[::2]) for name in uploaded]
            _remove(folders, [*files_since(folders, since), *inputs], since)

        await in_thread(remove)

    def run_again(self, prompt: Prompt, outputs: Sequence[RemoteOutput]) -> None:
        """Have the nodes that made these outputs run again in later jobs."""
        identities = _identities(prompt)
        for output in outputs:
            name = output.drawn_node
            if output.text is None and name in prompt:
                self._removed[identities[name]] = None
        # An engine's cache has forgotten older ones. If not, their job is run again, once.
        while len(self._removed) > _MOST_REMOVED:
            del self._removed[next(iter(self._removed))]


def _remove(folders: EngineFolders, files: Iterable[tuple[str, str, str]], since: float) -> None:
    for folder, subfolder, filename in set(files):
        path = folders.file(folder, subfolder, filename)
        if path is None:
            continue
        with contextlib.suppress(OSError):
            # An older one is not this job's: a node only shows it, or it was there already.
            if path.stat().st_mtime >= since - _CLOCK_SLACK:
                remove_file(path)


def _identities(prompt: Prompt) -> dict[str, str]:
    """The identity of each node for an engine's cache: its class, its inputs, and all before it.

    Each node is looked at once, however long the chains are. Not by its id: the same nodes under
    other ids are the same to the cache.
    """
    found: dict[str, str] = {}
    for start in prompt:
        if start in found:
            continue
        # Its own stack: a chain may be longer than Python's.
        path = {start: iter(_links(prompt, start).values())}
        while path:
            name, links = next(reversed(path.items()))
            # An engine refuses a cycle; here it only has to end.
            source = next((n for n, _ in links if n not in found and n not in path), None)
            if source is not None:
                path[source] = iter(_links(prompt, source).values())
                continue
            del path[name]
            found[name] = _identity(prompt, name, found)
    return found


def _links(prompt: Prompt, name: str) -> dict[str, tuple[str, int]]:
    linked = {key: linked_node(prompt, value) for key, value in prompt[name]["inputs"].items()}
    return {key: link for key, link in linked.items() if link is not None}


def _identity(prompt: Prompt, name: str, of_sources: Mapping[str, str]) -> str:
    node = prompt[name]
    inputs: dict[str, JsonValue] = dict(node["inputs"])
    for key, (source, output) in _links(prompt, name).items():
        inputs[key] = {"node": of_sources.get(source), "output": output}
    document = json.dumps([node["class_type"], inputs], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()
