"""What nodes show in ComfyUI's page besides their outputs, as much of it as an answer holds."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..events import ShownValues
from ..units import size_text

__all__ = ["MOST_SHOWN", "shown_within"]

MOST_SHOWN = 1_000_000
"""Bytes of JSON of all nodes together: it is meant to be looked at, and files are outputs."""


def shown_within(
    shown: Mapping[str, ShownValues], limit: int = MOST_SHOWN
) -> tuple[dict[str, ShownValues], list[str]]:
    """As many nodes as fit, in their order, and a warning for each that does not."""
    kept: dict[str, ShownValues] = {}
    warnings: list[str] = []
    left = limit
    for node_id, values in shown.items():
        size = len(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > left:
            warnings.append(
                f"Node {node_id} shows {size_text(size)} besides its outputs, more than is "
                "returned; its outputs are complete."
            )
            continue
        kept[node_id] = values
        left -= size
    return kept, warnings
