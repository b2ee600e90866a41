"""What ComfyUI says on its WebSocket, decoded without any I/O.

The text messages are JSON ``{"type", "data"}``; the binary ones begin with a big-endian
32-bit event type (ComfyUI's ``protocol.py``: 1 preview, 3 text, 4 preview with metadata).
"""

from __future__ import annotations

import json
import struct
from typing import TypeAlias

from ...data_class import dataclass
from ...errors import RequestTooLarge
from ...json_text import check_json_values, parse_json
from ...types import JsonValue

__all__ = [
    "HANDSHAKE",
    "Message",
    "NodeTextMessage",
    "PreviewMessage",
    "TextMessage",
    "decode_binary",
    "decode_text",
]

HANDSHAKE = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
"""First message of a client that understands previews with metadata (type 4)."""

_MOST_VALUES = 500_000
_PREVIEW = 1
_TEXT = 3
_PREVIEW_WITH_METADATA = 4
_MEDIA_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A JSON message: ``executing``, ``progress``, ``progress_state``, ``executed`` …"""

    type: str
    data: dict[str, JsonValue]

    def text(self, key: str) -> str | None:
        """A field of `data` that is a string."""
        value = self.data.get(key)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class PreviewMessage:
    """A picture of work in progress; old servers say neither node nor prompt."""

    media_type: str
    data: bytes
    node_id: str | None = None
    prompt_id: str | None = None


@dataclass(frozen=True, slots=True)
class NodeTextMessage:
    """A text that a node shows while it runs; nothing says of which prompt."""

    node_id: str
    text: str


Message: TypeAlias = TextMessage | PreviewMessage | NodeTextMessage


def decode_text(text: str) -> TextMessage | None:
    """``None`` for anything that is not a message: custom nodes send their own."""
    try:
        check_json_values(text.encode("utf-8", "replace"), _MOST_VALUES)
        value = parse_json(text)
    except (ValueError, RequestTooLarge):
        return None
    match value:
        case {"type": str(kind), "data": dict(data)}:
            return TextMessage(kind, data)
        case {"type": str(kind)}:
            return TextMessage(kind, {})
        case _:
            return None


def decode_binary(frame: bytes) -> PreviewMessage | NodeTextMessage | None:
    """``None`` for frames that are neither previews nor texts, and for broken ones."""
    if len(frame) < 8:
        return None
    kind, second = struct.unpack(">II", frame[:8])
    if kind == _PREVIEW:
        return PreviewMessage(_MEDIA_TYPES.get(second, "image/jpeg"), frame[8:])
    if kind == _TEXT and len(frame) >= 8 + second:
        node, text = frame[8 : 8 + second], frame[8 + second :]
        return NodeTextMessage(node.decode(errors="replace"), text.decode(errors="replace"))
    if kind == _PREVIEW_WITH_METADATA and len(frame) >= 8 + second:
        try:
            metadata = parse_json(frame[8 : 8 + second])
        except ValueError:
            return None
        if not isinstance(metadata, dict):
            return None
        node_id = metadata.get("display_node_id") or metadata.get("node_id")
        return PreviewMessage(
            str(metadata.get("image_type", "image/jpeg")),
            frame[8 + second :],
            node_id=str(node_id) if node_id is not None else None,
            prompt_id=str(metadata["prompt_id"]) if metadata.get("prompt_id") else None,
        )
    return None
