"""What a job about node packs does in this ComfyUI.

The sets are a worker's (`worker.nodes`): built beside the current one, tried, then made current.
This ComfyUI imports packs when it starts (`at_start`), so its owner has to restart it.
"""

from __future__ import annotations

import asyncio
import os
import platform

from ...types import JsonValue
from ...wire.nodes import NodesAnswer, NodesRequest
from ...worker.nodes.at_start import RUNNING_SET
from ...worker.nodes.fetching import ways_to_nodes
from ...worker.nodes.program import ComfyUIProgram
from ...worker.nodes.requirements import find_uv
from ...worker.nodes.sets import NodeSets
from ...worker.nodes.settings import NodeSettings
from ...worker.nodes.steps import said_again
from .jobs import ReceivingJob

__all__ = ["ReceivedNodes"]

_RESTART = "ComfyUI there has to be restarted: it imports node packs when it starts."


class ReceivedNodes:
    """The packs that were brought to this ComfyUI.

    Args:
        program: How it was started.
    """

    def __init__(self, settings: NodeSettings, program: ComfyUIProgram) -> None:
        self._program = program
        self._sets = NodeSets(settings, worker=platform.node() or "ComfyUI")
        self._running = os.environ.get(RUNNING_SET)

    async def takes(self) -> tuple[list[str], str]:
        """How packs can come here, and why they cannot."""
        if await asyncio.to_thread(find_uv) is None:
            return [], "uv is missing there: python -m pip install uv, with ComfyUI's Python"
        return sorted(await asyncio.to_thread(ways_to_nodes)), ""

    def running(self) -> frozenset[str]:
        """The names of the packs of the set that this ComfyUI has started with. Blocking."""
        found = self._sets.folder.read(self._running) if self._running else None
        return frozenset(one.name for one in found.packs) if found is not None else frozenset()

    async def act(self, payload: dict[str, JsonValue], job: ReceivingJob) -> JsonValue:
        """Do what the ``action`` says; the answer as a worker's (`wire.nodes`).

        Raises:
            WorkflowInvalid: The request cannot be read.
            NodesUnavailable: A pack cannot be had, or ComfyUI does not work with it.
            LocalStorageError: The disk is full, or cannot be written to.
        """
        request = NodesRequest.parse(payload)
        if request.action == "nodes":
            return self._answer(await asyncio.to_thread(self._sets.answer))
        # The set that this ComfyUI runs with stays, however many are made until it restarts.
        await asyncio.to_thread(self._sets.folder.in_use.use, self._running)
        async with said_again(job.say) as say:
            if request.action == "rollback_nodes":
                built = await self._sets.roll_back(say, _nothing)
            else:
                built = await self._sets.build(request.packs, self._program, say, _nothing)
        return self._answer(await asyncio.to_thread(self._sets.answer, built))

    def _answer(self, answer: NodesAnswer) -> JsonValue:
        if answer.set != self._running:
            answer.notes.append(_RESTART)
        return answer.model_dump(mode="json")


async def _nothing() -> None:
    """No engine is started here: the owner restarts ComfyUI."""
