"""What a node asks of the ComfyUI that runs it: classes, checks, the page, interrupts."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import execution
import folder_paths
import nodes as comfyui_nodes
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import ComfyAPI, io
from server import PromptServer

from ...errors import NotTrusted
from ...events import Preview
from ...media.images import decoded_preview
from ...targets.comfyui.queue import refusal
from ...types import JsonValue
from ...workflow.graph import execution_order
from ...workflow.interface import ANY
from ...workflow.prompt import Prompt, is_link
from ...workflow.schema import Schemas
from ...workflow.spelling import as_listed, classes_with_paths
from ..trusted_targets import CONFIRM_EVENT, NamedAddress, check_addresses

__all__ = [
    "CATEGORY",
    "NodeWatcher",
    "check_address",
    "checked",
    "local_schemas",
    "show_text",
    "type_of_link",
    "workflow_folders",
]

CATEGORY = "utils/remote"
"""Where ComfyUI's menu has the nodes."""


def local_schemas(classes: Collection[str] | None = None) -> Schemas:
    """The schemas of this ComfyUI's node classes, as ``GET /object_info`` describes them.

    Args:
        classes: Only these; all by default. One that is not there is left out.
    """
    known = comfyui_nodes.NODE_CLASS_MAPPINGS
    wanted = [name for name in known if classes is None or name in classes]
    return Schemas({name: _described(name, known[name]) for name in wanted}, "this ComfyUI")


def workflow_folders() -> tuple[Path, Path]:
    """Where saved workflows are: the editor's own folder, and the input folder."""
    user = Path(folder_paths.get_user_directory()) / "default" / "workflows"
    return user, Path(folder_paths.get_input_directory())


def _described(name: str, node: type) -> dict[str, JsonValue]:
    try:
        info: dict[str, object] = (
            node.GET_NODE_INFO_V1()  # type: ignore[attr-defined]
            if issubclass(node, io.ComfyNode)
            else {
                "input": node.INPUT_TYPES(),  # type: ignore[attr-defined]
                "output": node.RETURN_TYPES,  # type: ignore[attr-defined]
                "output_node": getattr(node, "OUTPUT_NODE", False) is True,
                "display_name": comfyui_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
                "python_module": getattr(node, "RELATIVE_PYTHON_MODULE", "nodes"),
            }
        )
    except Exception:  # noqa: BLE001  other people's code: ComfyUI leaves such a node out, too
        return {}
    # As the document says it: tuples are lists, and a node's own types are texts.
    return cast("dict[str, JsonValue]", json.loads(json.dumps(info, default=str)))


async def checked(prompt: Prompt) -> Prompt:
    """The part of a prompt that would run here, with its values as the nodes want them.

    ComfyUI does not check the nodes of an expansion, or convert their "20" to 20.

    Raises:
        WorkflowInvalid: ComfyUI would refuse it.
    """
    listed, _ = as_listed(prompt, local_schemas(classes_with_paths(prompt)))
    copy = cast("Prompt", json.loads(json.dumps(listed)))
    valid, error, outputs, node_errors = await execution.validate_prompt(
        str(uuid.uuid4()), copy, None
    )
    if not valid:
        answer = {"error": error, "node_errors": node_errors}
        raise refusal(json.dumps(answer, default=str).encode())
    wanted = set(execution_order(copy, [str(node_id) for node_id in outputs]))
    return {node_id: node for node_id, node in copy.items() if node_id in wanted}


def type_of_link(dynprompt: Any, link: object) -> str:  # ComfyUI's own class, without types
    """The type of a link, by the node that makes it; ``*`` if it is not a link, or of any type."""
    if not is_link(link):
        return ANY
    made_by = comfyui_nodes.NODE_CLASS_MAPPINGS[dynprompt.get_node(link[0])["class_type"]]
    kind = made_by.RETURN_TYPES[int(str(link[1]))]
    return str(kind) if isinstance(kind, str) else "COMBO"


async def check_address(name: str, node_id: str, title: str) -> None:
    """Check that the owner has named or confirmed where a node sends to.

    Prompts of the page are checked before they are queued; what is linked to the node's input is
    known only now.

    Raises:
        NotTrusted: They have not.
    """
    try:
        await asyncio.to_thread(check_addresses, [NamedAddress(name, node_id, title)])
    except NotTrusted as error:
        server = PromptServer.instance
        if error.page_asks is not None and server.client_id is not None:
            server.send_sync(CONFIRM_EVENT, error.page_asks, server.client_id)
        raise


def show_text(text: str, node_id: str) -> None:
    """Show a text on a node, in the page that runs the prompt."""
    server = PromptServer.instance
    server.send_progress_text(text, node_id, server.client_id)


_log = logging.getLogger(__name__)
_LEVELS = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}


class NodeWatcher:
    """The `watched.Watcher` of one node; used on ComfyUI's own event loop for prompts."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        # Older versions have no `ComfyAPI().execution`.
        self._execution = ComfyAPI.Execution()
        self._progress = (0.0, 1.0)

    def say(self, text: str) -> None:
        """Show a line on the node."""
        show_text(text, self._node_id)

    def log(self, message: str, level: str) -> None:
        """Into ComfyUI's log."""
        _log.log(_LEVELS.get(level, logging.INFO), "Comfy Remote: %s", message)

    async def progress(self, done: float, total: float) -> None:
        """Move the node's bar."""
        self._progress = (done, total)
        await self._execution.set_progress(done, total, self._node_id)

    async def preview(self, preview: Preview) -> None:
        """Show it on the node, as samplers do."""
        picture = decoded_preview(preview.data)
        if picture is not None:
            await self._execution.set_progress(
                *self._progress, self._node_id, preview_image=picture
            )

    def check(self) -> None:
        """Raises ComfyUI's own exception when the prompt has been interrupted."""
        throw_exception_if_processing_interrupted()
