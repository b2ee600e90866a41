"""Which node an output belongs to, where the worker does not say (the public worker-comfyui)."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..outputs import RemoteOutput
from ..workflow.prompt import Prompt, is_link

__all__ = ["node_of"]


def node_of(output: RemoteOutput, prompt: Prompt) -> str:
    """The node that made it, or that probably did: by its file name's prefix, else the last."""
    if output.node_id is not None:
        return output.node_id
    taken = {
        value[0]
        for node in prompt.values()
        for value in node["inputs"].values()
        if is_link(value) and isinstance(value, list)
    }
    last = [node_id for node_id in prompt if node_id not in taken] or list(prompt)
    for node_id in [*last, *prompt]:
        prefix = prompt[node_id]["inputs"].get("filename_prefix")
        name = PurePosixPath(prefix.replace("\\", "/")).name if isinstance(prefix, str) else ""
        if name and output.filename.startswith(f"{name}_"):
            return node_id
    return last[0]
