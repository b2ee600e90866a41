"""Remote parts in the sandbox: what `nodes.remote_part` is in a ComfyUI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..calls.values import ValueForm
from ..sandbox.hooks import PartContext, PartRunner, ShownByNode
from .host import Host
from .nodes.part_run import PartRun
from .part_document import PartDocument

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["part_runner"]


def part_runner(host: Host) -> PartRunner:
    """What the sandbox's `ComfyRemotePart` calls, in the thread that runs prompts."""

    def run_part(
        context: PartContext, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], ShownByNode]:
        document = PartDocument.parse(part)
        workflow = context.extra_pnginfo.get("workflow")
        run = PartRun(
            host,
            document,
            _Watcher(context),
            form=ValueForm(),
            workflow=workflow if isinstance(workflow, dict) else None,
        )
        result = asyncio.run(run.run(values))
        # No node of the sandbox blocks anything.
        return [items or [] for items in result.values], result.shown

    return run_part


class _Watcher:
    """Tells the page of the part's own nodes, as of nodes that run in the sandbox."""

    def __init__(self, context: PartContext) -> None:
        self._context = context

    def say(self, text: str) -> None:
        """The sandbox's page has no place for it."""

    def log(self, message: str, level: str) -> None:
        """The same."""

    def check(self) -> None:
        """Raises the sandbox's own exception when the prompt has been interrupted."""
        self._context.sleep(0)

    async def node_progress(
        self, node_id: str, done: float, total: float, picture: Image | None
    ) -> None:
        """Move the bar of a node, and show its work in progress."""
        self._context.report.node_progress(node_id, done, total, picture)

    def node_text(self, node_id: str, text: str) -> None:
        """The sandbox's page has no place for it."""

    async def node_finished(self, node_id: str) -> None:
        """Fill the bar; the sandbox itself does that of the one that runs."""
        if node_id != self._context.node_id:
            self._context.report.node_finished(node_id, None, from_cache=False)
