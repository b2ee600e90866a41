"""The nodes of ours that send values of a workflow elsewhere, and where each names the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import WorkflowInvalid
from ..workflow.interface import REMOTE_PART
from .part_document import PartDocument

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["SENDING_NODES", "SendingNode"]

_Inputs = Mapping[str, "JsonValue"]


@dataclass(frozen=True, slots=True)
class SendingNode:
    """One class of nodes.

    Attributes:
        title: What the page calls it.
        input: The input that names an address, or a target; empty where none does.
        named: Reads that name from a node's inputs; ``None`` where they name nothing.
    """

    title: str
    input: str = ""
    named: Callable[[_Inputs], JsonValue] = lambda _inputs: None


def _target_of_part(inputs: _Inputs) -> str | None:
    text = inputs.get("part")
    try:
        return PartDocument.parse(text).name if isinstance(text, str) else None
    except WorkflowInvalid:
        return None  # the node says so


def _target_if_remote(inputs: _Inputs) -> JsonValue:
    return None if inputs.get("enable_remote") is False else inputs.get("target")


SENDING_NODES: Mapping[str, SendingNode] = {
    "ComfyRemoteNode": SendingNode("Remote API", "url", lambda inputs: inputs.get("url")),
    "RunPodRemoteExecute": SendingNode("RunPod Remote Execute", "target", _target_if_remote),
    REMOTE_PART: SendingNode("Remote part", "part", _target_of_part),
    # Deploys to the owner's own Modal account.
    "ComfyRemoteModalDeployment": SendingNode("Modal Deployment"),
}
"""By class. Each is looked for in what a page posts, before any of it runs."""
