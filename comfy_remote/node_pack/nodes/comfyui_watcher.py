"""A node that runs, as ComfyUI's page shows it: its bar, its text, its preview."""

from __future__ import annotations

import logging

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import ComfyAPI
from server import PromptServer

from ...events import Preview
from ..preview_picture import preview_picture

__all__ = ["NodeWatcher"]

_log = logging.getLogger(__name__)
_LEVELS = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}


class NodeWatcher:
    """The `remote_run.Watcher` of one node; used on ComfyUI's own event loop for prompts.

    Args:
        node_id: The node's id in the running graph.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        # Older versions have no `ComfyAPI().execution`.
        self._execution = ComfyAPI.Execution()
        self._progress = (0.0, 1.0)

    def say(self, text: str) -> None:
        """Show a line on the node."""
        server = PromptServer.instance
        server.send_progress_text(text, self._node_id, server.client_id)

    def log(self, message: str, level: str) -> None:
        """Into ComfyUI's log."""
        _log.log(_LEVELS.get(level, logging.INFO), "Comfy Remote: %s", message)

    async def progress(self, done: float, total: float) -> None:
        """Move the node's bar."""
        self._progress = (done, total)
        await self._execution.set_progress(done, total, self._node_id)

    async def preview(self, preview: Preview) -> None:
        """Show it on the node, as samplers do."""
        picture = preview_picture(preview)
        if picture is not None:
            await self._execution.set_progress(
                *self._progress, self._node_id, preview_image=picture
            )

    def check(self) -> None:
        """Raises ComfyUI's own exception when the prompt has been interrupted."""
        throw_exception_if_processing_interrupted()
