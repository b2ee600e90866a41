"""Nodes that exist in the editor only, and those whose work is done by the editor.

Source of facts: ComfyUI's frontend (Reroute, PrimitiveNode, Note), and how KJNodes, Easy Use
and rgthree's nodes describe themselves in their documentation.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GETTERS", "PRIMITIVE", "REFUSED", "REROUTE", "SETTERS", "VIRTUAL"]

PRIMITIVE: Final = "PrimitiveNode"
REROUTE: Final = "Reroute"
SETTERS: Final = {"SetNode", "easy setNode"}
GETTERS: Final = {"GetNode", "easy getNode"}

_PASSING = {REROUTE, "Reroute (rgthree)"}
_NOTES = {"Note", "MarkdownNote", "Label (rgthree)", "Bookmark (rgthree)"}
_SWITCHBOARDS = {
    # They change the modes of other nodes when clicked; the file has the outcome.
    "Fast Muter (rgthree)",
    "Fast Bypasser (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Actions Button (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Node Collector (rgthree)",
}
VIRTUAL: Final = frozenset({PRIMITIVE} | SETTERS | GETTERS | _PASSING | _NOTES | _SWITCHBOARDS)

REFUSED: Final = {
    "Random Unmuter (rgthree)": "it picks the nodes that run when the workflow is queued",
}
"""Classes whose effect only the editor can compute, and why."""
